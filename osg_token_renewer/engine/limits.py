"""What bounds a run: its deadline, and the request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from osg_token_renewer.errors import NotAsked, Stopped
from osg_token_renewer.text import duration

# The next step when a run had too little time.
RAISE = "look at what takes so long, or raise run_timeout in [renewer]"
# How soon a wait notices that the run is to stop, in seconds.
GLANCE = 0.1


class Limits:
    """The limits of one run, which all its lanes share. Its time begins now.

    `seconds`: how long new requests may begin. `stopped`: whether somebody asked the run to stop.
    """

    def __init__(self, seconds: float, stopped: Callable[[], bool]) -> None:
        self.seconds = seconds
        self.stopped = stopped
        self._end = time.monotonic() + seconds

    def abandon(self) -> None:
        """Stops the run: nobody waits for its outcomes any more."""
        self.stopped = lambda: True

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises Stopped or NotAsked if nothing new may begin."""
        if self.stopped():
            raise Stopped("the run was stopped before its turn came")
        if not self.left():
            raise NotAsked(f"the {duration(self.seconds)} of the run were over before its turn came", RAISE)

    def over(self) -> bool:
        """Whether nothing new may begin."""
        return self.stopped() or not self.left()

    def wait(self, seconds: float) -> bool:
        """Waits; returns False as soon as the run is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.over():
                return False
            time.sleep(min(left, GLANCE))
        return True
