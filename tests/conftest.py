"""Fixtures that several test modules share."""

import pytest

from kvcatalog.kv import engine


@pytest.fixture(params=[engine.ENGINE_0_9, engine.ENGINE_1_0], ids=["engine-0.9", "engine-1.0"])
def engine_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make new catalogs with each of the engines that the binding carries."""
    kind: int = request.param
    monkeypatch.setattr(engine, "DEFAULT_ENGINE", kind)
    return kind
