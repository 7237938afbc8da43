"""The last resort of a run: nothing in it is waited for without limit, not even what no limit of its own can
hold.

A file system that does not answer keeps the thread that asks it, and so does an output that nobody reads.
Lanes are left behind when that happens to them; when it happens to the main thread, this one ends the
process. Agents are then ended by their watchers, and what lanes published by then stays published, though it
is not in the history."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import Optional

from osg_token_renewer.errors import Exit
from osg_token_renewer.system.signals import ENDING, Stop

log = logging.getLogger(__name__)

# How long what is ended at a deadline may take for it, and what remains to be done after that.
LINGER = 15.0
# Seconds that a run may take until its configuration has said how many.
UNTIL_CONFIGURED = 600.0
# How long the last message may wait for somebody who takes it.
_LAST_WORDS = 1.0
_GLANCE = 0.5


class Watchdog:
    """Ends this process `seconds` after its start, or `seconds_to_stop` after it was told to stop, whichever
    is first.

    One for a process, made by its main thread."""

    def __init__(
        self, stop: Stop, seconds: float = UNTIL_CONFIGURED, seconds_to_stop: float = LINGER
    ) -> None:
        self._stop = stop
        # Another thread may take a signal that the main thread, which alone runs handlers, cannot: Python
        # notes it here at once.
        self._taken, noted = os.pipe()
        for end in (self._taken, noted):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
        self._began = time.monotonic()
        self.allow(seconds, seconds_to_stop)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def allow(self, seconds: float, seconds_to_stop: float) -> None:
        """Changes the limits; the time runs since the start all the same."""
        self._seconds, self._seconds_to_stop = seconds, seconds_to_stop

    def _watch(self) -> None:
        # They are the main thread's. One that it cannot take, for it is stuck in a system call, is then seen
        # here as pending.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        heeded = {number for number in ENDING if number not in before}
        told, told_at = None, 0.0
        while True:
            now = time.monotonic()
            if told is None:
                told, told_at = self._told(heeded), now
            if now > self._began + self._seconds or (
                told is not None and now > told_at + self._seconds_to_stop
            ):
                _end(Exit.FAILED if told is None else 128 + told)
            time.sleep(_GLANCE)

    def _told(self, heeded: set[signal.Signals]) -> Optional[int]:
        taken: set[int] = set()
        with suppress(BlockingIOError):
            taken = set(os.read(self._taken, 1024))
        return self._stop.signal or next(iter(heeded & (signal.sigpending() | taken)), None)


def _end(status: int) -> None:
    """Ends the process, also if its output takes nothing."""
    try:
        words = threading.Thread(target=_say, daemon=True)
        words.start()
        words.join(_LAST_WORDS)
    finally:
        os._exit(status)


def _say() -> None:
    log.error(
        "this run was stuck, and is ended: what it did is not in the history, and what it had not done is for the next run; "
        "look for a file system that does not answer, or for a program that does not read this one's output"
    )
