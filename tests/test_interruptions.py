"""An interruption at any line that reads leaves nothing open, and nobody else's error in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kvcatalog import open_catalog
from kvcatalog.kv import environment
from kvcatalog.store.protocol import CatalogStore
from tests.support import interrupted_at


class Stopped(BaseException):
    """As Control-C, which the test's own tools catch."""


@pytest.mark.parametrize(
    "work",
    [
        lambda catalog: catalog.get_by_id(1),
        lambda catalog: catalog.stats(),
        lambda catalog: list(catalog.iter_records()),
        lambda catalog: catalog.record_sighting(1, "run"),
    ],
    ids=["get", "stats", "records", "write"],
)
def test_a_catalog_closes_after_an_interruption_at_any_line(
    tmp_path: Path, work: Callable[[CatalogStore], object]
) -> None:
    path = tmp_path / "catalog"
    with open_catalog(path) as catalog:
        catalog.register(artifact_id="a", source_url="u", resolver="r", bytes=1, storage_uri="s3://b/k")
    kept: list[BaseException] = []
    step, interrupted = 0, True

    def works(catalog: CatalogStore) -> None:
        try:
            work(catalog)
        except KeyboardInterrupt as interruption:
            kept.append(interruption)  # with all of its frames, as a debugger keeps them
            raise Stopped from interruption

    while interrupted:
        step += 1
        interrupted = False
        with suppress(Stopped), open_catalog(path) as catalog:
            try:
                interrupted_at(step, lambda catalog=catalog: works(catalog))  # type: ignore[misc]
            except Stopped:
                interrupted = True
                raise
        assert str(path) not in environment._open_environments, step
    assert step > 20
    with open_catalog(path) as catalog:
        assert catalog.stats().documents == 1
