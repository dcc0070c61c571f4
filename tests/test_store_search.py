"""Searching: every filter and order gives what going through all records would, page by page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvcatalog import DocumentRecord, LmdbCatalog, RegistrationRequest, filters, open_catalog, parse_filter, schema
from kvcatalog.errors import InvalidValueError
from kvcatalog.filters import Condition, Filter
from kvcatalog.kv.table import Index
from kvcatalog.models import SortOrder
from kvcatalog.store import reading, searching

START = datetime(2025, 1, 1, tzinfo=UTC)
FILTERS = st.lists(
    st.sampled_from(
        [
            "artifact=a1*",
            "artifact=a1",
            "artifact!=a1",
            "resolver=r1",
            "run=run-0",
            "run=",
            "type=text/html",
            "sha256=none",
            f"sha256={'1' * 64}",
            "sha256=1*",
            "url=https://example.org/3",
            "bytes>3",
            "created>=2025-01-03",
            "created<2025-01-06",
            "id>5",
            "id<=20",
            "uri=file:///b*",
        ]
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmdbCatalog]:
    requests = [
        RegistrationRequest(
            artifact_id=f"a{number % 13}",
            source_url=f"https://example.org/{number % 5}",
            resolver=f"r{number % 3}-{number}" if number % 7 else "r1",
            bytes=number % 9,
            storage_uri=f"file:///{'ab'[number % 2]}/{number}",
            content_type=("application/pdf", "text/html; charset=x", None)[number % 3],
            sha256=str(number % 4) * 64 if number % 4 else None,
            run_id=f"run-{number % 2}" if number % 5 else None,
            created_at=START + timedelta(days=number % 8),
        )
        for number in range(40)
    ]
    with open_catalog(tmp_path_factory.mktemp("search") / "catalog") as opened:
        assert len(list(opened.register_many(requests))) == 40
        yield opened


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILTERS, st.sampled_from([None, "id", "artifact", "created"]), st.booleans(), st.integers(1, 15))
def test_pages_together_are_all_that_passes_in_order(
    catalog: LmdbCatalog, filters: list[str], sort: SortOrder | None, reverse: bool, limit: int
) -> None:
    where = parse_filter(filters)
    found: list[DocumentRecord] = []
    after = None
    while True:
        page = catalog.search(where, sort=sort, reverse=reverse, limit=limit, after=after)
        assert len(page.records) == limit or page.next is None
        found += page.records
        after = page.next
        if after is None:
            break
        assert page.records
    expected = [record for record in catalog.iter_records() if where.matches(record)]
    assert sorted(found, key=lambda record: record.id) == expected
    order = {"by_key": "artifact", "by_created": "created"}.get(searching.plan(where, sort).table.name, "id")
    positions = [position(record, order) for record in found]
    assert positions == sorted(positions, reverse=reverse)


@pytest.mark.parametrize("index", [each for each in schema.DOCUMENT_INDEXES if each.field], ids=lambda each: each.field)
def test_a_filter_is_answered_from_the_index_of_its_field(catalog: LmdbCatalog, index: Index[Any]) -> None:
    field: Any = index.field
    records = list(catalog.iter_records())
    for value in {filters._getter(field)(record) for record in records} - {None}:
        where = Filter((Condition(field, "=", value),))
        assert searching.plan(where, None).table is index.table
        assert catalog.search(where, limit=99).records == tuple(filter(where.matches, records)) != ()


def position(record: DocumentRecord, sort: str) -> Any:
    return {"id": record.id, "artifact": record.artifact_id.encode(), "created": record.created_at}[sort]


def test_a_long_walk_takes_several_steps(catalog: LmdbCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(catalog.iter_records())
    monkeypatch.setattr(reading, "STEP_ROWS", 7)
    assert list(catalog.iter_records()) == whole
    page = catalog.search(parse_filter(["bytes=8"]), limit=3)
    assert [record.id for record in page.records] == [record.id for record in whole if record.bytes == 8][:3]


def test_a_record_that_goes_away_does_not_break_the_pages(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "catalog") as catalog:
        for number in range(6):
            catalog.register(artifact_id=f"a{number}", source_url="u", resolver="r", bytes=1, storage_uri="file:///x")
        page = catalog.search(limit=3)
        catalog.delete(page.records[-1].id)
        assert [record.id for record in catalog.search(limit=3, after=page.next).records] == [4, 5, 6]


@pytest.mark.parametrize("after", ["", "zz", "00", "öö", "93a26964c2c400c400"])
def test_a_page_token_of_something_else_is_refused(catalog: LmdbCatalog, after: str) -> None:
    with pytest.raises(InvalidValueError, match="after"):
        catalog.search(after=after)


def test_a_page_token_of_another_order_is_refused(catalog: LmdbCatalog) -> None:
    token = catalog.search(limit=1).next
    with pytest.raises(InvalidValueError, match="another order"):
        catalog.search(after=token, reverse=True)


def test_a_limit_below_one_is_refused(catalog: LmdbCatalog) -> None:
    with pytest.raises(InvalidValueError, match="limit"):
        catalog.search(limit=0)
