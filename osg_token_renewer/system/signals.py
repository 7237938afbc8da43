"""Signals that end a program: as a request to stop, and held back for a moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Optional

# What a terminal, a service manager or a person sends; SIGHUP when a terminal or an ssh connection closes.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stop:
    """The request to stop: a run finishes what is under way and begins nothing new."""

    # A signal handler sets it, so it takes no lock.
    signal: Optional[int] = None

    def requested(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Signals that end a program set `stop` instead."""

    def handle(number: int, _frame: object) -> None:
        first = not stop.requested()
        # Before the message: its reader may rely on it.
        stop.signal = number
        if first:
            # Not by logging: the signal may have come in the middle of it.
            with suppress(OSError):
                os.write(2, b"stopping: requests under way are let finish first\n")

    with handle_signals(handle, ENDING):
        yield


@contextmanager
def defer_signals() -> Iterator[None]:
    """Signals that end a program take effect only at the end of this context.

    Otherwise a handler's exception could come between the start of a subprocess and the note that it runs.
    """
    came: list[int] = []
    # Handlers run only in the main thread.
    here = threading.current_thread() is threading.main_thread()
    handled = [number for number in ENDING if here and callable(signal.getsignal(number))]
    try:
        with handle_signals(lambda number, _frame: came.append(number), handled):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextmanager
def handle_signals(handler: Callable[[int, Any], None], numbers: Iterable[int]) -> Iterator[None]:
    """In this context `handler` has these signals; afterwards those that had them before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
