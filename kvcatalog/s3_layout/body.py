"""A blob that is being read over the network."""

from __future__ import annotations

import io
from typing import Any

from kvcatalog.errors import StorageFailedError


class Body(io.RawIOBase):
    """The bytes of one response, `size` of them; a response that ends early is an error, never a short file."""

    def __init__(self, stream: Any, size: int, place: str) -> None:  # noqa: ANN401  botocore has no types
        super().__init__()
        self._stream = stream
        self._left = size
        self._place = place

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  any writable buffer
        """Read what comes next and return its size, 0 at the end; StorageFailedError if that is not the blob's end."""
        try:
            data = self._stream.read(len(buffer))
        except Exception as error:
            raise StorageFailedError(
                f"{self._place}: the connection broke with {self._left} bytes to come: {error}"
            ) from error
        self._left -= len(data)
        if self._left < 0 or (self._left and not data):
            raise StorageFailedError(f"{self._place}: the response ended with {self._left} bytes to come")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of the connection, which is used again only if all was read."""
        if not self.closed:
            self._stream.close()
        super().close()
