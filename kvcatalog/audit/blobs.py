"""Records held against the blobs in the storage roots, and back. Sizes are looked at, bytes are `verify`'s matter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from kvcatalog import layout
from kvcatalog.blob_backends import store_at
from kvcatalog.blobs import BlobStore
from kvcatalog.checks import Finding
from kvcatalog.errors import RootUnreachableError, UnsafePathError
from kvcatalog.removal.glances import Glances
from kvcatalog.removal.sorting import SortedRows
from kvcatalog.storage import root_state
from kvcatalog.store.protocol import CatalogStore
from kvcatalog.uris import file_path

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig

_LOOKED_FOR_AT_ONCE = 1000

_Wrong = Literal["blob missing", "blob size"]


def audit_blobs(catalog: CatalogStore, config: StorageConfig) -> Iterator[Finding]:
    """Yield records, variants and conflicts whose blob is missing or has another size, and blobs without any.

    A root that is not there, or not this catalog's, is one finding, and nothing is said of its blobs; nor of what lies
    outside all roots and is no local file. Others may write meanwhile: what is stored or taken away at the moment may
    be found. A bucket is asked with the endpoint and region of the configuration.
    """
    roots = _Roots(catalog, config)
    yield from roots.unusable()
    with SortedRows(_Claim) as in_buckets, Glances() as glances:
        for number, claim in enumerate(_claims(catalog)):
            place = roots.place_in_bucket(claim.storage_uri)
            if place is None:
                yield from roots.look(claim, glances)
            else:
                in_buckets.add(claim._replace(place=place, number=number))
        for claim in in_buckets:
            yield from roots.look(claim, glances)
    yield from roots.unknown()


class _Claim(NamedTuple):
    """What a row says of its blob; in a bucket claims are looked at in the order of `place`, then `number`."""

    place: str
    number: int
    storage_uri: str
    bytes: int
    owner: str
    document_id: int
    variant_id: int | None


def _claims(catalog: CatalogStore) -> Iterator[_Claim]:
    for record in catalog.iter_records():
        yield _Claim("", 0, record.storage_uri, record.bytes, "document", record.id, None)
        for each in catalog.get_variants(record.id):
            yield _Claim("", 0, each.storage_uri, each.bytes, f"variant {each.variant}", record.id, each.id)
    for conflict in catalog.get_conflicts():
        yield _Claim("", 0, conflict.storage_uri, conflict.bytes, "conflict", conflict.document_id, None)


class _Roots:
    def __init__(self, catalog: CatalogStore, config: StorageConfig) -> None:
        self._catalog = catalog
        known = sorted(catalog.roots(), key=lambda root: len(root.uri), reverse=True)  # the innermost first
        self._states = {root.uri: root_state(root, config, catalog) for root in known}
        self._stores: dict[str, BlobStore | None] = {
            root.uri: store_at(root.uri, lambda: config) if self._states[root.uri] == "ok" else None for root in known
        }

    def unusable(self) -> Iterator[Finding]:
        for uri, state in self._states.items():
            if state != "ok":
                yield Finding("root", f"the root is {state}: nothing is said of its blobs", storage_uri=uri)

    def place_in_bucket(self, uri: str) -> str | None:
        """Return the URI of a place in a bucket as it is spelled there; None for all other places."""
        root = self._root_of(uri)
        store = None if root is None else self._stores[root]
        path = None if store is None else store.path_of(uri)
        return store.uri_of(path) if store is not None and path is not None and store.local_path("-") is None else None

    def look(self, claim: _Claim, glances: Glances) -> Iterator[Finding]:
        """Yield what is wrong with the blob of a row."""
        uri, size = claim.storage_uri, claim.bytes
        root = self._root_of(uri)
        try:
            wrong = self._glance_outside(uri, size) if root is None else self._glance(root, uri, size, glances)
        except RootUnreachableError:
            self._stores[root or ""] = None
            yield Finding(
                "root", "the root has become unreachable: nothing more is said of its blobs", storage_uri=root
            )
            return
        if wrong is not None:
            kind, text = wrong
            yield Finding(
                kind,
                f"the blob of {claim.owner} {text}",
                document_id=claim.document_id,
                variant_id=claim.variant_id,
                storage_uri=uri,
            )

    def unknown(self) -> Iterator[Finding]:
        """Yield the blobs that nothing refers to."""
        for root, store in self._stores.items():
            if store is None:
                continue
            candidates: list[str] = []
            for blob in store.walk():
                uri = store.uri_of(blob.path)
                if self._root_of(uri) != root or layout.OURS in blob.path.split("/"):
                    continue  # another root inside this one
                if not self._catalog.references(uri):
                    candidates.append(uri)
                if len(candidates) >= _LOOKED_FOR_AT_ONCE:
                    yield from self._without_conflicts(candidates)
                    candidates.clear()
            yield from self._without_conflicts(candidates)

    def _without_conflicts(self, candidates: list[str]) -> Iterator[Finding]:
        """Yield those to which no conflict refers; at a content-addressed place that cannot be looked up."""
        left = dict.fromkeys(candidates)
        for conflict in self._catalog.get_conflicts() if left else ():
            left.pop(conflict.storage_uri, None)
        for uri in left:
            if not self._catalog.references(uri):  # it may have been registered meanwhile
                yield Finding("blob unknown", "nothing refers to the blob", storage_uri=uri)

    def _root_of(self, uri: str) -> str | None:
        return next((root for root in self._stores if uri.startswith(f"{root}/")), None)

    def _glance(self, root: str, uri: str, size: int, glances: Glances) -> tuple[_Wrong, str] | None:
        store = self._stores[root]
        path = None if store is None else store.path_of(uri)
        if store is None or path is None:
            return None
        try:
            found = glances.at(store, path)
        except UnsafePathError as error:
            return "blob missing", f"cannot be reached: {error}"
        return _judge(None if found is None else found.size, size)

    def _glance_outside(self, uri: str, size: int) -> tuple[_Wrong, str] | None:
        path = file_path(uri)
        if path is None or not os.path.isdir(os.path.dirname(path)):
            return None  # no local file, or its folder is not there, as where a mount is gone
        try:
            return _judge(os.stat(path).st_size, size)
        except (FileNotFoundError, NotADirectoryError):
            return _judge(None, size)
        except OSError:
            return None


def _judge(found: int | None, size: int) -> tuple[_Wrong, str] | None:
    if found is None:
        return "blob missing", "is missing"
    return None if found == size else ("blob size", f"has {found} bytes, and not {size}")
