"""OpenStack Swift with its S3 interface, as a real object store for tests: one proxy, one disk, no replicas.

    python -m tools.servers.swift start DIR
    python -m tools.servers.swift stop DIR

It is installed from PyPI into an environment of its own, `.venv-swift` in the checkout unless the environment variable
KVCATALOG_SWIFT_VENV names another folder. It refuses wrong checksums and wrong secrets; its conditional requests let
more than one writer through.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from tools.servers.processes import (
    Access,
    ServerUnavailableError,
    free_ports,
    installed,
    main,
    run,
    start,
    wait_for_port,
)

REQUIREMENT = "swift>=2.36,<3"
ACCOUNT, USER, SECRET = "test", "tester", "testing"

STORES = ("account", "container", "object")

# Swift's own tools would take a Python start for each step and ring.
RINGS = """
import sys
from swift.common.ring import RingBuilder
for argument in sys.argv[1:]:
    name, port = argument.split(":")
    builder = RingBuilder(2, 1, 0)
    builder.add_dev(dict(region=1, zone=1, weight=1.0, ip="127.0.0.1", port=int(port), device="disk"))
    builder.rebalance()
    builder.get_ring().save(name + ".ring.gz")
"""

CONSTANTS = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = only
default = yes
"""

COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
user = {user}
workers = 0
log_level = WARNING
# There is one of each: one that is slow on a busy machine must not count as lost, nor its listing be updated later.
conn_timeout = 30
node_timeout = 60
container_update_timeout = 60
error_suppression_limit = 1000000
"""

STORE = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

PROXY = f"""
[pipeline:main]
pipeline = catch_errors listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
allow_no_owner = true
[filter:tempauth]
use = egg:swift#tempauth
user_{ACCOUNT}_{USER} = {SECRET} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""


def started(folder: Path) -> Access:
    """Start it in a folder."""
    programs = installed(REQUIREMENT, "swift", "swift-proxy-server")
    (folder / "disk").mkdir(exist_ok=True)
    _need_attributes(folder / "disk")
    port, *ports = free_ports(1 + len(STORES))
    stores = dict(zip(STORES, ports, strict=True))
    (folder / "swift.conf").write_text(CONSTANTS)
    rings = [f"{name}:{of_store}" for name, of_store in stores.items()]
    run([str(programs / "python"), "-W", "ignore", "-c", RINGS, *rings], folder)
    user = pwd.getpwuid(os.geteuid()).pw_name
    for name, bound in {**stores, "proxy": port}.items():
        part = PROXY if name == "proxy" else STORE.format(name=name)
        configuration = folder / f"{name}.conf"
        configuration.write_text(COMMON.format(port=bound, folder=folder, user=user) + part)
        command = [str(programs / "python"), str(programs / f"swift-{name}-server"), str(configuration)]
        start(folder, name, command, {"PYTHONWARNINGS": "ignore"})
    for name, bound in {**stores, "proxy": port}.items():
        wait_for_port(folder, name, bound)
    return {"endpoint": f"http://127.0.0.1:{port}", "key": f"{ACCOUNT}:{USER}", "secret": SECRET}


def _need_attributes(folder: Path) -> None:
    try:
        os.setxattr(folder, "user.kvcatalog", b"1")
    except OSError as error:
        raise ServerUnavailableError(f"Swift needs extended attributes, and {folder} has none: {error}") from error


if __name__ == "__main__":
    main(started, "OpenStack Swift with its S3 interface")
