"""The connection to the server of a bucket, and what its errors mean."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from kvcatalog.errors import (
    BlobNotFoundError,
    CatalogError,
    InvalidValueError,
    RootUnreachableError,
    StorageFailedError,
    StorageFullError,
    StoragePermissionError,
)
from kvcatalog.process_clients import ProcessClients, new_session

CONNECT_SECONDS = 5
READ_SECONDS = 60
ATTEMPTS = 4
"""Tries of one request; botocore waits longer and longer between them, up to some 7 seconds in all."""

CONNECTIONS = 64
"""Kept open for as many threads."""

_FULL_STATUS = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.INSUFFICIENT_STORAGE}
_FULL_CODES = {"EntityTooLarge", "QuotaExceeded", "XMinioStorageFull"}
_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT}
_DENIED_STATUS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_CONDITION_LOST_STATUS = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}
_CONDITION_REFUSED_CODES = {"InvalidArgument", "InvalidRequest", "NotImplemented"}


class Connection(ProcessClients):
    """Makes a boto3 client for each process that uses it; any thread may ask.

    Credentials, and the region where none is given, come from where boto3 looks for them.
    """

    def __init__(self, endpoint_url: str | None, region: str | None) -> None:
        super().__init__()
        self._endpoint_url = endpoint_url
        self._region = region

    def _made(self) -> Any:  # noqa: ANN401
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            # Checksums of newer kinds are unknown to many compatible servers; the signature covers the body instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": True, "addressing_style": "path" if self._endpoint_url else "auto"},
        )
        try:
            return new_session().client("s3", region_name=self._region, endpoint_url=self._endpoint_url, config=config)
        except ValueError as error:
            raise InvalidValueError("s3_endpoint_url", str(error)) from error


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn errors of botocore and of the operating system into ours, which name the place.

    BlobNotFoundError, RootUnreachableError (no such bucket, no connection, no answer in time), StoragePermissionError,
    StorageFullError, and StorageFailedError for anything else that the server reports.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _advised(_answered(error, f"{place}: {error}")) from error
    except BotoCoreError as error:
        raise _advised(_unanswered(error, f"{place}: {error}")) from error
    except OSError as error:
        kind = StorageFullError if error.errno in _FULL_ERRORS else StorageFailedError
        raise kind(f"{place}: {error}") from error


def is_missing(error: Exception) -> bool:
    """Tell whether a client error says that there is no such key; after a HEAD it may be the bucket that is missing."""
    return _status(error) == HTTPStatus.NOT_FOUND and _code(error) != "NoSuchBucket"


def is_condition_lost(error: Exception) -> bool:
    """Tell whether a client error says that a conditional request came too late."""
    return _status(error) in _CONDITION_LOST_STATUS


def is_condition_refused(error: Exception) -> bool:
    """Tell whether a client error may mean that the server knows no conditional requests."""
    status = _status(error)
    return status == HTTPStatus.NOT_IMPLEMENTED or (
        status == HTTPStatus.BAD_REQUEST and _code(error) in _CONDITION_REFUSED_CODES
    )


def _status(error: Any) -> int:  # noqa: ANN401
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Any) -> str:  # noqa: ANN401
    return str(error.response.get("Error", {}).get("Code", ""))


_ADVICE: tuple[tuple[type[CatalogError], str], ...] = (
    (StoragePermissionError, "Check the credentials that boto3 finds, and what they may do with the bucket."),
    (RootUnreachableError, "Check the bucket's name, s3_endpoint_url, s3_region and the network; nothing is lost."),
    (StorageFullError, "Free some space there or raise the quota, and try again."),
    (StorageFailedError, "Look at what the server reports, then try again."),
)


def _advised(error: CatalogError) -> CatalogError:
    """Give an error the advice that fits a bucket."""
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return error.advising(advice)
    return error


def _answered(error: Exception, message: str) -> CatalogError:
    status, code = _status(error), _code(error)
    if code == "InvalidBucketName":
        return InvalidValueError("s3_bucket", message)
    if code in _FULL_CODES or status in _FULL_STATUS:
        return StorageFullError(message)
    if status in _DENIED_STATUS:
        return StoragePermissionError(message)
    # A redirect means that the bucket lies in another region.
    if code == "NoSuchBucket" or status // 100 == HTTPStatus.MULTIPLE_CHOICES // 100:
        return RootUnreachableError(message)
    return BlobNotFoundError(message) if status == HTTPStatus.NOT_FOUND else StorageFailedError(message)


def _unanswered(error: Exception, message: str) -> CatalogError:
    from botocore import exceptions as known

    if isinstance(error, known.ParamValidationError | known.InvalidRegionError):
        return InvalidValueError("storage", message)
    if isinstance(error, known.HTTPClientError | known.ConnectionError):
        return RootUnreachableError(message)
    credentials = (
        known.NoCredentialsError,
        known.PartialCredentialsError,
        known.CredentialRetrievalError,
        known.TokenRetrievalError,
        known.UnauthorizedSSOTokenError,
    )
    return StoragePermissionError(message) if isinstance(error, credentials) else StorageFailedError(message)
