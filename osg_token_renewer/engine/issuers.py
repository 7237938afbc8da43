"""What a run sees of its issuers: who answers, who is down, whose clock is wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Optional
from urllib.parse import urlsplit

from osg_token_renewer.errors import Failure, NotAsked
from osg_token_renewer.model import Account
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.text import outside

log = logging.getLogger(__name__)

# Failures in a row. Two, so that a dead issuer takes no more than two timeouts, however few lanes there are.
DEAD_AFTER = 2


class IssuerTable:
    """The issuers of one run. `known`: the issuer of each account's last token, by the account's name."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        self._issuers: dict[str, Issuer] = {}

    def find(self, account: Account) -> Issuer:
        """The account's issuer. An account whose issuer nobody knows yet counts as an issuer of its own."""
        # The whole URL tells issuers apart: a host may have several, and only one of them may be down.
        url = SOURCES[account.source].issuer(account, self._known.get(account.name)) or ""
        host = _host(url)
        issuer = Issuer(host or f"the issuer of account {account.name}")
        return self._issuers.setdefault(url.rstrip("/") if host else account.name, issuer)


class Issuer:
    """What a run has seen of one issuer. Lanes share it."""

    def __init__(self, name: str) -> None:
        self.name = name
        # How many tokens it has given in this run.
        self.tokens = 0
        self._lock = threading.Lock()
        self._failures = 0
        self._failing_since: Optional[float] = None
        self._last_failure = ""
        self._prober: Optional[object] = None
        self._clock_reported = False

    def check(self) -> None:
        """Raises NotAsked if the issuer is down."""
        if self.is_dead():
            failures = f"{self._failures} failures in a row ({self._last_failure})"
            raise NotAsked(f"{self.name} was not asked any more, after {failures}")

    def is_dead(self) -> bool:
        return self._failures >= DEAD_AFTER

    def failing_since(self, asked_at: float) -> float:
        """The start of the first request in the current row of failures; `asked_at` is that of the latest."""
        with self._lock:
            self._failing_since = min(self._failing_since or asked_at, asked_at)
            return self._failing_since

    def count_failures(self, failure: Failure, times: int = 1) -> None:
        with self._lock:
            self._failures += times
            self._last_failure = failure.message

    def note_token(self) -> None:
        self.note_answer()
        with self._lock:
            self.tokens += 1

    def note_answer(self) -> None:
        """The issuer answered a request for a token, be it with a refusal: it is not down."""
        with self._lock:
            self._failures = 0
            self._failing_since = None

    def choose_prober(self, candidate: object) -> object:
        """Who asks again while the others wait for the result: the first candidate."""
        with self._lock:
            self._prober = self._prober or candidate
            return self._prober

    def is_probed_by(self, prober: object) -> bool:
        return self._prober is prober

    def end_probe(self, prober: object) -> None:
        with self._lock:
            if self._prober is prober:
                self._prober = None

    def report_clock(self, difference: str) -> None:
        """Warns of the issuer's clock, once in a run."""
        with self._lock:
            if not self._clock_reported:
                log.warning("%s: %s", self.name, difference)
            self._clock_reported = True


def _host(url: str) -> str:
    """Host and port of a URL, in lower case; empty if it has none. A token's issuer may be any text."""
    try:
        return outside(urlsplit(url).netloc.rpartition("@")[2].lower(), limit=100)
    except ValueError:
        return ""
