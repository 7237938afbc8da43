"""The request to stop, as a value: set by a signal, looked at between two pieces of work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Optional

# What a terminal, a service manager or a person sends; a terminal that is closed or an ssh that breaks sends
# SIGHUP.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stop:
    """What is under way is finished, nothing new is begun. Set from a signal handler, so setting it only
    assigns."""

    def __init__(self) -> None:
        self.signal: Optional[int] = None

    def requested(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """The signals that end a program ask to stop instead of ending the process where it stands."""

    def handle(number: int, _frame: object) -> None:
        first = not stop.requested()
        # Before it is said: whoever reads it may rely on it.
        stop.signal = number
        if first:
            # Not by way of logging: the signal may have come in the middle of it.
            with suppress(OSError):
                os.write(2, b"stopping: requests under way are let finish first\n")

    before = {number: signal.signal(number, handle) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Signals that end a program wait until this is left: an exception of a handler must not come between a
    start and its being known."""
    if threading.current_thread() is not threading.main_thread():
        # Handlers run in the main thread alone.
        yield
        return
    came: list[int] = []
    heeded = [number for number in ENDING if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
