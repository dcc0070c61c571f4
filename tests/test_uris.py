import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcatalog.uris import absolute_path, file_path, file_uri, has_scheme

NAMES = st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_path_comes_back_from_its_uri(names: list[bytes]) -> None:
    path = absolute_path(os.fsdecode(b"/" + b"/".join(names)))
    uri = file_uri(path)
    assert uri.isascii()
    assert file_path(uri) == str(path)
    assert uri == Path(path).as_uri()


def test_paths_are_normalised_by_rule_alone(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    assert file_uri(tmp_path / "link" / ".." / "x") == (tmp_path / "x").as_uri()
    assert absolute_path("//a//b/./c/../d") == "/a/b/d"
    assert absolute_path("/../x") == "/x"
    assert absolute_path("b", "/a") == "/a/b"
    assert absolute_path("/b", "/a") == "/b"
    assert absolute_path("b") == str(Path.cwd() / "b")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
        ("file:///a/../b", "/b"),
        ("file:///a?b#c", "/a?b#c"),
        ("file://host/a", None),
        ("file://", None),
        ("file:a", None),
        ("file:///a%00b", None),
        ("file:///\ud800", None),
        ("s3://bucket/a", None),
        ("/a", None),
        ("", None),
    ],
)
def test_only_local_file_uris_name_a_path(uri: str, path: str | None) -> None:
    assert file_path(uri) == path


def test_what_has_a_scheme_is_no_path() -> None:
    assert has_scheme("s3://bucket/key")
    assert has_scheme("file:///x")
    assert not has_scheme("C:/x")
    assert not has_scheme("/a://b")
    assert not has_scheme("pdfs/x.pdf")
