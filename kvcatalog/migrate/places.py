"""Where the files that a manifest names lie now."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from kvcatalog.migrate.lines import BrokenLineError
from kvcatalog.uris import absolute_path, file_path, has_scheme, uri_of

if TYPE_CHECKING:
    from pathlib import Path


class Place(Struct, gc=False):
    """A location as a URI; `path` is None where it is no local file, `size` in bytes where the file was found."""

    uri: str
    path: str | None
    size: int | None

    @property
    def is_missing(self) -> bool:
        """Tell whether this is a local file that was not found."""
        return self.path is not None and self.size is None


class Places:
    """Finds files: an absolute path as it stands, a relative one below each of `bases` in turn."""

    def __init__(self, bases: list[str]) -> None:
        self._bases = list(dict.fromkeys(bases))
        self._missing_folder: str | None = None

    def find(self, location: str) -> Place:
        """Return the first place of a location where there is a regular file, or else its first place at all.

        BrokenLineError for a name that no file can have.
        """
        try:
            if location.startswith("/"):
                return self._place(absolute_path(location))
            if has_scheme(location):
                return self._place_of_uri(location)
            return self._find_below_bases(location)
        except ValueError as error:
            raise BrokenLineError("invalid-path") from error

    def _find_below_bases(self, location: str) -> Place:
        first = self._place(absolute_path(location, self._bases[0]))
        if first.size is not None:
            return first
        others = (self._place(absolute_path(location, base)) for base in self._bases[1:])
        return next((place for place in others if place.size is not None), first)

    def uris(self, location: str) -> set[str]:
        """Return the URIs of all places where `find` looks for a location that it found valid."""
        if has_scheme(location):
            return {self._place_of_uri(location).uri}
        return {uri_of(absolute_path(location, base)) for base in self._bases}

    def _place_of_uri(self, uri: str) -> Place:
        local = file_path(uri)
        if local is None:
            uri.encode()
            return Place(uri, None, None)
        return self._place(local)

    def _place(self, path: str) -> Place:
        uri = uri_of(path)
        folder = path[: path.rfind("/")]
        if folder == self._missing_folder:  # many files of a store that is not there lie in the same one
            return Place(uri, path, None)
        try:
            status = os.stat(path)
        except OSError:
            self._missing_folder = None if os.path.lexists(folder or "/") else folder
            return Place(uri, path, None)
        return Place(uri, path, status.st_size if stat.S_ISREG(status.st_mode) else None)


def bases(manifest_path: Path | None, base_dir: str | os.PathLike[str] | None) -> list[str]:
    """Return the folders below which relative paths are looked up; standard input counts as lying here."""
    folder = absolute_path(manifest_path.parent if manifest_path else ".")
    given = [absolute_path(base_dir)] if base_dir else []
    return [*given, folder, absolute_path("..", folder)]
