"""How often and how long something is tried."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

ATTEMPTS = 30
BUSY_SECONDS = 60.0
"""How long a service is asked again that answers, but that it has too much to do."""

SILENT_SECONDS = 15.0
"""How long one is asked again that does not answer: whoever waits for it wants to know."""

_PAUSE_SECONDS = 0.02
_PAUSE_SECONDS_MAX = 3.0


def pause(attempt: int) -> None:
    """Wait before a further attempt, the longer the more there were: anything up to a limit that doubles."""
    time.sleep(random.uniform(0, min(_PAUSE_SECONDS * 2**attempt, _PAUSE_SECONDS_MAX)))  # noqa: S311 - no secret


class Attempts:
    """Gives the attempts at one thing, until it is time to give up; whoever gets no answer sets `is_silent`."""

    def __init__(self) -> None:
        self.is_silent = False

    def __iter__(self) -> Iterator[int]:
        began = time.monotonic()
        for number in range(ATTEMPTS):
            if number:
                pause(number - 1)
                if time.monotonic() > began + (SILENT_SECONDS if self.is_silent else BUSY_SECONDS):
                    return
            self.is_silent = False
            yield number
