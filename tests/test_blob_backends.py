"""Every kind of blob store is known by its name in the settings and by the URIs of its roots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from kvcatalog.blob_backends import BACKENDS, container_of, places_above, probe_at, settings_of, store_at, store_of
from kvcatalog.config import StorageConfig
from kvcatalog.errors import RootUnreachableError

ROOTS: dict[str, list[dict[str, Any]]] = {
    "fs": [{"root_dir": "/data/docs"}, {"root_dir": "/ü %20?#/x"}],
    "s3": [{"s3_bucket": "b", "s3_prefix": prefix} for prefix in ("", "docs", "docs/", "a/b c/ü%20")],
}


def configs() -> list[StorageConfig]:
    return [StorageConfig(**settings, backend=name) for name, each in ROOTS.items() for settings in each]  # type: ignore[arg-type]


def test_every_kind_that_settings_name_is_there() -> None:
    assert set(get_args(StorageConfig.model_fields["backend"].annotation)) == set(BACKENDS) == set(ROOTS)


@pytest.mark.parametrize("config", configs(), ids=lambda config: store_of(config).uri)
def test_a_uri_leads_back_to_its_root(config: StorageConfig) -> None:
    store = store_of(config)
    again = store_at(store.uri, lambda: StorageConfig(s3_endpoint_url="http://elsewhere"))
    assert (type(again), again.uri) == (type(store), store.uri)
    assert again.path_of(store.uri_of("a/b")) == "a/b"
    settings = settings_of(store.uri)
    assert settings is not None
    assert settings["backend"] == config.backend
    assert store_of(StorageConfig(**settings)).uri == store.uri


def test_the_other_settings_stay(tmp_path: Path) -> None:
    asked: list[StorageConfig] = []

    def config() -> StorageConfig:
        asked.append(StorageConfig(s3_endpoint_url="not a URL"))
        return asked[-1]

    store_at(tmp_path.as_uri(), config)
    assert asked == []
    with pytest.raises(Exception, match="not a URL"):
        store_at("s3://bucket", config).read_marker()
    assert len(asked) == 1


def test_a_uri_of_no_kind_names_no_root() -> None:
    assert settings_of("gs://bucket/docs") is None
    with pytest.raises(RootUnreachableError, match="gs://bucket/docs"):
        store_at("gs://bucket/docs", StorageConfig)
    with pytest.raises(RootUnreachableError, match="gs://bucket/docs"):
        probe_at("gs://bucket/docs", StorageConfig())


def test_a_bucket_is_what_its_blobs_lie_in() -> None:
    assert container_of("s3://b/a/b.pdf") == container_of("s3://b/") == container_of("s3://b") == "s3://b"
    assert [container_of(uri) for uri in ("file:///a/b", "/a/b", "gs://b/a", "")] == [None] * 4
    assert list(places_above("s3://b/a/b")) == ["s3://b/a", "s3://b"]
    assert list(places_above("s3://b")) == list(places_above("file:///a/b")) == []
