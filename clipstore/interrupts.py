"""Orderly ends: SIGINT (Ctrl-C), SIGTERM and SIGHUP raise `Interrupted` in the main thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_REPEAT_SECONDS = 0.02  # after which a swallowed interruption is raised again, once the destructor has ended

_received: list[int] = []  # the signal that ends the command, once it has arrived
_active = False  # whether a block of `interruptible` has installed its handlers


class Interrupted(KeyboardInterrupt):
    """A signal ends the command; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """The exit code by which a shell knows the signal: 130, 143 or 129."""
        return 128 + self.number

    def __str__(self) -> str:
        name = "interrupted" if self.number == signal.SIGINT else f"ended by {self.number.name}"
        return f"{name}; completed work is saved, run the same command to resume"


@contextmanager
def interruptible(*, until_exit: bool = False) -> Iterator[None]:
    """Within the block, the signals raise `Interrupted`, so that temporary files are removed on the way out.

    A second Ctrl-C ends the process at once. A signal that is ignored already, as under `nohup`, stays ignored. Blocks
    within others, and in other threads than the main one, change nothing. With `until_exit`, signals that arrive after
    the block end the process at once and silently, while the interpreter shuts down.
    """
    global _active  # noqa: PLW0603
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number in _SIGNALS if before[number] not in {signal.SIG_IGN, None}]
    hook = sys.unraisablehook
    _active = True
    _received.clear()
    sys.unraisablehook = _repeat_swallowed
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _end_at_once if until_exit else before[number])
        sys.unraisablehook = hook
        _active = False


def received() -> Interrupted | None:
    """The interruption that has arrived, if one has.

    Libraries turn it into errors of their own: an import that fails, a query that was interrupted.
    """
    return Interrupted(_received[0]) if _received else None


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if not _received:
        _received.append(number)
        raise Interrupted(number)
    if number == signal.SIGINT:
        _end_at_once(number, None)


def _end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _repeat_swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise an interruption again that arrived in a destructor or callback, where Python only prints exceptions."""
    if not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)
        return
    _received.clear()
    # A real signal to the main thread, which also ends what it waits for.
    main, number = threading.main_thread().ident, unraisable.exc_value.number
    threading.Timer(_REPEAT_SECONDS, signal.pthread_kill, [main, number]).start()
