"""What must hold of a catalog and its blobs whatever happened to those who wrote them; each check returns findings."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kvcatalog import layout, schema
from kvcatalog.blobs import BlobStore, LocalFile
from kvcatalog.digest import sha256_stream
from kvcatalog.errors import BlobNotFoundError
from kvcatalog.fs_layout import FileBlobStore
from kvcatalog.store import reading
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from kvcatalog.store.roots import RootMap
from kvcatalog.uris import file_path

Reference = tuple[str, str, int | None, str | None]
"""Who refers to a blob, where it lies, and its size and digest, as far as they are known."""


def references(catalog: LmdbCatalog) -> list[Reference]:
    """Return all that refers to blobs: documents, variants, conflicts and links, from one snapshot."""
    return list(_references(catalog))


def _references(catalog: LmdbCatalog) -> Iterator[Reference]:
    with catalog._environment.read() as transaction:
        roots = RootMap(reading.read_roots(transaction))
        contents: list[tuple[str, schema.DocumentRow | schema.VariantRow | schema.ConflictRow]] = []
        for key, value in transaction.items(schema.DOCUMENTS):
            contents.append((f"document {schema.id_of(key)}", schema.DOCUMENT_CODEC.decode(key, value)))
        for key, value in transaction.items(schema.VARIANTS):
            contents.append((f"variant {schema.id_of(key)}", schema.VARIANT_CODEC.decode(key, value)))
        for key, value in transaction.items(schema.CONFLICTS):
            contents.append((f"conflict of {schema.id_of(key[:8])}", schema.CONFLICT_CODEC.decode(key, value)))
        for owner, row in contents:
            digest = None if row.digest is None else row.digest.hex()
            yield owner, roots.uri((row.root, row.path), row.digest), row.size, digest
        for key, value in transaction.items(schema.LINKS):
            link = schema.LINK_CODEC.decode(key, value)
            yield f"link of {link.document_id}", roots.uri((link.root, link.path), None), None, None


def missing(catalog: LmdbCatalog, store: BlobStore) -> list[str]:
    """Return what refers to a blob that is not there while others write.

    What refers to it both before and after the look still did so at that moment, since ids are never given again.
    """
    gone = {each[:2] for each in references(catalog) if _size(store, each[1]) is None}
    still = {each[:2] for each in references(catalog)} if gone else set()
    return [f"{owner}: nothing lies at {uri}" for owner, uri in sorted(gone & still)]


def dangling(catalog: LmdbCatalog, store: BlobStore) -> list[str]:
    """Return what refers to a blob that is not there, or has another size or digest; nobody may write meanwhile."""
    findings = []
    known: dict[str, tuple[str, int] | None] = {}
    for owner, uri, size, digest in references(catalog):
        if uri not in known:
            known[uri] = _content(store, uri)
        content = known[uri]
        if content is None:
            findings.append(f"{owner}: nothing lies at {uri}")
        elif size not in {None, content[1]} or digest not in {None, content[0]}:
            findings.append(f"{owner}: other bytes lie at {uri}")
    return findings


def staged(store: BlobStore) -> list[str]:
    """Return the staging files below a root; there are none once nobody writes and the root was opened."""
    with_staging = isinstance(store, FileBlobStore)
    return [f"staging file {blob.path}" for blob in store.walk(layout.STAGING_PATH)] if with_staging else []


def _content(store: BlobStore, uri: str) -> tuple[str, int] | None:
    path = store.path_of(uri)
    try:
        if path is not None:
            with store.open(path) as stream:
                return sha256_stream(stream)
        with LocalFile.open(file_path(uri) or "") as file:
            return file.read_sha256(), file.size
    except (BlobNotFoundError, FileNotFoundError):
        return None


def _size(store: BlobStore, uri: str) -> int | None:
    path = store.path_of(uri)
    if path is not None:
        found = store.stat(path)
        return None if found is None else found.size
    local = file_path(uri) or ""
    return os.stat(local).st_size if os.path.exists(local) else None
