"""The process that reads a catalog for `examine`: a finding a line, and between them how far it is."""

from __future__ import annotations

import sys

import msgspec

from kvcatalog.kv.apart import serve
from kvcatalog.store.opening import open_lmdb_catalog


def _serve(folder: str, locking: str) -> None:
    write = sys.stdout.buffer.write
    encode = msgspec.json.Encoder().encode

    def follow(done: int, total: int) -> None:
        write(b"%d %d\n" % (done, total))
        sys.stdout.buffer.flush()

    with open_lmdb_catalog(folder, create=False, read_only=True, locking=locking == "1") as catalog:
        for finding in catalog.audit(follow):
            write(encode(finding) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(_serve)
