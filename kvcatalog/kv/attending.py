"""Threads that work off what others leave to them, and live only while there is something."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Protocol

LINGER_SECONDS = 0.02
"""How long a thread waits for more; a process that ends waits for it."""


class Work(Protocol):
    """What a thread works off."""

    def is_left(self) -> bool:
        """Tell whether anything is left to do."""
        ...

    def do(self) -> None:
        """Do some of it; raises nothing."""
        ...


class Attendant:
    """A thread that is started when it is needed; it is no daemon, so a process that ends waits for it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._gate = threading.Lock()
        self._rest = threading.Lock()
        self._rest.acquire()
        self.thread: threading.Thread | None = None

    def serves(self, work: Work) -> bool:
        """See that the thread works off some work; False if there can be none, as when the interpreter ends."""
        if not threading.main_thread().is_alive():
            return False  # Python 3.11 still starts threads then, and waits for none
        if self.thread is None:
            with self._gate:
                if self.thread is None:
                    thread = threading.Thread(target=self._serve, args=(work,), name=self._name)
                    try:
                        thread.start()
                    except RuntimeError:
                        return False
                    self.thread = thread
        return True

    def rouse(self) -> None:
        """Let the thread look for work."""
        if self._rest.locked():
            with suppress(RuntimeError):  # somebody else was quicker
                self._rest.release()

    def _serve(self, work: Work) -> None:
        """Work until nothing has come for a moment."""
        this = threading.current_thread()
        try:
            while True:
                roused = self._rest.acquire(timeout=LINGER_SECONDS)
                while work.is_left():
                    work.do()
                if roused:
                    continue
                with self._gate:
                    self.thread = None
                    # Whoever brings work now either finds no thread, or was seen here.
                    if not work.is_left():
                        return
                    self.thread = this
        finally:
            with self._gate:
                if self.thread is this:
                    self.thread = None
