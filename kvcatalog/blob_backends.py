"""Which kinds of blob stores there are: the one place that knows what a root's URI and a configuration stand for.

Each kind has a line in `BACKENDS`, under the name that `storage.backend` gives it. What a kind needs is imported when a
root of it is met, and a folder needs no configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcatalog.blobs import BlobStore, Capability
from kvcatalog.errors import RootUnreachableError
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig


class _Backend(NamedTuple):
    """A kind of store: how a root of it is written, and which settings a URI stands for, None if it is of another kind.

    `store` opens the root that a configuration names, without looking at it; `probe` tries what it can do.
    """

    form: str
    settings: Callable[[str], dict[str, str] | None]
    store: Callable[[StorageConfig], BlobStore]
    probe: Callable[[StorageConfig], Iterator[Capability]]


def _folder_settings(uri: str) -> dict[str, str] | None:
    folder = file_path(uri)
    return None if folder is None else {"root_dir": folder}


def _probe_folder(config: StorageConfig) -> Iterator[Capability]:
    from kvcatalog.fs_layout.probing import probe

    return probe(config.root_dir)


def _bucket_settings(uri: str) -> dict[str, str] | None:
    if not uri.startswith("s3://"):
        return None
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return {"s3_bucket": bucket, "s3_prefix": prefix and f"{prefix}/"}


def _bucket(config: StorageConfig) -> BlobStore:
    from kvcatalog.s3_layout import S3BlobStore

    return S3BlobStore.from_config(config)


def _probe_bucket(config: StorageConfig) -> Iterator[Capability]:
    from kvcatalog.s3_layout.probing import probe

    return probe(config)


BACKENDS = {
    "fs": _Backend("a folder", _folder_settings, lambda config: FileBlobStore(config.root_dir), _probe_folder),
    "s3": _Backend("s3://BUCKET/PREFIX", _bucket_settings, _bucket, _probe_bucket),
}


def settings_of(uri: str) -> dict[str, Any] | None:
    """Return the settings of storage that name the root at a URI, None if no kind of store has such URIs."""
    for name, backend in BACKENDS.items():
        settings = backend.settings(uri)
        if settings is not None:
            return {"backend": name, **settings}
    return None


def store_of(config: StorageConfig) -> BlobStore:
    """Return the store of the root that a configuration names, without any check, whether it is there or not."""
    return BACKENDS[config.backend].store(config)


def store_at(uri: str, config: Callable[[], StorageConfig]) -> BlobStore:
    """Return the store of the root at a URI, without any check; RootUnreachableError if no kind of store has such URIs.

    `config` gives all other settings, and is not asked for a folder, which has none.
    """
    folder = file_path(uri)
    return store_of(_with_root(uri, config())) if folder is None else FileBlobStore(folder)


def probe_at(uri: str, config: StorageConfig) -> Iterator[Capability]:
    """Yield what works at a root, found out by trying; errors as those of its store where nothing can be stored."""
    named = _with_root(uri, config)
    return BACKENDS[named.backend].probe(named)


def container_of(uri: str) -> str | None:
    """Return the URI of the largest root that a URI may lie below (a bucket's), None for a local path or no place."""
    scheme, separator, rest = uri.partition("://")
    if not separator or settings_of(uri) is None or file_path(uri) is not None:
        return None
    return f"{scheme}://{rest.partition('/')[0]}"


def places_above(uri: str) -> Iterator[str]:
    """Yield the URIs of the places that a root in a container lies in, the nearest first, the container last."""
    container = container_of(uri)
    while container is not None and len(uri) > len(container):
        uri = uri.rpartition("/")[0]
        yield uri


def _with_root(uri: str, config: StorageConfig) -> StorageConfig:
    settings = settings_of(uri)
    if settings is None:
        raise RootUnreachableError(f"{uri}: no store is known for such URIs")
    return config.model_copy(update=settings)
