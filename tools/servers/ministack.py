"""ministack, as a real DynamoDB for tests: one process on the loopback interface that keeps all in memory.

    python -m tools.servers.ministack start DIR
    python -m tools.servers.ministack stop DIR

It is installed from PyPI into an environment of its own, `.venv-ministack` in the checkout unless the environment
variable KVCATALOG_MINISTACK_VENV names another folder. Its conditional writes and transactions let one writer through;
it takes any key, never throttles, never tells of a conflict, and puts any number of rows into one answer.
"""

from __future__ import annotations

from pathlib import Path

from tools.servers.processes import Access, free_ports, installed, main, start, wait_for_port

REQUIREMENT = "ministack>=1.4,<2"

# Where many processes come at once, its web server would let their connections wait until they give up. It reads the
# condition of a query anew for every item of the partition; that is remembered, which changes no answer.
PROGRAM = """
import functools
from hypercorn.config import Config
from ministack.app import main
from ministack.services import dynamodb

def remembered(function):
    known = functools.lru_cache(1000)(function)
    return lambda *arguments: list(found) if isinstance(found := known(*arguments), list) else found

Config.backlog = 4096
for name in {"_tokenize", "_condition_syntax_error"} & vars(dynamodb).keys():
    setattr(dynamodb, name, remembered(getattr(dynamodb, name)))
main()
"""


def started(folder: Path) -> Access:
    """Start it in a folder."""
    python = installed(REQUIREMENT, "ministack", "ministack") / "python"
    (port,) = free_ports(1)
    settings = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "dynamodb"}
    start(folder, "ministack", [str(python), "-c", PROGRAM], settings)
    wait_for_port(folder, "ministack", port)
    return {"endpoint": f"http://127.0.0.1:{port}", "key": "test", "secret": "test"}


if __name__ == "__main__":
    main(started, "ministack, with DynamoDB")
