"""Objects of one bucket by their keys: what one request, or one upload in parts, does to them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from kvcatalog.blobs import LocalFile
from kvcatalog.digest import sha256_stream
from kvcatalog.errors import BlobNotFoundError, RootUnreachableError, StorageFailedError
from kvcatalog.s3_layout.body import Body
from kvcatalog.s3_layout.connection import Connection, is_condition_lost, is_condition_refused, is_missing, translated
from kvcatalog.values import is_digest

MULTIPART_BYTES = 64 << 20
"""A file of this size or more is sent in parts."""

PART_BYTES = 16 << 20
UPLOAD_THREADS = 4
"""Parts of one file that are sent at the same time."""

COPY_BYTES_MAX = 5 << 30
"""The most that a server copies in one request; what is larger is copied in parts."""

COPY_PART_BYTES = 512 << 20
PAGE_KEYS = 1000
READ_BYTES = 1 << 20
CONTENT_TYPE_BYTES_MAX = 255
_KEPT = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Metadata")
_DIGEST_NAME = "sha256"


class Objects:
    """Keeps its connections by process; errors are ours, and name the object."""

    def __init__(
        self,
        bucket: str,
        *,
        storage_class: str,
        endpoint_url: str | None,
        region: str | None,
        multipart_bytes: int,
    ) -> None:
        self._bucket = bucket
        self._storage_class = storage_class
        self._multipart_bytes = multipart_bytes
        self._connection = Connection(endpoint_url, region)
        self._conditional = True

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading; StorageFailedError from a read if the bytes end before the object does."""
        with self.translated(key):
            response = self._client().get_object(**self._at(key))
        return self._opened(key, response)

    def listed(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what a listing tells of each object whose key begins with a prefix, in the order of keys."""
        with self.translated(prefix):
            paginator = self._client().get_paginator("list_objects_v2")
            pages = iter(
                paginator.paginate(Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_KEYS})
            )
        while True:
            with self.translated(prefix):
                page = next(pages, None)
            if page is None:
                return
            yield from page.get("Contents", ())

    def folders(self, prefix: str) -> list[str]:
        """Return the next parts of the keys that begin with a prefix, up to a slash, sorted."""
        found: list[str] = []
        with self.translated(prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/"):
                found += [each["Prefix"][len(prefix) : -1] for each in page.get("CommonPrefixes", ())]
        return sorted(found)

    def close(self) -> None:
        """Close this process's connections; a later call opens new ones."""
        self._connection.close()

    def _opened(self, key: str, response: dict[str, Any]) -> io.BufferedReader:
        return io.BufferedReader(Body(response["Body"], response["ContentLength"], self.place(key)), READ_BYTES)

    def _client(self) -> Any:  # noqa: ANN401  boto3 has no types
        return self._connection.client()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": key}

    def place(self, key: str) -> str:
        """Return the URI of an object."""
        return f"s3://{self._bucket}/{key}"

    def translated(self, key: str) -> Any:  # noqa: ANN401
        """Turn errors of requests about an object into ours."""
        return translated(self.place(key))

    def head(self, key: str) -> dict[str, Any] | None:
        """Return what the server tells of an object, None if it or the bucket is missing: the answer has no words."""
        with self.translated(key):
            client = self._client()
            try:
                return cast("dict[str, Any]", client.head_object(**self._at(key)))
            except client.exceptions.ClientError as error:
                if is_missing(error):
                    return None
                raise

    def require_bucket(self) -> None:
        """Tell a missing blob from a missing bucket: RootUnreachableError."""
        client = self._client()
        try:
            with self.translated(""):
                client.head_bucket(Bucket=self._bucket)
        except BlobNotFoundError as error:
            raise RootUnreachableError(f"there is no bucket {self._bucket}") from error

    def headers(self, digest: str | None, content_type: str | None) -> dict[str, Any]:
        """Return what is stored beside the bytes of a blob."""
        # It comes from whoever served the download, and a header takes printable ASCII only.
        plain = content_type is not None and content_type.isascii() and content_type.isprintable()
        return {
            "StorageClass": self._storage_class,
            "ContentType": content_type
            if plain and content_type and len(content_type) <= CONTENT_TYPE_BYTES_MAX
            else "application/octet-stream",
            "Metadata": {_DIGEST_NAME: digest} if digest else {},
        }

    def upload(self, key: str, file: LocalFile, headers: dict[str, Any], *, only_new: bool) -> bool:
        """Send a file's bytes; False if there is an object meanwhile, as far as the server tells."""
        if file.size >= self._multipart_bytes:
            with self.translated(key):
                with self._transfers(self._multipart_bytes, min(PART_BYTES, self._multipart_bytes)) as transfers:
                    transfers.upload(f"/proc/self/fd/{file.descriptor}", self._bucket, key, headers).result()
                return True
        return self.put(key, file.reader, headers, only_new=only_new)

    def put(self, key: str, reader: Callable[[], BinaryIO], headers: dict[str, Any], *, only_new: bool) -> bool:
        """Send bytes in one request; as `upload`."""
        with self.translated(key):
            client = self._client()
            conditional = only_new and self._conditional
            if conditional:
                try:
                    with reader() as body:
                        client.put_object(**self._at(key), **headers, Body=body, IfNoneMatch="*")
                except client.exceptions.ClientError as error:
                    if is_condition_lost(error):
                        return False
                    if not is_condition_refused(error):
                        raise
                else:
                    return True
            with reader() as body:
                client.put_object(**self._at(key), **headers, Body=body)
            if conditional:  # the same request without the condition was taken
                self._conditional = False
            return True

    def _transfers(self, threshold: int, part: int) -> Any:  # noqa: ANN401
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        config = TransferConfig(
            multipart_threshold=threshold,
            multipart_chunksize=part,
            max_concurrency=UPLOAD_THREADS,
            preferred_transfer_client="classic",
        )
        return create_transfer_manager(self._client(), config)

    def read_whole(self, key: str) -> tuple[dict[str, Any] | None, str]:
        """Return what the server tells of an object, None if there is none, and the digest of its bytes."""
        try:
            with self.translated(key):
                response = self._client().get_object(**self._at(key))
        except BlobNotFoundError:
            return None, ""
        with self._opened(key, response) as stream:
            return response, sha256_stream(stream)[0]

    def compare(self, key: str, found: dict[str, Any] | None, size: int, digest: str | None) -> None:
        """Raise StorageFailedError if what the server tells of an object is not what it was given."""
        if found is None or found["ContentLength"] != size or stored_digest(found) != digest:
            kept = "nothing" if found is None else f"{found['ContentLength']} bytes of {stored_digest(found)}"
            raise StorageFailedError(f"{self.place(key)}: was given {size} bytes of {digest}, and has {kept}")

    def copy(self, key: str, target: str, found: dict[str, Any]) -> None:
        """Copy an object within the bucket with its metadata and storage class, and compare."""
        headers = {name: found[name] for name in _KEPT if name in found}
        headers |= {"MetadataDirective": "REPLACE", "StorageClass": found.get("StorageClass", "STANDARD")}
        with self.translated(key):
            if found["ContentLength"] > COPY_BYTES_MAX:
                with self._transfers(COPY_BYTES_MAX, COPY_PART_BYTES) as transfers:
                    transfers.copy(self._at(key), self._bucket, target, headers).result()
            else:
                self._client().copy_object(**self._at(target), CopySource=self._at(key), **headers)
        self.compare(target, self.head(target), found["ContentLength"], stored_digest(found))

    def delete(self, key: str) -> None:
        """Remove an object, whether or not there is one."""
        with self.translated(key):
            self._client().delete_object(**self._at(key))


def stored_digest(found: dict[str, Any]) -> str | None:
    """Return the SHA-256 that was stored beside an object's bytes."""
    digest = found.get("Metadata", {}).get(_DIGEST_NAME)
    return digest.lower() if isinstance(digest, str) and is_digest(digest) else None
