"""Storage URIs and locations: which root a URI lies below, and the URI of a root and a path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvcatalog.errors import CorruptRecordError
from kvcatalog.layout import CAS, cas_relative_path
from kvcatalog.models import Root

Location = tuple[int | None, str | None]
"""A root's id and the path below it; (None, URI) outside all roots; path None for the content-addressed path."""

_FOLDER_DIGITS, _NAME_DIGITS = 2, 62


class RootMap:
    """The storage roots of one moment; immutable."""

    def __init__(self, roots: Iterable[Root]) -> None:
        self.roots = {root.id: root for root in roots}
        # The longest first, so that a root inside another one wins.
        self._bases = sorted(
            ((_base(root.uri), root) for root in self.roots.values()), key=lambda pair: len(pair[0]), reverse=True
        )
        starts = [(f"{base}{CAS}/{root.cas_prefix}/", root.id) for base, root in self._bases]
        self._cas = [(start, len(start) + _FOLDER_DIGITS, root_id) for start, root_id in starts]

    def locate(self, uri: str, digest: bytes | None) -> Location:
        """Return the location under which a URI is stored."""
        for base, root in self._bases:
            if uri.startswith(base):
                if digest is not None and uri == base + cas_relative_path(root.cas_prefix, digest):
                    return root.id, None
                path = uri[len(base) :]
                if path:
                    return root.id, path
        return None, uri

    def candidates(self, uri: str) -> Iterator[tuple[int | None, str]]:
        """Yield every location, paths written out, under which a URI may be stored: roots may have come after it."""
        for base, root in self._bases:
            if uri.startswith(base) and len(uri) > len(base):
                yield root.id, uri[len(base) :]
        yield None, uri

    def cas_digest(self, uri: str) -> bytes | None:
        """Return the digest that a content-addressed URI below a root spells; None for any other URI."""
        place = self.cas_place(uri)
        return None if place is None else place[1]

    def cas_place(self, uri: str) -> tuple[int, bytes] | None:
        """Return the root and the digest of a content-addressed URI; None for any other URI."""
        for start, slash, root_id in self._cas:
            if uri.startswith(start) and uri[slash : slash + 1] == "/" and len(uri) == slash + _NAME_DIGITS + 1:
                digits = uri[slash - _FOLDER_DIGITS : slash] + uri[slash + 1 :]
                try:
                    digest = bytes.fromhex(digits)
                except ValueError:
                    return None
                return (root_id, digest) if digest.hex() == digits else None
        return None

    def cas_start(self, root_id: int) -> str:
        """Return what the URIs of a root's content-addressed blobs begin with; two hex digits, `/` and 62 follow."""
        root = self.roots[root_id]
        return _base(root.uri) + cas_relative_path(root.cas_prefix, b"").removesuffix("/")

    def uri(self, location: Location, digest: bytes | None) -> str:
        """Return the URI of a location; CorruptRecordError if its root is not known."""
        root_id, path = location
        if root_id is None:
            return path or ""
        root = self.roots.get(root_id)
        if root is None:
            raise CorruptRecordError(f"a record lies in root {root_id}, which the catalog does not know")
        if path is None:
            path = cas_relative_path(root.cas_prefix, digest or b"")
        return _base(root.uri) + path


def _base(uri: str) -> str:
    return uri if uri.endswith("/") else uri + "/"
