"""Blobs in a bucket: the layouts of `kvcatalog.layout` as keys, and the store that keeps them there.

- `keys`: pure functions from a prefix and a path to a key and back.
- `connection`: the one that talks to boto3: a client for each process, timeouts, errors that become ours.
- `host_lock`: keeps writers of one host apart, since conditional requests are no lock.
- `body`: a blob that is being read.
- `store`: S3BlobStore.
"""

from __future__ import annotations

from kvcatalog.s3_layout.keys import KEY_BYTES_MAX, cas_key, policy_key
from kvcatalog.s3_layout.store import S3BlobStore

__all__ = ["KEY_BYTES_MAX", "S3BlobStore", "cas_key", "policy_key"]
