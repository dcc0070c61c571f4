"""Transactions sent to the service: made once, whatever answers get lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from kvcatalog.dynamo.connection import AmbiguousError, Connection, is_conflict, is_throttled, reasons_of
from kvcatalog.dynamo.patience import Attempts
from kvcatalog.errors import CatalogBusyError, CatalogError, OutcomeUnknownError, TransactionTooLargeError

ITEMS_MAX = 100
BYTES_MAX = 4_000_000


class ConflictError(Exception):
    """A transaction came to nothing, since something was not as it was read, or others were at it.

    `failed` has the numbers of the items whose condition did not hold.
    """

    def __init__(self, failed: tuple[int, ...]) -> None:
        super().__init__()
        self.failed = failed


class Sender:
    """Sends transactions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(
        self,
        actions: list[dict[str, Any]],
        is_made: Callable[[], bool] = lambda: False,
        *,
        token: str | None = None,
    ) -> None:
        """Make all of some actions, or nothing.

        Raises ConflictError; TransactionTooLargeError; CatalogBusyError where there is too much to do for long. Without
        an answer the same transaction is sent again, under the token by which the service knows it for ten minutes; if
        that does not tell either, `settle` looks whether it was made. OutcomeUnknownError if it cannot know.
        """
        if len(actions) > ITEMS_MAX:
            raise TransactionTooLargeError(f"{len(actions)} rows belong together, and a transaction takes {ITEMS_MAX}")
        given, is_open = token, False
        token = token or str(uuid4())
        attempts = Attempts()
        for _ in attempts:
            try:
                self._send(actions, token)
            except AmbiguousError:
                is_open = attempts.is_silent = True
            except CatalogBusyError:
                token = given or (token if is_open else str(uuid4()))
            except ConflictError:
                # A service that has forgotten the token may hold the transaction against its own effects.
                if is_open and is_made():
                    return
                raise
            else:
                return
        if not is_open:
            raise CatalogBusyError(f"{self._connection.place.url} takes no more transactions")
        self._see_to_it(is_made)

    def _see_to_it(self, is_made: Callable[[], bool]) -> None:
        text = str(self._connection.silence())
        try:
            was_made = is_made()
        except CatalogError as error:
            raise OutcomeUnknownError(f"{text}: {error}") from error
        if not was_made:
            raise OutcomeUnknownError(text)

    def _send(self, actions: list[dict[str, Any]], token: str) -> None:
        from botocore.exceptions import ClientError

        try:
            self._connection.ask("transact_write_items", TransactItems=actions, ClientRequestToken=token)
        except ClientError as error:
            codes = reasons_of(error)
            if codes and is_throttled(codes):
                raise CatalogBusyError(f"{self._connection.place.url}: {error}") from error
            if not is_conflict(codes):
                failure = self._connection.translated(error)
                raise failure from error
            raise ConflictError(
                tuple(number for number, code in enumerate(codes) if code == "ConditionalCheckFailed")
            ) from error
