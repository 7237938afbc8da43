"""How long, and how often, issuers are asked within one run.

A run has a deadline. What failed in passing is asked for again a few times, after growing waits. An issuer
that does not answer or cannot be reached is not asked for what is left: each request would only wait for its
own timeout."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Optional, TypeVar
from urllib.parse import urlsplit

from osg_token_renewer.errors import NotAsked, Stopped, TimedOut, Unavailable, Unreachable
from osg_token_renewer.model import Account
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.text import duration, outside

log = logging.getLogger(__name__)

# A blip is over by then; what lasts longer is for the next run.
TRIES = 3
FIRST_WAIT = 1.0
GROWTH = 3.0
# An issuer that wants to be left alone for longer is, until the next run.
LONGEST_WAIT = 30.0
# So that a dead issuer takes no more than two timeouts, however few lanes there are.
DEAD_AFTER = 2
# For how many accounts with a refresh token an issuer is asked before it has answered: if it never does, each
# of them may be lost.
AT_RISK = 6
# How soon a wait notices that the run is to stop.
GLANCE = 0.1

_RAISE = "look at what takes so long, or raise run_timeout in [renewer]"

T = TypeVar("T")


class Limits:
    """What bounds one run: its deadline, the request to stop, and what its issuers can bear. Lanes share it.

    `known_issuers`: what the last token of an account said, by the account's name.
    """

    def __init__(self, seconds: float, stopped: Callable[[], bool], known_issuers: Mapping[str, str]) -> None:
        self.seconds = seconds
        self.stopped = stopped
        self._known_issuers = known_issuers
        self._end = time.monotonic() + seconds
        self._issuers: dict[str, Issuer] = {}
        self._clocks_told: dict[str, object] = {}
        self._unknown = Issuer("", self._clocks_told)

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises Stopped or NotAsked when nothing new may be begun."""
        if self.stopped():
            raise Stopped("the run was stopped before its turn came")
        if not self.left():
            raise NotAsked(f"the {duration(self.seconds)} of the run were over before its turn came", _RAISE)

    def over(self) -> bool:
        """Whether nothing new may be begun any more."""
        return self.stopped() or not self.left()

    def wait(self, seconds: float) -> bool:
        """Waits; False if the run is stopped or its time over before."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.over():
                return False
            time.sleep(min(left, GLANCE))
        return True

    def issuer(self, account: Account) -> Issuer:
        """The one that the account belongs to, as far as can be told."""
        url = self._url(account)
        name = _host(url)
        if not name:
            return _Unknown(f"the issuer of account {account.name}", self._clocks_told, self._unknown)
        # By the whole URL: a host may have several, and one that is dead must not keep the others' tokens
        # from being renewed.
        return self._issuers.setdefault(url, Issuer(name, self._clocks_told))

    def of_all_like(self, account: Account) -> Issuer:
        """The same, but one for all accounts whose issuer nobody knows."""
        issuer = self.issuer(account)
        return self._unknown if isinstance(issuer, _Unknown) else issuer

    def in_turn(self, accounts: Sequence[Account]) -> list[int]:
        """Whose turn comes when, by their places. Those whose issuer only a token will tell change places
        with each other: a run may ask just a few of them, which must not always be the same."""
        unknown = [place for place, account in enumerate(accounts) if not self._knows(account)]
        turns = list(range(len(accounts)))
        for place, other in zip(unknown, random.sample(unknown, len(unknown))):
            turns[place] = other
        return turns

    def _knows(self, account: Account) -> bool:
        # Where nothing rotates, the issuer is in the configuration.
        return (
            account.name in self._known_issuers
            or SOURCES[account.source].OVERLAPS
            or bool(self._url(account))
        )

    def _url(self, account: Account) -> str:
        return (SOURCES[account.source].issuer(account, self._known_issuers.get(account.name)) or "").rstrip(
            "/"
        )


class Issuer:
    """What a run has seen of an issuer."""

    def __init__(self, name: str, clocks_told: dict[str, object]) -> None:
        self.name = name
        self.answers = 0
        self._lock = threading.Lock()
        self._failures = 0
        self._since: Optional[float] = None
        self._last = ""
        self._prober: Optional[Asking] = None
        self._clocks_told = clocks_told

    def check(self) -> None:
        """Raises NotAsked when it is useless to ask."""
        if self.is_dead():
            raise NotAsked(f"{self.name} was not asked any more, after {self.failures()}")

    def is_dead(self) -> bool:
        return self._failures >= DEAD_AFTER

    def failures(self) -> str:
        return f"{self._failures} failures in a row ({self._last})"

    def failing_since(self, asked_at: float) -> float:
        """When the first was asked of the requests that failed in a row; `asked_at`: when the last was."""
        with self._lock:
            self._since = asked_at if self._since is None else min(self._since, asked_at)
            return self._since

    def failed(self, failure: Unreachable, times: int = 1) -> None:
        with self._lock:
            self._failures += times
            self._last = failure.message

    def answered(self) -> None:
        """With a token."""
        self.is_there()
        with self._lock:
            self.answers += 1

    def is_there(self) -> None:
        """It has answered a request for a token, whatever it was."""
        with self._lock:
            self._failures = 0
            self._since = None

    def prober(self, asking: Asking) -> Asking:
        """Who asks again, while the others wait for what becomes of it: the first that wants to."""
        with self._lock:
            self._prober = self._prober or asking
            return self._prober

    def is_probed_by(self, asking: Asking) -> bool:
        return self._prober is asking

    def probe_ended(self, asking: Asking) -> None:
        with self._lock:
            self._prober = None if self._prober is asking else self._prober

    def tell_clock(self, difference: str) -> None:
        """Warns of its clock, once in a run for each host."""
        first = object()
        if self._clocks_told.setdefault(self.name, first) is first:
            log.warning("%s: %s", self.name, difference)


class _Unknown(Issuer):
    """That of an account that no token has told of yet: it may be the same as other accounts'. What they meet
    counts for `all_unknown` together, and for each as long as its own has not answered."""

    def __init__(self, name: str, clocks_told: dict[str, object], all_unknown: Issuer) -> None:
        super().__init__(name, clocks_told)
        self._all = all_unknown

    def check(self) -> None:
        super().check()
        if self._all.is_dead() and not self.answers:
            raise NotAsked(
                f"{self.name} is not known yet, and was not asked after {self._all.failures()} of such issuers"
            )

    def failed(self, failure: Unreachable, times: int = 1) -> None:
        super().failed(failure, times)
        # Once for the account: the other ones' issuers may be in order.
        self._all.failed(failure)

    def is_there(self) -> None:
        super().is_there()
        self._all.is_there()


class Asking:
    """What one lane goes by when it asks its issuer."""

    def __init__(self, limits: Limits, account: Account) -> None:
        self.issuer = limits.issuer(account)
        self._limits = limits
        self._timeout = account.timeout
        self._asked_at = time.monotonic()

    @contextmanager
    def begin(self, wanted: float) -> Iterator[float]:
        """sources.base.Begin."""
        self._limits.check()
        self.issuer.check()
        left = self._limits.left()
        # A run that is short as a whole would otherwise never ask for what must not be cut off.
        if left < min(wanted, self._limits.seconds / 2):
            raise NotAsked(
                f"only {duration(left)} of the run were left, too little for a request that must not be cut off",
                _RAISE,
            )
        self._asked_at = time.monotonic()
        try:
            yield left
        except TimedOut as failure:
            # At once: the next request may wait for nothing but the end of this one.
            self.issuer.failed(failure)
            raise

    def persistently(self, ask: Callable[[], T]) -> T:
        """Asks again, where the failure permits it, after waits that grow and differ between lanes; then
        raises it."""
        tries, uncounted, answers = 1, 0, self.issuer.answers
        try:
            while True:
                try:
                    return ask()
                except Unavailable as failure:
                    # A timeout was counted when it happened.
                    uncounted += isinstance(failure, Unreachable) and not isinstance(failure, TimedOut)
                    if not self._waited(tries, failure):
                        if isinstance(failure, Unreachable) and uncounted:
                            self.issuer.failed(failure, uncounted if self.issuer.answers == answers else 1)
                        if tries > 1 and not isinstance(failure, NotAsked):
                            raise failure.saying(f"{failure.message} ({tries} times)") from failure
                        raise
                    log.debug("%s: %s: asking again", self.issuer.name, failure.message)
                    tries += 1
        finally:
            self.issuer.probe_ended(self)

    def _waited(self, tries: int, failure: Unavailable) -> bool:
        """Waits for the next try; False when there is to be none."""
        wait = wait_after(tries, failure.retry_after, random.uniform(0.5, 1))  # noqa: S311
        if wait is None or wait >= self._limits.left():
            return False
        prober = self
        if isinstance(failure, Unreachable):
            # All tries begin within one timeout, and so end within two, however many lanes they are of.
            if time.monotonic() + wait >= self.issuer.failing_since(self._asked_at) + self._timeout:
                return False
            prober = self.issuer.prober(self)
        if prober is not self:
            while self.issuer.is_probed_by(prober):
                if not self._limits.wait(GLANCE):
                    return False
            # Not all at once.
            wait = random.uniform(0, FIRST_WAIT)  # noqa: S311
        return self._limits.wait(wait)


def _host(url: str) -> str:
    """Host and port of what a token or a file calls its issuer, in lower case; empty if there is none."""
    try:
        return outside(urlsplit(url).netloc.rpartition("@")[2].lower(), limit=100)
    except ValueError:
        return ""


def wait_after(tries: int, retry_after: Optional[float], jitter: float) -> Optional[float]:
    """Seconds until the next try, after so many; None when there is to be none. `jitter` is between 0.5 and
    1."""
    if retry_after is None or tries >= TRIES or retry_after > LONGEST_WAIT:
        return None
    return retry_after + FIRST_WAIT * GROWTH ** (tries - 1) * jitter
