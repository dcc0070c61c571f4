"""What README says of this checkout holds."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
FOLDERS = ("kvcatalog/", "tests/", "tools/")


def paths(text: str) -> Iterator[str]:
    """Yield every path of the checkout that stands in a fenced block or between backticks."""
    fence = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
    code = fence.findall(text) + re.findall(r"`([^`\n]+)`", fence.sub("", text))
    for word in " ".join(code).split():
        if word.startswith(FOLDERS):
            yield word


def test_paths_in_readme_exist_and_commands_can_be_run() -> None:
    named = set(paths((CHECKOUT / "README.md").read_text("utf-8")))
    assert {"tools/quickstart", "tools/test"} <= named
    assert {path for path in named if not (CHECKOUT / path).exists()} == set()
    commands = {path for path in named if (CHECKOUT / path).is_file() and not Path(path).suffix}
    assert {path for path in commands if not os.access(CHECKOUT / path, os.X_OK)} == set()
