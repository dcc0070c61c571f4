"""The connection to DynamoDB, and what its errors mean."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from kvcatalog.dynamo.patience import Attempts
from kvcatalog.dynamo.place import WRITE_IT_AS, TablePlace
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
from kvcatalog.process_clients import ProcessClients, new_session

CONNECT_SECONDS = 5
READ_SECONDS = 8
ATTEMPTS = 2
"""Tries of one request by botocore; most are asked for again above it (`patience`)."""

CONNECTIONS = 64
"""Kept open for as many threads."""

_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "ReplicatedWriteConflictException",
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
_CLOCK = ("signature expired", "signature not yet current")
"""What the service says to a host whose clock is more than some minutes off."""

_RIGHTS = "Check the credentials that boto3 finds, and what they may do."

_AMBIGUOUS = {"InternalServerError", "InternalFailure", "ServiceUnavailable", "TransactionInProgressException"}

_ALWAYS_THERE = {
    "BatchGetItem": b'"Responses"',
    "DescribeContinuousBackups": b'"ContinuousBackupsDescription"',
    "DescribeTable": b'"Table"',
    "Query": b'"Count"',
    "Scan": b'"Count"',
    "TransactGetItems": b'"Responses"',
}
"""What an answer says at least, else it is none of DynamoDB's: in botocore's eyes anything that is no JSON is empty."""

NO_ANSWER = "Check the network, region and endpoint_url, and that the service is up; what was acknowledged is not lost."

Result = TypeVar("Result")


class AmbiguousError(Exception):
    """A request may have been carried out or not: no answer came, or none that tells."""


class TableInUseError(StorageFailedError):
    """A table is there, or is being made or deleted."""


class Connection(ProcessClients):
    """Makes a boto3 client for each process that uses it; any thread may ask.

    Credentials, and the region where none is given, come from where boto3 looks for them.
    """

    def __init__(self, place: TablePlace) -> None:
        super().__init__()
        self.place = place
        self.is_silent = False

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
            answer = method(**arguments)
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
        self.is_silent = False
        return answer

    def read(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401
        """Make a request of the table that changes nothing, as `repeated` does."""
        return self.repeated(lambda: self.call(name, **arguments))

    def repeated(self, request: Callable[[], Result]) -> Result:
        """Make a request that changes nothing, again where there was too much to do or no answer came."""
        attempts, failure = Attempts(), None
        for _ in attempts:
            try:
                return request()
            except (CatalogBusyError, AmbiguousError) as error:
                attempts.is_silent, failure = isinstance(error, AmbiguousError), error
        if isinstance(failure, CatalogBusyError):
            raise failure
        raise self.silence() from failure

    def silence(self) -> CatalogUnavailableError:
        """Return the error of a service that gave no answer until it was given up.

        `is_silent` says so until it answers again, so that nobody who closes a catalog waits for it once more.
        """
        self.is_silent = True
        return CatalogUnavailableError(f"{self.place.url} does not answer").advising(NO_ANSWER)

    def translated(self, error: Exception) -> CatalogError:
        """Return an error of botocore as ours, which names the table and says what to do."""
        from botocore.exceptions import ClientError

        if isinstance(error, ClientError):
            return self._answered(error)
        return self._unanswered(error)

    def _made(self) -> Any:  # noqa: ANN401
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            parameter_validation=False,  # requests are ours, and the service looks at them all the same
        )
        try:
            client = new_session().client(
                "dynamodb", region_name=self.place.region, endpoint_url=self.place.endpoint_url, config=config
            )
        except ValueError as error:
            raise ConfigError(f"catalog {self.place.url}: {error}").advising(WRITE_IT_AS) from error
        client.meta.events.register("before-parse.dynamodb", _refuse_what_is_no_answer)
        return client

    def _answered(self, error: Exception) -> CatalogError:
        code = code_of(error)
        message = f"{self.place.url}: {error}"
        if code == "ResourceNotFoundException":
            missing = CatalogMissingError(f"{self.place.url}: there is no such table")
            return missing.advising(
                "Check the table's name, region and endpoint_url; `kvcatalog init` makes table and catalog."
            )
        if code in _THROTTLED:
            return CatalogBusyError(message)
        if code in _DENIED:
            is_late = any(words in message.lower() for words in _CLOCK)
            advice = "Set this host's clock, which is off." if is_late else _RIGHTS
            return StoragePermissionError(message).advising(advice)
        if code == "ValidationException" and "size" in str(error).lower():
            return InvalidValueError("record", f"is too large for DynamoDB: {error}")
        kind = TableInUseError if code == "ResourceInUseException" else StorageFailedError
        return kind(message).advising("Look at what the service reports, then try again.")

    def _unanswered(self, error: Exception) -> CatalogError:
        from botocore import exceptions as known

        message = f"{self.place.url}: {error}"
        if isinstance(error, known.NoRegionError | known.InvalidRegionError):
            return ConfigError(message).advising("Write it as dynamodb://TABLE?region=REGION, or set AWS_REGION.")
        if isinstance(error, known.ProfileNotFound | known.ConfigParseError):
            return ConfigError(message).advising("Correct AWS_PROFILE, or the files in which boto3 looks for profiles.")
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
        self.is_silent = True
        return CatalogUnavailableError(message).advising(NO_ANSWER)


def _refuse_what_is_no_answer(operation_model: Any, response_dict: Any, **_: Any) -> None:  # noqa: ANN401
    """Take what some proxy or a broken server says in place of the service for no answer at all."""
    from botocore.exceptions import ResponseStreamingError

    if response_dict["status_code"] != HTTPStatus.OK:
        return
    body = response_dict["body"].strip()
    if not (body.startswith(b"{") and body.endswith(b"}") and _ALWAYS_THERE.get(operation_model.name, b"") in body):
        raise ResponseStreamingError(error=f"{operation_model.name}: this is no answer of DynamoDB's")


def code_of(error: Any) -> str:  # noqa: ANN401
    """Return the code of a ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def reasons_of(error: Any) -> list[str]:  # noqa: ANN401
    """Return why a transaction was cancelled, a code for each of its items, `None` for those that were not why."""
    return [str(reason.get("Code", "None")) for reason in error.response.get("CancellationReasons", ())]


def is_throttled(codes: list[str]) -> bool:
    """Tell whether a transaction was cancelled because there was too much to do, and for no other reason."""
    return all(code == "None" or code in _THROTTLED for code in codes)


def is_conflict(codes: list[str]) -> bool:
    """Tell whether a transaction was cancelled since others were at its items, whatever else was too much at once."""
    return all(code in {"None", "ConditionalCheckFailed", "TransactionConflict"} | _THROTTLED for code in codes)
