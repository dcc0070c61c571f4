"""Clients of boto3: one for each process, since a client must not cross a fork."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from functools import cache
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


def new_session() -> Any:  # noqa: ANN401 - as client
    """Return a boto3 session of its own, since the default one is the whole process's and is not made for threads.

    The descriptions of the services, which take nearly all of the time that a client takes to be made, are read once.
    """
    import boto3
    import botocore.session

    core = botocore.session.get_session()
    core.register_component("data_loader", _descriptions())
    return boto3.session.Session(botocore_session=core)


@cache
def _descriptions() -> Any:  # noqa: ANN401 - as client
    from botocore.loaders import create_loader

    return create_loader()


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: Any = None
