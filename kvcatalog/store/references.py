"""What refers to a place, whoever put it there: the one question before a file may go."""

from __future__ import annotations

from kvcatalog.kv.keys import prefix_end
from kvcatalog.kv.transaction import ReadTransaction
from kvcatalog.models import Reference
from kvcatalog.schema import CONFLICTS_BY_STORAGE_URI, ID_BYTES, LINKS, id_of, location_hash, location_key
from kvcatalog.store import listing, reading
from kvcatalog.store.roots import RootMap


def references(transaction: ReadTransaction, uri: str, roots: RootMap) -> list[Reference]:
    """Return every record, variant, conflict and link that refers to a storage URI.

    Conflicts at a content-addressed place are not among them: there the place itself says which content it holds.
    """
    found = [Reference("document", each.id, each.sha256) for each in listing.documents_at(transaction, uri, roots)]
    variants = listing.variants_at(transaction, uri, roots)
    found += [Reference("variant", each.document_id, each.sha256) for each in variants]
    for root, path in roots.candidates(uri):
        for value in transaction.values(CONFLICTS_BY_STORAGE_URI, location_hash(root, path)):
            for _, row in reading.conflict_rows(transaction, id_of(value)):
                if (row.root, row.path) == (root, path):
                    digest = None if row.digest is None else row.digest.hex()
                    found.append(Reference("conflict", id_of(value), digest))
        prefix = location_key(root, path)
        for key, _ in transaction.items(LINKS, prefix, prefix_end(prefix)):
            if len(key) == len(prefix) + ID_BYTES:
                found.append(Reference("link", id_of(key[len(prefix) :]), None))
    return found
