"""The last resort of a run: ends the process when the main thread is stuck.

A file system that does not answer blocks the thread that uses it, and so does an output that nobody reads.
No time limit inside that thread helps. A run leaves a stuck lane behind, but not a stuck main thread. Agents
are then ended by their watchers. Tokens that were published stay published, unknown to the history.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import AbstractContextManager, suppress
from typing import Optional

from osg_token_renewer.errors import Exit
from osg_token_renewer.system.signals import ENDING, Stop

log = logging.getLogger(__name__)

# In seconds.
LINGER = 15.0  # for a run to end what it ends at a deadline, and for the rest of its work
UNTIL_CONFIGURED = 600.0  # for a run whose configuration has not said its limits yet
_LAST_WORDS = 1.0  # for somebody to read the last message
_INTERVAL = 0.5

_STUCK = (
    "this run was stuck, and is ended: "
    "what it did is not in the history, and what it had not done is for the next run; "
    "look for a file system that does not answer, or for a program that does not read this one's output"
)


class Watchdog(AbstractContextManager["Watchdog"]):
    """Ends this process when a limit of `allow` has passed. Only the main thread can enter it, once."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.allow(UNTIL_CONFIGURED, LINGER)

    def allow(self, seconds: float, seconds_to_stop: float) -> None:
        """Sets the limits: `seconds` from the start, and `seconds_to_stop` from a request to stop."""
        self._seconds, self._seconds_to_stop = seconds, seconds_to_stop

    def __enter__(self) -> Watchdog:
        self._began = time.monotonic()
        # Any thread may receive a signal, but only the main thread runs handlers. Python notes the signal
        # in this pipe at once, even if the main thread is stuck.
        self._noted = os.pipe()
        for end in self._noted:
            os.set_blocking(end, False)
        self._former = signal.set_wakeup_fd(self._noted[1], warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        signal.set_wakeup_fd(self._former)
        for end in self._noted:
            os.close(end)

    def _watch(self) -> None:
        # The signals are the main thread's. If it is stuck in a system call, they are pending here.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        handled = {number for number in ENDING if number not in before}
        asked, asked_at = None, 0.0
        while not self._over.wait(_INTERVAL):
            now = time.monotonic()
            if asked is None:
                asked, asked_at = self._find_request(handled), now
            stopping_too_long = asked is not None and now > asked_at + self._seconds_to_stop
            if stopping_too_long or now > self._began + self._seconds:
                _end_process(Exit.FAILED if asked is None else 128 + asked)

    def _find_request(self, handled: set[signal.Signals]) -> Optional[int]:
        """The number of the signal that asked this process to stop, if one did."""
        noted: set[int] = set()
        with suppress(BlockingIOError):
            noted = set(os.read(self._noted[0], 1024))
        return self._stop.signal or next(iter(handled & (signal.sigpending() | noted)), None)


def _end_process(status: int) -> None:
    """Says why, in a thread of its own because the output may be what is stuck."""
    try:
        words = threading.Thread(target=log.error, args=(_STUCK,), daemon=True)
        words.start()
        words.join(_LAST_WORDS)
    finally:
        os._exit(status)
