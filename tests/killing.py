"""Work that is killed before each of its steps: each call that changes something on disk, and each commit."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from kvcatalog.fs_layout import batches
from kvcatalog.kv.transaction import WriteTransaction
from tests.support import HANG_SECONDS, forked

WRITES = ("write", "pwrite")
STEPS = (*WRITES, "link", "rename", "unlink", "mkdir", "rmdir", "fsync", "fchmod", "fchown", "truncate", "ftruncate")

Meet = Callable[[str, Callable[[], object]], object]
Watch = Callable[[Meet], None]


def steps_of(work: Callable[[], object], watch: Watch | None = None) -> list[str]:
    """Return the names of the steps of some work, which is done in a forked process."""

    def watched() -> list[str]:
        names: list[str] = []
        (watch or watch_all)(lambda name, _: names.append(name))
        work()
        return list(names)

    steps: list[str] = forked(watched)
    return steps


def deaths(work: Callable[[], object], again: Callable[[], object], watch: Watch | None = None) -> Iterator[str]:
    """Kill the work at every step, and yield each time how far it came; `again` sets up what is there before it."""
    again()
    steps = steps_of(work, watch)
    for step, name in enumerate([*steps, "end"]):
        for halfway in (False, True) if name in WRITES else (False,):
            again()
            _die_at(work, step, watch or watch_all, halfway=halfway)
            yield f"{'in' if halfway else 'before'} step {step} of {len(steps)}, {name}"


def _die_at(work: Callable[[], object], step: int, watch: Watch, *, halfway: bool) -> None:
    def watched() -> None:
        watch(dying_at(step, halfway=halfway))
        work()

    killed(watched)


def dying_at(step: int, *, halfway: bool = False) -> Meet:
    """Return what meets steps and kills this process before one of them, or in the middle of it."""
    met = 0

    def meet(_name: str, half: Callable[[], object]) -> None:
        nonlocal met
        if met == step:
            if halfway:
                half()
            die()
        met += 1

    return meet


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], object]) -> None:
    """Do some work in a forked child that is killed on the way, by itself, or else at its end; fails if it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads of the test runner
        process = os.fork()
    if not process:
        signal.alarm(HANG_SECONDS)
        try:
            work()
            die()
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def watch_all(meet: Meet) -> None:
    """Meet each step that changes something on disk, in this process."""
    for name in STEPS:
        watch_calls(os, name, meet)
    watch_calls(batches, "rename_exclusively", meet)
    watch_calls(WriteTransaction, "_end", meet)


def watch_requests(meet: Meet) -> None:
    """Meet each request that changes something in a bucket, and each commit, in this process."""
    from botocore.client import BaseClient

    real = BaseClient._make_api_call

    def watched(self: Any, operation: str, parameters: Any) -> Any:
        if not operation.startswith(("Get", "Head", "List")):
            meet(operation, lambda: None)
        return real(self, operation, parameters)

    BaseClient._make_api_call = watched
    watch_calls(WriteTransaction, "_end", meet)


def watch_calls(owner: Any, name: str, meet: Meet) -> None:
    """Meet each call of a function, in this process."""
    real = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        meet(name, lambda: real(args[0], args[1][: len(args[1]) // 2], *args[2:]))
        return real(*args, **kwargs)

    setattr(owner, name, watched)
