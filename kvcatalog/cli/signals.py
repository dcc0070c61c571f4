"""SIGTERM ends a command as Control-C does: what was done stays, and the command says how to go on."""

from __future__ import annotations

import signal

_received: list[int] = []


def heed_termination() -> None:
    """Let SIGTERM raise KeyboardInterrupt, unless whoever started this process has it ignored."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def was_terminated() -> bool:
    """Tell whether it was SIGTERM that interrupted this process."""
    return bool(_received)


def _interrupt(number: int, _frame: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt
