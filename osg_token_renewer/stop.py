"""The request to stop, as a value: set by a signal, looked at between two pieces of work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional


class Stop:
    """What is under way is finished, nothing new is begun. Set from a signal handler, so setting it only assigns."""

    def __init__(self) -> None:
        self.signal: Optional[int] = None

    def requested(self) -> bool:
        return self.signal is not None


@contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM ask to stop instead of ending the process where it stands."""

    def handle(number: int, _frame: object) -> None:
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
