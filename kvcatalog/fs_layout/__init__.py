"""Blobs in folders: the paths that the layouts give, and the store that keeps blobs there.

What touches the disk is in `store` and `folders`; the paths are pure functions, relative ones in `kvcatalog.layout`.
"""

from __future__ import annotations

import os
from typing import Literal

from msgspec import Struct

from kvcatalog import layout, uris, values
from kvcatalog.blobs import LocalFile
from kvcatalog.fs_layout.store import FileBlobStore

__all__ = ["FileBlobStore", "Placement", "cas_path", "dedup_hardlink_or_copy", "policy_path"]


class Placement(Struct, frozen=True):
    """How a file came to its place, and why it is no hard link where one was wanted (the name of an errno)."""

    action: Literal["linked", "copied", "moved"]
    refused: str | None = None


def cas_path(root_dir: str, sha256_hex: str, *, cas_prefix: str = "sha256") -> str:
    """Return where the content of a digest lies: `<root>/cas/<prefix>/ab/cdef…`; InvalidValueError."""
    digest = values.digest("sha256_hex", values.required_text("sha256_hex", sha256_hex)) or ""
    return os.path.join(root_dir, layout.cas_relative_path(cas_prefix, bytes.fromhex(digest)))


def policy_path(root_dir: str, *, artifact_id: str, url_basename: str) -> str:
    """Return where a document lies that people find by its work: `<root>/<artifact>/<basename>`, both cleaned."""
    return os.path.join(root_dir, layout.policy_relative_path(artifact_id, url_basename))


def dedup_hardlink_or_copy(src_tmp: str, dst_final: str, hardlink: bool = True) -> Placement:  # noqa: FBT001, FBT002 - given
    """Give a file's content a further place, durably and without replacing anything, and say how.

    With `hardlink` the file stays, and the place is a hard link, or a copy where none is to be had. Without, the file
    moves. FileExistsError if other content is at the place; the same content is taken for what was to be done.
    """
    folder, name = os.path.split(uris.absolute_path(dst_final))
    store = FileBlobStore(folder)
    try:
        store.prepare()
        with LocalFile.open(src_tmp, linkable=True) as file:
            done = store.publish(file, name, sha256=None)
    finally:
        store.close()
    if done.state == "taken":
        raise FileExistsError(f"{dst_final} holds other content")
    if hardlink:
        return Placement("linked" if os.path.samefile(src_tmp, dst_final) else "copied", done.refused)
    if not os.path.samefile(src_tmp, dst_final) or os.stat(src_tmp).st_nlink > 1:
        os.unlink(src_tmp)
    return Placement("moved", done.refused)
