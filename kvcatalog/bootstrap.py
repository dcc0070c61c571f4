"""The composition root: what a configuration asks for, built and given back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from msgspec import to_builtins

from kvcatalog.config import ContentDownloadConfig
from kvcatalog.errors import CatalogMissingError
from kvcatalog.finalize import finalize_candidate_download
from kvcatalog.pipeline import Limits, Manifest, Pipeline, config_hash, new_run_id
from kvcatalog.pipeline.running import Finalize
from kvcatalog.storage import open_storage, refuse_among_blobs
from kvcatalog.store import open_catalog
from kvcatalog.store.protocol import CatalogStore


class Services(NamedTuple):
    """The catalog, None where it is switched off, and `finalize_candidate_download` with all that is configured."""

    catalog: CatalogStore | None
    finalize: Finalize


@contextmanager
def open_services(
    config: ContentDownloadConfig, *, command: str = "library", read_only: bool = False
) -> Iterator[Services]:
    """Open what a configuration names, for as long as the context lasts.

    A catalog that is not there is made; with `read_only` there is then none. Errors as `open_catalog` and
    `open_storage`.
    """
    catalog = _catalog(config, command=command, read_only=read_only)
    try:
        if not read_only:
            open_storage(config.storage, catalog)  # what is wrong with the root as a whole is said before any work
        finalize = partial(
            finalize_candidate_download, catalog=catalog, cfg_storage=config.storage, cfg_catalog=config.catalog
        )
        yield Services(catalog, finalize)
    finally:
        if catalog is not None:
            catalog.close()


@contextmanager
def open_pipeline(
    config: ContentDownloadConfig,
    *,
    run_id: str | None = None,
    manifest_path: str | None = None,
    limits: Limits | None = None,
    jobs: int = 4,
    rehearsal: bool = False,
    command: str = "library",
) -> Iterator[Pipeline]:
    """Open a pipeline as configured; the manifest lies beside the catalog unless a path is given.

    A rehearsal changes nothing at all. Errors as `open_catalog` and `Manifest`.
    """
    limits = limits or Limits()
    run_id = run_id or new_run_id()
    with open_services(config, command=command, read_only=rehearsal) as (catalog, finalize):
        build = partial(
            Pipeline, finalize, catalog=catalog, run_id=run_id, limits=limits, jobs=jobs, rehearsal=rehearsal
        )
        if rehearsal:
            yield build(manifest=None)
            return
        settings = {"config": config.model_dump(mode="json"), "limits": to_builtins(limits)}
        path = manifest_path or default_manifest_path(config)
        refuse_among_blobs("manifest", path)
        with Manifest(path, run_id=run_id, config_hash=config_hash(settings)) as manifest:
            yield build(manifest=manifest)


def default_manifest_path(config: ContentDownloadConfig) -> str:
    """Return where the manifest lies that no path is given for: beside a local catalog, else in this folder."""
    folder = "" if config.catalog.backend == "dynamodb" else os.path.dirname(os.path.abspath(config.catalog.path))
    return os.path.join(folder, "manifest.jsonl")


def _catalog(config: ContentDownloadConfig, *, command: str, read_only: bool) -> CatalogStore | None:
    if not config.catalog.enabled:
        return None
    try:
        return open_catalog(config.catalog, create=not read_only, read_only=read_only, command=command)
    except CatalogMissingError:
        if read_only:
            return None
        raise
