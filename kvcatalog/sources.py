"""What is to be stored: opened, hashed while it comes in, and removed once it is not needed any more."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from kvcatalog.blobs import BlobStore, LocalFile, translated
from kvcatalog.digest import HashingWriter, new_hasher
from kvcatalog.errors import InvalidValueError, NotFoundError
from kvcatalog.storage import refuse_what_is_kept
from kvcatalog.uris import file_uri

if TYPE_CHECKING:
    from kvcatalog.store.protocol import CatalogStore

Source = str | os.PathLike[str] | BinaryIO | HashingWriter

_READ_BYTES = 1 << 20
_ALL_BITS = 0o777

_log = logging.getLogger(__name__)


@contextmanager
def local_file(source: Source, store: BlobStore, catalog: CatalogStore | None, *, hashing: bool) -> Iterator[LocalFile]:
    """Open what is to be stored; a stream is written to a file without a name first, and hashed on the way.

    NotFoundError, and InvalidValueError for what is no regular file or is kept by somebody.
    """
    if not isinstance(source, str | os.PathLike | HashingWriter):
        writer, file = store.staging_file()
        with file, writer:
            file.known_sha256, file.known_size = _spool(source, writer, store.uri, hashing=hashing)
            yield file
        return
    path = source.path if isinstance(source, HashingWriter) else os.fspath(source)
    refuse_what_is_kept(path, store, catalog)
    try:
        file = LocalFile.open(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: there is no such file").advising("Check the path.") from error
    except (OSError, ValueError) as error:
        raise InvalidValueError("source", f"{path!r} cannot be read: {error}") from error
    with file:
        if isinstance(source, HashingWriter):
            file.known_sha256, file.known_size = source.sha256, source.size
        yield file


def _spool(source: BinaryIO, target: BinaryIO, place: str, *, hashing: bool) -> tuple[str | None, int]:
    """Copy a stream to its end, and return its digest and length; errors of the source pass as they are."""
    hasher = new_hasher() if hashing else None
    size = 0
    while data := source.read(_READ_BYTES):
        if hasher is not None:
            hasher.update(data)
        size += len(data)
        rest = memoryview(data)
        with translated(place):
            while rest:
                rest = rest[target.write(rest) :]
    with suppress(OSError, AttributeError):  # not every stream is a file
        mode = os.fstat(source.fileno()).st_mode
        if stat.S_ISREG(mode):  # what is private stays private in the store
            os.fchmod(target.fileno(), mode & os.fstat(target.fileno()).st_mode & _ALL_BITS)
    return None if hasher is None else hasher.hexdigest(), size


def remove_source(file: LocalFile, catalog: CatalogStore | None, stored_path: str | None) -> None:
    """Remove a temporary file that is not needed any more, unless its name is a blob's, or another file's by now.

    `stored_path` is where its bytes lie, if on this host.
    """
    if file.path is None:
        return
    if stored_path is not None and os.path.realpath(file.path) == os.path.realpath(stored_path):
        return
    if catalog is not None and catalog.references(file_uri(file.path)):
        return
    try:
        if os.path.samestat(os.lstat(file.path), os.fstat(file.descriptor)):
            os.unlink(file.path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s is stored, but cannot be removed: %s", file.path, error)
