"""Paths of blobs are pure, stay below their root, and tell contents apart."""

import os
from unicodedata import category

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvcatalog import UnsafePathError, layout

ANY_TEXT = st.text(st.characters(codec=None), max_size=300)
DIGEST = "ab" * 32


@given(ANY_TEXT, ANY_TEXT)
@example("../..", "../../etc/passwd")
@example("cas", "sha256")
@example(".kvcatalog", "root.json")
@example("\ud800", "\0")
@example("x" * 10_000, "y" * 10_000 + ".pdf")
@example("水" * 500, "水" * 500 + ".pdf")
def test_a_policy_path_is_two_harmless_names_whatever_comes_from_outside(artifact_id: str, basename: str) -> None:
    path = layout.policy_relative_path(artifact_id, basename)
    assert layout.checked_path(path) == path
    folder, name = path.split("/")
    for part in (folder, name):
        assert 0 < len(part.encode()) <= 180
        assert part[0] not in ".-"
        assert all(char.isalnum() or category(char)[0] in "MN" or char in "._-+=@,~" for char in part)
    assert folder.lower() != "cas"
    assert layout.policy_relative_path(artifact_id, basename) == path


@given(ANY_TEXT, ANY_TEXT)
def test_every_name_for_a_content_fits_a_file_system_and_differs(artifact_id: str, basename: str) -> None:
    path = layout.policy_relative_path(artifact_id, basename)
    names = list(layout.distinct_paths(path, lambda: DIGEST))
    assert names[0] == path
    assert len(set(names)) == 4
    assert all(len(os.path.basename(name).encode()) <= 255 for name in names)
    assert {os.path.splitext(name)[1] for name in names if len(os.path.splitext(path)[1]) <= 16} <= {
        os.path.splitext(path)[1]
    }


def test_names_are_readable() -> None:
    assert layout.policy_relative_path("doi:10.1234/abc", "paper.pdf") == "doi_10.1234_abc/paper.pdf"
    assert layout.policy_relative_path("https://example.org/a?b", "über 1.pdf") == "https_example.org_a_b/über_1.pdf"
    names = list(layout.distinct_paths("a/paper.pdf", lambda: DIGEST))
    assert names[1] == "a/paper~abababab.pdf"


def test_long_names_that_differ_stay_different() -> None:
    first, second = (layout.policy_relative_path("x" * 400 + end, "a.pdf") for end in "12")
    assert first != second


def test_the_digest_is_not_asked_for_where_the_first_name_does() -> None:
    def asked() -> str:
        raise AssertionError

    assert next(layout.distinct_paths("a/b", asked)) == "a/b"


@pytest.mark.parametrize(
    ("url", "content_type", "variant", "name"),
    [
        ("https://x.org/a/paper.pdf?download=1#page=2", None, None, "paper.pdf"),
        ("https://x.org/a/paper%20one.pdf", None, None, "paper one.pdf"),
        ("https://x.org/download?id=3", "application/pdf; charset=binary", None, "download.pdf"),
        ("https://x.org/download", "application/x-unknown", None, "download"),
        ("https://x.org", "text/html", None, "index.html"),
        ("https://x.org/a/", None, None, "a"),
        ("https://x.org/paper.pdf", "text/plain", "text", "paper.text.txt"),
        ("https://x.org/paper.pdf", None, "supplement", "paper.supplement.pdf"),
        ("http://[bad/paper.pdf", None, None, "paper.pdf"),
        ("file:///data/a.tar.gz", None, None, "a.tar.gz"),
    ],
)
def test_the_name_of_a_download(url: str, content_type: str | None, variant: str | None, name: str) -> None:
    assert layout.basename_of(url, content_type=content_type, variant=variant) == name


@given(ANY_TEXT)
def test_any_url_gives_some_name(url: str) -> None:
    assert layout.checked_path(layout.policy_relative_path("a", layout.basename_of(url)))


@pytest.mark.parametrize("path", ["", "/", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b"])
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        layout.checked_path(path)
