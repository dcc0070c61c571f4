"""What the server of a bucket does, found out by trying it on objects of our own that are gone afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kvcatalog.blobs import Capability
from kvcatalog.errors import CatalogError, InvalidValueError
from kvcatalog.layout import STAGING_PATH
from kvcatalog.s3_layout.connection import Connection, is_condition_lost, is_condition_refused, translated
from kvcatalog.s3_layout.keys import object_key

if TYPE_CHECKING:
    from kvcatalog.config import StorageConfig

_BYTES = b"kvcatalog"
_METADATA = {"sha256": "0" * 64}


def probe(config: StorageConfig) -> Iterator[Capability]:
    """Yield what works below a prefix that is a root; errors as those of S3BlobStore where nothing can be stored."""
    if config.s3_bucket is None:
        raise InvalidValueError("s3_bucket", "is needed for the backend s3")
    connection = Connection(config.s3_endpoint_url, config.s3_region)
    names = [f"{STAGING_PATH}/doctor-{secrets.token_hex(8)}-{number}" for number in range(2)]
    first, second = ({"Bucket": config.s3_bucket, "Key": object_key(config.s3_prefix, name)} for name in names)
    place = f"s3://{first['Bucket']}/{first['Key']}"
    try:
        with translated(place):
            client = connection.client()
            client.put_object(**first, Body=_BYTES, Metadata=_METADATA)
            try:
                yield from _tried(client, first, second)
            finally:
                for each in (first, second):
                    with suppress(CatalogError), translated(place):
                        client.delete_object(**each)
    finally:
        connection.close()


def _tried(client: Any, first: dict[str, str], second: dict[str, str]) -> Iterator[Capability]:  # noqa: ANN401 - boto3 has no types
    with client.get_object(**first)["Body"] as body:
        same = body.read() == _BYTES
    yield Capability("objects", same, None if same else "what was stored is not given back")
    kept = client.head_object(**first)["Metadata"] == _METADATA
    yield Capability("kept metadata", kept, None if kept else "the SHA-256 beside an object is lost")
    client.copy_object(**second, CopySource=first, MetadataDirective="REPLACE", Metadata=_METADATA)
    copied = client.head_object(**second)["Metadata"] == _METADATA
    yield Capability("copies", copied, None if copied else "a copy loses the SHA-256 beside it")
    try:
        client.put_object(**first, Body=_BYTES, Metadata=_METADATA, IfNoneMatch="*")
    except client.exceptions.ClientError as error:
        if is_condition_lost(error):
            yield Capability("conditional puts", works=True)
        elif is_condition_refused(error):
            yield Capability("conditional puts", works=False, detail="refused")
        else:
            raise
    else:
        yield Capability("conditional puts", works=False, detail="the condition is ignored")
