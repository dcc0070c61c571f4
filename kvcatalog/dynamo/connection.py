"""The connection to DynamoDB, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from kvcatalog.dynamo.place import TablePlace
from kvcatalog.errors import (
    CatalogBusyError,
    CatalogError,
    CatalogMissingError,
    CatalogUnavailableError,
    ConfigError,
    InvalidValueError,
    StorageFailedError,
    StoragePermissionError,
)
from kvcatalog.process_clients import ProcessClients

CONNECT_SECONDS = 5
READ_SECONDS = 15
ATTEMPTS = 4
"""Tries of one request; botocore waits longer and longer between them."""

CONNECTIONS = 64
"""Kept open for as many threads."""

_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "ThrottlingError",
    "LimitExceededException",
    "TransactionConflictException",
    "ProvisionedThroughputExceeded",
}
_DENIED = {
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
}
_AMBIGUOUS = {"InternalServerError", "InternalFailure", "ServiceUnavailable", "TransactionInProgressException"}


class AmbiguousError(Exception):
    """A request may have been carried out or not: no answer came, or none that tells."""


class Connection(ProcessClients):
    """Makes a boto3 client for each process that uses it; any thread may ask.

    Credentials, and the region where none is given, come from where boto3 looks for them.
    """

    def __init__(self, place: TablePlace) -> None:
        super().__init__()
        self.place = place

    def call(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401  boto3 has no types
        """Make a request of the table and return the answer; errors as `translated` gives them.

        ClientError is raised as it is where it tells of a transaction or a condition; AmbiguousError where nobody knows
        what came of it.
        """
        return self.ask(name, TableName=self.place.table, **arguments)

    def ask(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401
        """Do as `call` does with a request that does not name the table."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            method: Callable[..., Any] = getattr(self.client(), name)
            return method(**arguments)
        except ClientError as error:
            code = code_of(error)
            if code in {"TransactionCanceledException", "ConditionalCheckFailedException"}:
                raise
            if code in _AMBIGUOUS:
                raise AmbiguousError(str(error)) from error
            raise self.translated(error) from error
        except BotoCoreError as error:
            from botocore import exceptions as known

            if isinstance(error, known.HTTPClientError) and not isinstance(
                error, known.EndpointConnectionError | known.ConnectTimeoutError | known.ProxyConnectionError
            ):
                raise AmbiguousError(str(error)) from error
            raise self.translated(error) from error

    def translated(self, error: Exception) -> CatalogError:
        """Return an error of botocore as ours, which names the table and says what to do."""
        from botocore.exceptions import ClientError

        if isinstance(error, ClientError):
            return self._answered(error)
        return self._unanswered(error)

    def _made(self) -> Any:  # noqa: ANN401
        import boto3
        import botocore.session
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
        )
        try:
            # Sessions of their own: the default one is shared by the whole process and is not made for threads. What
            # is read of the service's description is shared, since that takes most of the time.
            core = botocore.session.get_session()
            core.register_component("data_loader", _loader(os.getpid()))
            return boto3.session.Session(botocore_session=core).client(
                "dynamodb", region_name=self.place.region, endpoint_url=self.place.endpoint_url, config=config
            )
        except ValueError as error:
            raise ConfigError(f"catalog {self.place.url}: {error}") from error

    def _answered(self, error: Exception) -> CatalogError:
        code = code_of(error)
        message = f"{self.place.url}: {error}"
        if code == "ResourceNotFoundException":
            missing = CatalogMissingError(f"{self.place.url}: there is no such table")
            return missing.advising("Check the table's name, region and endpoint_url; `kvcatalog init` makes a table.")
        if code in _THROTTLED:
            return CatalogBusyError(message)
        if code in _DENIED:
            return StoragePermissionError(message).advising(
                "Check the credentials that boto3 finds, and what they may do."
            )
        if code == "ValidationException" and "size" in str(error).lower():
            return InvalidValueError("record", f"is too large for DynamoDB: {error}")
        return StorageFailedError(message).advising("Look at what the service reports, then try again.")

    def _unanswered(self, error: Exception) -> CatalogError:
        from botocore import exceptions as known

        message = f"{self.place.url}: {error}"
        if isinstance(error, known.NoRegionError | known.InvalidRegionError):
            return ConfigError(message).advising("Write it as dynamodb://TABLE?region=REGION, or set AWS_REGION.")
        credentials = (
            known.NoCredentialsError,
            known.PartialCredentialsError,
            known.CredentialRetrievalError,
            known.TokenRetrievalError,
            known.UnauthorizedSSOTokenError,
        )
        if isinstance(error, credentials):
            return StoragePermissionError(message).advising(
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role."
            )
        return CatalogUnavailableError(message).advising("Check the network, region and endpoint_url; nothing is lost.")


@lru_cache(maxsize=1)
def _loader(process: int) -> Any:  # noqa: ANN401, ARG001 - each process has its own
    from botocore.loaders import create_loader

    return create_loader()


def code_of(error: Any) -> str:  # noqa: ANN401
    """Return the code of a ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def reasons_of(error: Any) -> list[str]:  # noqa: ANN401
    """Return why a transaction was cancelled, a code for each of its items, `None` for those that were not why."""
    return [str(reason.get("Code", "None")) for reason in error.response.get("CancellationReasons", ())]


def is_throttled(codes: list[str]) -> bool:
    """Tell whether a transaction was cancelled because there was too much to do, and for no other reason."""
    return all(code == "None" or code in _THROTTLED for code in codes)
