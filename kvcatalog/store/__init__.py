"""The catalog itself: `open_catalog`, and what every catalog can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, overload

from kvcatalog.errors import CatalogMissingError, ConfigError, InvalidValueError

if TYPE_CHECKING:
    from kvcatalog.config import CatalogConfig
    from kvcatalog.models import CreatedCatalog
    from kvcatalog.store.catalog import Catalog
    from kvcatalog.store.lmdb_catalog import LmdbCatalog


@overload
def open_catalog(
    target: os.PathLike[str], *, create: bool = True, read_only: bool = False, command: str = "library"
) -> LmdbCatalog: ...


@overload
def open_catalog(
    target: str | os.PathLike[str] | CatalogConfig,
    *,
    create: bool = True,
    read_only: bool = False,
    command: str = "library",
) -> Catalog: ...


def open_catalog(
    target: str | os.PathLike[str] | CatalogConfig,
    *,
    create: bool = True,
    read_only: bool = False,
    command: str = "library",
) -> Catalog:
    """Open a catalog, making it first where there is none; use it as a context manager, or close it.

    `target` is the path of a catalog's folder, `dynamodb://TABLE?region=REGION` (with `&endpoint_url=URL` for a server
    other than AWS), or a CatalogConfig. A table is made by `init_catalog` only. `command` is what the journal names as
    the one who changed something. Raises CatalogUnavailableError or one of its kinds: CatalogMissingError where there
    is no catalog and `create` is False or `read_only` is True.
    """
    if isinstance(target, str | os.PathLike):
        path, durable, map_size_bytes = os.fspath(target), True, None
    elif not hasattr(target, "durability"):
        raise InvalidValueError("path", f"must be a path or a CatalogConfig, not {type(target).__name__}")
    else:
        path, durable, map_size_bytes = target.path, target.durability == "full", target.map_size_bytes
    _check_path(path)
    if path.startswith("dynamodb://"):
        from kvcatalog.store.dynamo_opening import open_dynamo_catalog

        return open_dynamo_catalog(path, read_only=read_only, command=command)
    if "://" in path or path.lower().startswith("dynamodb:"):
        error = ConfigError(f"catalog {path}: only the path of a folder, or dynamodb://TABLE, can be opened")
        raise error.advising("Give a folder, or a table as 'dynamodb://TABLE?region=REGION', in small letters.")
    from kvcatalog.store.opening import open_lmdb_catalog

    return open_lmdb_catalog(
        path, create=create, read_only=read_only, durable=durable, map_size_bytes=map_size_bytes, command=command
    )


def init_catalog(target: str | os.PathLike[str] | CatalogConfig, *, recovery: bool = True) -> CreatedCatalog:
    """Make a catalog where there is none, and return which is there now; it may be called again.

    In DynamoDB that makes the table, billed on demand, and with `recovery` it can be brought back to any second of the
    last 35 days. Raises as `open_catalog`.
    """
    from kvcatalog.models import CreatedCatalog

    path = os.fspath(target) if isinstance(target, str | os.PathLike) else target.path
    if path.startswith("dynamodb://"):
        from kvcatalog.store.dynamo_opening import create_dynamo_catalog

        return create_dynamo_catalog(path, point_in_time_recovery=recovery)
    is_new = False
    try:
        catalog = open_catalog(target, create=False)
    except CatalogMissingError:
        catalog, is_new = open_catalog(target), True
    with catalog:
        return CreatedCatalog(os.path.abspath(path), catalog.identity, is_new)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a catalog is named by a URL, and has no folder of its own."""
    return "://" in os.fspath(path)


def _check_path(path: object) -> None:
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidValueError("path", f"{path!r} names no folder")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InvalidValueError("path", f"{path!r} names no folder") from error
