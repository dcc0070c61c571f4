"""The object gateway of Ceph for tests: one monitor, one OSD that keeps its objects in memory, one gateway.

    python -m tools.servers.ceph start DIR
    python -m tools.servers.ceph stop DIR

Needs root and a Debian whose packages can be reached: what is missing is installed. It refuses wrong secrets, and its
conditional requests hold, except for objects that were sent in parts.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from tools.servers.processes import Access, ServerUnavailableError, free_ports, main, run, start, wait_for_port

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common")
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
KEY, SECRET = "test", "testtest"
DEVICE_BYTES = 2 << 30

CONFIGURATION = """
[global]
fsid = {cluster}
mon_host = [v2:127.0.0.1:{monitor},v1:127.0.0.1:{monitor_v1}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# Without cephx the gateway does not find its monitor.
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {folder}/keyring
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.ceph.log
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {device_bytes}
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_data_avail_warn = 2
mon_data_avail_crit = 1

[client.rgw.a]
rgw_data = {folder}
rgw_frontends = beast endpoint=127.0.0.1:{gateway}
"""

CAPABILITIES = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"),
    "client.rgw.a": ("mon", "allow rwx", "osd", "allow rwx", "mgr", "allow rw"),
}


def install() -> None:
    """Install the packages if a program of theirs is missing."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid():
        raise ServerUnavailableError("Ceph is not installed, and only root can install its packages")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run(["apt-get", "update"])
    run(["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES])


def started(folder: Path) -> Access:
    """Start it in a folder, whose path must be short: sockets lie there."""
    if os.geteuid():
        raise ServerUnavailableError("Ceph needs root")
    install()
    monitor, monitor_v1, gateway = free_ports(3)
    cluster = str(uuid.uuid4())
    configuration, keyring, monitors = folder / "ceph.conf", folder / "keyring", folder / "monitors"
    configuration.write_text(
        CONFIGURATION.format(
            cluster=cluster,
            monitor=monitor,
            monitor_v1=monitor_v1,
            gateway=gateway,
            folder=folder,
            device_bytes=DEVICE_BYTES,
        )
    )
    conf = ["--conf", str(configuration)]
    for number, (name, pairs) in enumerate(CAPABILITIES.items()):
        caps = [part for who, what in zip(pairs[::2], pairs[1::2], strict=True) for part in ("--cap", who, what)]
        made = [] if number else ["--create-keyring"]
        run(["ceph-authtool", str(keyring), *made, "--gen-key", "--name", name, *caps])
    addresses = f"[v2:127.0.0.1:{monitor},v1:127.0.0.1:{monitor_v1}]"
    run(["monmaptool", "--create", "--clobber", "--fsid", cluster, "--addv", "a", addresses, str(monitors)])
    for name in ("mon", "osd"):
        (folder / name).mkdir(exist_ok=True)
    run(["ceph-mon", *conf, "--id", "a", "--mkfs", "--monmap", str(monitors), "--keyring", str(keyring)])
    start(folder, "ceph-mon", ["ceph-mon", *conf, "--id", "a", "--foreground"])
    wait_for_port(folder, "ceph-mon", monitor)
    disk = str(uuid.uuid4())
    run(["ceph", *conf, "--connect-timeout", "30", "osd", "new", disk, "0"])
    run(["ceph-osd", *conf, "--id", "0", "--mkfs", "--osd-uuid", disk])
    start(folder, "ceph-osd", ["ceph-osd", *conf, "--id", "0", "--foreground"])
    start(folder, "radosgw", ["radosgw", *conf, "--name", "client.rgw.a", "--foreground"])
    wait_for_port(folder, "radosgw", gateway)
    user = ["--uid", "tests", "--display-name", "tests", "--access-key", KEY, "--secret-key", SECRET]
    run(["radosgw-admin", *conf, "user", "create", *user])
    return {"endpoint": f"http://127.0.0.1:{gateway}", "key": KEY, "secret": SECRET}


if __name__ == "__main__":
    main(started, "The object gateway of Ceph")
