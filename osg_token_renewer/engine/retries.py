"""The requests of a lane: a request that failed in passing is repeated a few times, after growing waits."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional, TypeVar

from osg_token_renewer.engine.issuers import Issuer
from osg_token_renewer.engine.limits import GLANCE, RAISE, Limits
from osg_token_renewer.errors import Failure, NotAsked
from osg_token_renewer.text import duration

log = logging.getLogger(__name__)

# A short outage is over by then; a longer one is for the next run.
TRIES = 3
FIRST_WAIT = 1.0
GROWTH = 3.0
# If asked to wait longer, the account is left for the next run.
LONGEST_WAIT = 30.0

T = TypeVar("T")


class Requests:
    """The requests of one lane to its issuer. `timeout`: seconds that one of them may take."""

    def __init__(self, limits: Limits, issuer: Issuer, timeout: float) -> None:
        self._limits = limits
        self._issuer = issuer
        self._timeout = timeout
        self._asked_at = time.monotonic()

    @contextmanager
    def begin(self, wanted: float) -> Iterator[float]:
        """Each request is made within this: see sources.base.Begin."""
        self._limits.check()
        self._issuer.check()
        left = self._limits.left()
        # Half of the run's time is always enough: a short run would otherwise ask for nothing.
        if left < min(wanted, self._limits.seconds / 2):
            late = f"only {duration(left)} of the run were left"
            raise NotAsked(f"{late}, too little for a request that must not be cut off", RAISE)
        self._asked_at = time.monotonic()
        try:
            yield left
        except Failure as failure:
            # Before another lane begins a request, which would wait just as long.
            if failure.counts_at_once:
                self._issuer.count_failures(failure)
            raise

    def repeat(self, ask: Callable[[], T]) -> T:
        """Calls `ask` until it succeeds or its failure permits no other try; then raises that failure."""
        tries, uncounted, tokens = 0, 0, self._issuer.tokens
        try:
            while True:
                try:
                    return ask()
                except Failure as failure:
                    tries += 1
                    uncounted += failure.issuer_out and not failure.counts_at_once
                    if self._wait(tries, failure):
                        log.debug("%s: %s: asking again", self._issuer.name, failure.message)
                        continue
                    if failure.issuer_out and uncounted:
                        in_a_row = uncounted if self._issuer.tokens == tokens else 1
                        self._issuer.count_failures(failure, in_a_row)
                    if tries > 1 and failure.retry_after is not None:
                        raise failure.saying(f"{failure.message} ({tries} times)") from failure
                    raise
        finally:
            self._issuer.end_probe(self)

    def _wait(self, tries: int, failure: Failure) -> bool:
        """Waits for the next try; returns False if there is to be none."""
        wait = wait_after(tries, failure.retry_after, random.uniform(0.5, 1))  # noqa: S311
        if wait is None or wait >= self._limits.left():
            return False
        if not failure.issuer_out:
            return self._limits.wait(wait)
        # No try starts later than one timeout after the first failed one. So all end within two.
        if time.monotonic() + wait >= self._issuer.failing_since(self._asked_at) + self._timeout:
            return False
        prober = self._issuer.choose_prober(self)
        if prober is self:
            return self._limits.wait(wait)
        # To open an account takes a core for a while: one lane finds out whether the issuer is back.
        while self._issuer.is_probed_by(prober):
            if not self._limits.wait(GLANCE):
                return False
        # The lanes that waited do not all ask at the same moment.
        return self._limits.wait(random.uniform(0, FIRST_WAIT))  # noqa: S311


def wait_after(tries: int, retry_after: Optional[float], jitter: float) -> Optional[float]:
    """Seconds until the next try after so many; None if there is to be none. `jitter` is from 0.5 to 1."""
    if retry_after is None or tries >= TRIES or retry_after > LONGEST_WAIT:
        return None
    return retry_after + FIRST_WAIT * GROWTH ** (tries - 1) * jitter
