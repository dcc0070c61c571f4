"""What is installed and what is shipped."""

import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata, resources
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def test_installed_version_is_the_one_of_the_checkout() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    assert metadata.version("kvcatalog") == project["version"]


def test_types_are_announced() -> None:
    assert resources.files("kvcatalog").joinpath("py.typed").is_file()


def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    present = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "kvcatalog").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "kvcatalog/py.typed" in present
    assert shipped == present
