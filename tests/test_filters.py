from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvcatalog import clock, values
from kvcatalog.errors import FilterSyntaxError
from kvcatalog.filters import Condition, Filter, parse_filter
from kvcatalog.models import DocumentRecord

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1) | st.text(r"*\ a", min_size=1)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
moments = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
records = st.builds(
    DocumentRecord,
    id=st.integers(1, values.ID_MAX),
    artifact_id=texts,
    source_url=texts,
    resolver=texts,
    content_type=st.none() | texts,
    bytes=st.integers(0, values.INTEGER_MAX),
    sha256=st.none() | digests,
    storage_uri=texts,
    created_at=moments,
    updated_at=moments,
    run_id=st.none() | texts,
)
TEXT_FIELDS = {
    "artifact": "artifact_id",
    "url": "source_url",
    "resolver": "resolver",
    "uri": "storage_uri",
    "run": "run_id",
}


def document(**changes: object) -> DocumentRecord:
    facts: dict[str, object] = {
        "id": 7,
        "artifact_id": "doi:10.1234/abc",
        "source_url": "https://example.org/a.pdf",
        "resolver": "unpaywall",
        "content_type": "Application/PDF; charset=binary",
        "bytes": 1_000_000,
        "sha256": "ab" * 32,
        "storage_uri": "file:///docs/a.pdf",
        "created_at": datetime(2025, 1, 1, 12, tzinfo=UTC),
        "updated_at": datetime(2025, 1, 2, tzinfo=UTC),
        "run_id": "run-1",
    }
    return DocumentRecord(**(facts | changes))  # type: ignore[arg-type]


def exact(field: str, value: str | float | datetime | None) -> Condition:
    if isinstance(value, datetime):
        return Condition(field, "=", clock.to_micros(value))  # type: ignore[arg-type]
    return Condition(field, "=", value)  # type: ignore[arg-type]


@given(records)
def test_a_filter_from_a_records_own_values_matches_it_alone(record: DocumentRecord) -> None:
    conditions = [exact(field, getattr(record, attribute)) for field, attribute in TEXT_FIELDS.items()]
    conditions += [exact(field, getattr(record, field)) for field in ("id", "bytes", "sha256")]
    conditions += [exact("created", record.created_at), exact("updated", record.updated_at)]
    conditions.append(exact("type", values.media_type(record.content_type)))
    where = parse_filter(map(str, conditions))
    assert where == Filter(tuple(conditions))
    assert where.matches(record)
    for condition in conditions:
        if condition.field not in ("created", "updated"):
            assert not parse_filter([str(condition).replace("=", "!=", 1)]).matches(record)


@given(texts, texts, st.data())
def test_a_prefix_matches_what_begins_with_it(value: str, other: str, data: st.DataObject) -> None:
    start = value[: data.draw(st.integers(0, len(value)))]
    condition = Condition("artifact", "=", start, prefix=True)
    where = parse_filter([str(condition)])
    assert where == Filter((condition,))
    assert where.matches(document(artifact_id=value))
    assert where.matches(document(artifact_id=other)) == other.startswith(start)


@given(st.sampled_from(["<", "<=", ">", ">="]), st.integers(0, values.INTEGER_MAX), st.integers(0, values.INTEGER_MAX))
def test_sizes_are_compared_as_numbers(operator: str, stored: int, asked: int) -> None:
    expected = {"<": stored < asked, "<=": stored <= asked, ">": stored > asked, ">=": stored >= asked}[operator]
    assert parse_filter([f"bytes{operator}{asked}"]).matches(document(bytes=stored)) == expected


@given(st.sampled_from(["=", "<", "<=", ">", ">="]), moments, st.timedeltas(timedelta(days=-2), timedelta(days=2)))
def test_a_date_stands_for_its_whole_day(operator: str, moment: datetime, distance: timedelta) -> None:
    assume(1 < moment.year < 9999)
    day = (moment + distance).date()
    stored = moment.date()
    expected = {"=": stored == day, "<": stored < day, "<=": stored <= day, ">": stored > day, ">=": stored >= day}
    where = parse_filter([f"created{operator}{day.isoformat()}"])
    assert where.matches(document(created_at=moment)) == expected[operator]


@given(st.lists(st.sampled_from(["resolver=unpaywall", "resolver!=unpaywall", "bytes>5", "bytes<5", "id=7"])), records)
def test_several_expressions_must_all_hold(expressions: list[str], record: DocumentRecord) -> None:
    expected = all(parse_filter([expression]).matches(record) for expression in expressions)
    assert parse_filter(expressions).matches(record) == expected


@given(
    st.text()
    | st.builds(str.__add__, st.sampled_from(["bytes<", "created>", "type=", "run=", "id="]), st.text("0123-:TZ.kMiB*"))
)
def test_what_is_understood_survives_being_written_out(expression: str) -> None:
    with contextlib.suppress(FilterSyntaxError):
        where = parse_filter([expression])
        assert parse_filter(map(str, where.conditions)) == where


@pytest.mark.parametrize(
    ("expression", "size"),
    [
        ("bytes=1MB", 1_000_000),
        ("bytes=1MiB", 1 << 20),
        ("bytes=1.5kB", 1500),
        ("bytes=0.5KiB", 512),
        ("bytes=4gib", 4 << 30),
        ("bytes=2TB", 2 * 10**12),
        ("bytes=3TiB", 3 << 40),
        ("bytes=12B", 12),
    ],
)
def test_units_of_size(expression: str, size: int) -> None:
    assert parse_filter([expression]).conditions == (Condition("bytes", "=", size),)


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ("type=application/pdf", True),
        ("type=APPLICATION/pdf;x=y", True),
        ("type=application/*", True),
        ("type=text/*", False),
        ("content_type!=text/html", True),
        ("sha256=AB*", True),
        ("sha256=none", False),
        ("sha256!=none", True),
        ("run=", False),
        ("run=*", True),
        ("url=https://example.org/*", True),
        ("uri=file:///docs/a.pdf", True),
        ("artifact=doi:10.1234/*", True),
        (r"artifact=doi:10.1234/\*", False),
        ("created=2025-01-01T12:00:00Z", True),
        ("created=2025-01-01T13:00+01:00", True),
        ("created<2025-01-01T12:00:00.000001", True),
        ("updated>2025-01-01", True),
        ("id>=7", True),
    ],
)
def test_what_an_expression_means(expression: str, *, matches: bool) -> None:
    assert parse_filter([expression]).matches(document()) is matches


@pytest.mark.parametrize(
    ("expression", "place", "reason"),
    [
        ("", 1, "a name is missing"),
        ("=x", 1, "a name is missing"),
        ("colour=red", 1, "'colour' is not one of id, artifact"),
        ("resolver", 9, "must follow the name"),
        ("resolver = x", 9, "must follow the name"),
        ("resolver>x", 9, "takes = and != only"),
        ("resolver=", 10, "must not be empty"),
        ("created!=2025-01-01", 8, "takes =, <"),
        ("bytes>1XB", 7, "not a size"),
        ("bytes>1.0001kB", 7, "whole number of bytes"),
        ("bytes=99999999TB", 7, "must be from 0 to"),
        ("created<2025-02-30", 9, "is not a time"),
        ("created<20250101", 9, "is not a time"),
        ("created=0001-01-01T00:00+10:00", 9, "outside the years"),
        ("sha256=abcd", 8, "64 hex digits"),
        ("sha256=xyz*", 8, "64 hex digits"),
        ("type=;charset=x", 6, "must be a media type"),
        ("type=text/html;c*", 6, "parameters are not compared"),
        ("id=x", 4, "is not an id"),
        ("id=٣", 4, "is not an id"),
        ("url=a\0b", 5, "NUL"),
    ],
)
def test_a_mistake_is_named_with_its_place(expression: str, place: int, reason: str) -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse_filter(["id=1", expression])
    message = str(caught.value)
    assert message.startswith(f"{expression}: at character {place}: ")
    assert reason in message


def test_a_filter_without_conditions_lets_everything_pass() -> None:
    assert parse_filter([]) == Filter()
    assert Filter().matches(document())


def test_filters_are_values() -> None:
    where = parse_filter(["resolver=unpaywall", "bytes>1"])
    assert where.matches(document())
    again = pickle.loads(pickle.dumps(where))
    assert again == where
    assert hash(again) == hash(where)
    assert again.matches(document())


def test_the_language_needs_neither_click_nor_pydantic() -> None:
    script = "import kvcatalog.filters, sys; sys.exit(bool({'click', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
