from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcatalog.cli.output import FORMATS, Format, Output
from kvcatalog.cli.text import size_text, visible
from kvcatalog.errors import InvalidValueError

hostile = st.text() | st.text(
    st.sampled_from("\x00\x07\t\n\r\x1b\x7f\x85\x9b\u200e\u200f\u202a\u202e\u2066\u2069\u2028\ud800\udcff[31m,\"'=| ")
)
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def rows_of(names: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.builds(dict, id=st.integers(1), name=names), min_size=1, max_size=4)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(output_format: Format, rows: list[dict[str, Any]], *, terminal: bool = False, detail: bool = False) -> str:
    stream = Terminal() if terminal else io.StringIO()
    output = Output(output_format, stream)
    (output.details if detail else output.rows)(rows, list(rows[0]) if rows else ["id"])
    return stream.getvalue()


def obeyed(text: str) -> set[str]:
    """Return the characters that a terminal would obey, but for the line ends that the program writes."""
    return {
        character
        for character in text
        if character not in "\n\r"
        and (unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in BIDIRECTIONAL)
    } | (set(text) & {"\u200e", "\u200f"})


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@given(hostile, hostile, st.sampled_from(FORMATS), st.booleans())
def test_no_control_or_bidirectional_character_reaches_a_terminal(
    first: str,
    second: str,
    output_format: Format,
    detail: bool,
) -> None:
    rows = [{"id": first, "name": second, "nested": [{"note": first}]}]
    text = written(output_format, rows, terminal=True, detail=detail)
    assert obeyed(without_styles(text)) == set()
    assert text.count("\x1b") == len(re.findall(r"\x1b\[[0-9;]*m", text))


@given(hostile)
def test_visible_text_is_one_line_and_leaves_harmless_text_alone(text: str) -> None:
    assert obeyed(visible(text)) == set()
    assert "\n" not in visible(text)
    if not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in text):
        assert visible(text) == text


def test_what_is_hidden_is_written_out() -> None:
    assert visible("a\x1b[31m\u202eb\udcff\x9b") == "a\\x1b[31m\\u202eb\\udcff\\x9b"


@pytest.mark.parametrize("hidden", "\ufeff\xad\u200b\u2060\u2064\u180e\ufff9\U000e0041")
def test_what_nobody_would_see_is_written_out(hidden: str) -> None:
    assert visible(f"a{hidden}b") in {f"a\\x{ord(hidden):02x}b", f"a\\u{ord(hidden):04x}b", f"a\\U{ord(hidden):08x}b"}
    assert hidden not in written("table", [{"id": hidden}], terminal=True)


def test_letters_that_are_joined_stay_joined() -> None:
    for text in ("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469"):
        assert visible(text) == text


@given(rows_of(hostile))
def test_json_gives_values_back(rows: list[dict[str, Any]]) -> None:
    text = written("json", rows)
    assert text.isascii()
    # JSON writes two surrogates side by side as it writes the character that they make.
    expected = [
        row | {"name": row["name"].encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")} for row in rows
    ]
    assert json.loads(text) == expected
    assert [json.loads(line) for line in written("jsonl", rows).splitlines()] == expected


@given(rows_of(hostile.filter(lambda text: "\0" not in text)))
def test_csv_gives_values_back(rows: list[dict[str, Any]]) -> None:
    read = list(csv.reader(io.StringIO(written("csv", rows), newline="")))
    assert read == [[*rows[0]], *([str(row["id"]), row["name"]] for row in rows)]


def test_every_form_of_value_in_every_format() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "ok": True, "bytes": 1_500_000, "at": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), "none": None},
        {"id": 12, "ok": False, "bytes": 7, "at": None, "none": None},
    ]
    assert written("table", rows).splitlines() == [
        "id  ok     bytes  at                           none",
        " 1  yes  1500000  2025-01-02T03:04:05.000000Z     -",
        "12  no         7  -                               -",
    ]
    assert written("csv", rows).splitlines() == [
        "id,ok,bytes,at,none",
        "1,true,1500000,2025-01-02T03:04:05.000000Z,",
        "12,false,7,,",
    ]
    assert json.loads(written("json", rows))[0]["at"] == "2025-01-02T03:04:05.000000Z"
    assert written("ids", rows).splitlines() == ["1", "12"]


def test_a_terminal_gets_readable_sizes_and_pipes_get_exact_ones() -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "used_bytes": 1_500_000, "sha256": "ab" * 32}]
    assert "1.5 MB" in written("table", rows, terminal=True)
    assert "ab" * 6 in written("table", rows, terminal=True)
    assert "ab" * 7 not in written("table", rows, terminal=True)
    assert "ab" * 32 in written("table", rows, terminal=True, detail=True)
    assert "1500000" in written("table", rows)
    assert "ab" * 32 in written("table", rows)


def test_long_values_are_folded_on_a_terminal_and_never_cut() -> None:
    url = "https://example.org/" + "x" * 500
    text = written("table", [{"id": 1, "url": url}], terminal=True)
    assert re.sub(r"[^x]", "", without_styles(text).partition("org")[2]) == "x" * 500
    assert url in written("table", [{"id": 1, "url": url}])


def test_where_a_terminal_is_too_narrow_for_columns_each_row_stands_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{f"column {number}": number * 10**6 for number in range(8)}] * 2
    monkeypatch.setenv("COLUMNS", "100")
    assert len(written("table", rows, terminal=True).splitlines()) == 3
    monkeypatch.setenv("COLUMNS", "30")
    lines = written("table", rows, terminal=True).splitlines()
    assert lines == [*(f"column {number}  {number * 10**6}" for number in range(8)), ""] * 2


def test_a_long_value_makes_its_own_row_long_and_no_other() -> None:
    rows = [
        {"id": 1, "url": "x" * 500, "run": "a"},
        {"id": 2, "url": "y", "run": "b"},
        {"id": 3, "url": "zz", "run": "c"},
    ]
    assert written("table", rows).splitlines() == [
        "id  url  run",
        f" 1  {'x' * 500}  a",
        " 2  y    b",
        " 3  zz   c",
    ]


@pytest.mark.parametrize("output_format", FORMATS)
def test_an_error_in_place_of_all_rows_is_no_empty_result(output_format: Format) -> None:
    def failing(count: int) -> Iterator[dict[str, Any]]:
        yield from ({"id": number} for number in range(count))
        raise InvalidValueError("id", "no")

    stream = io.StringIO()
    with pytest.raises(InvalidValueError):
        Output(output_format, stream).rows(failing(0), ["id"])
    assert stream.getvalue() == ""
    with pytest.raises(InvalidValueError):
        Output(output_format, stream).rows(failing(2), ["id"])
    assert stream.getvalue() == written(output_format, [{"id": 0}, {"id": 1}])


def test_ids_that_there_are_not_are_refused_before_anything_is_done() -> None:
    waiting = iter([{"id": 1}])
    with pytest.raises(click.UsageError, match="no identifiers"):
        Output("ids", io.StringIO()).rows(waiting, ["id"], identity=None)
    assert list(waiting) == [{"id": 1}]


def test_details_stand_one_to_a_line_with_lists_below() -> None:
    nested = [{"run": f"r{number}"} for number in range(23)]
    rows: list[dict[str, Any]] = [{"id": 1, "runs": nested, "none": []}, {"id": 2, "runs": [], "none": []}]
    lines = written("table", rows, detail=True).splitlines()
    assert lines[:4] == ["id    1", "runs (23)", "  run", "  r0"]
    assert lines[-3:] == ["  ... and 3 more, which --json lists", "", "id    2"]
    assert json.loads(written("json", rows, detail=True)) == rows


def test_nothing_found_is_an_empty_result() -> None:
    assert {name: written(name, []) for name in ("table", "json", "jsonl", "csv", "ids")} == {
        "table": "",
        "json": "[]\n",
        "jsonl": "",
        "csv": "id\r\n",
        "ids": "",
    }


def test_an_item_is_an_object_and_has_no_id() -> None:
    stream = io.StringIO()
    Output("json", stream).item({"documents": 3, "by": [{"a": 1}]})
    assert json.loads(stream.getvalue()) == {"documents": 3, "by": [{"a": 1}]}
    stream = io.StringIO()
    Output("csv", stream).item({"documents": 3, "by": [{"a": 1}]})
    assert stream.getvalue() == "documents\r\n3\r\n"
    with pytest.raises(click.UsageError, match="no identifiers"):
        Output("ids", io.StringIO()).item({"documents": 3})


def test_a_long_table_streams() -> None:
    stream = io.StringIO()
    seen: list[int] = []

    def rows() -> Any:
        for number in range(2500):
            seen.append(stream.tell())
            yield {"id": number}

    Output("table", stream).rows(rows(), ["id"])
    assert seen[999] == 0
    assert seen[1000] > 0
    assert len(stream.getvalue().splitlines()) == 2501


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_500_000, "1.5 MB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (12_345_678_901, "12.3 GB"),
        (2**63 - 1, "9.22 EB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text
