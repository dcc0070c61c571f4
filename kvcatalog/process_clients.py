"""A client of a service for each process, since a client must not cross a fork."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import Any


class ProcessClients(ABC):
    """Makes a client for each process that asks, as `_made` does it in what inherits from this; any thread may ask."""

    def __init__(self) -> None:
        # Setting a default in a dict is atomic, and a lock that another thread held at a fork is the parent's.
        self._slots: dict[int, _Slot] = {}

    def client(self) -> Any:  # noqa: ANN401 - boto3 has no types
        """Return this process's client; what `_made` raises passes, and the next call tries again."""
        process = os.getpid()
        slot = self._slots.get(process) or self._slots.setdefault(process, _Slot())
        with slot.lock:
            if slot.client is None:
                slot.client = self._made()
            return slot.client

    def close(self) -> None:
        """Close this process's client; a later call makes another one."""
        slot = self._slots.pop(os.getpid(), None)
        if slot is not None and slot.client is not None:
            slot.client.close()

    @abstractmethod
    def _made(self) -> Any:  # noqa: ANN401 - as client
        """Make a client for this process."""


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: Any = None
