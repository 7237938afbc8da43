"""Lanes in parallel: tokens of one lane one after the other, lanes beside each other.

A failure stops nothing but what depends on it: a token's failure is that token's outcome, an account that cannot be opened is the
outcome of each of its tokens.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Optional

from osg_token_renewer import claims, jwt, publisher
from osg_token_renewer.all_sources import SOURCES
from osg_token_renewer.attempts import AT_RISK, GLANCE, Asking, Issuer, Limits
from osg_token_renewer.errors import REPORT, CutOff, DeadGrant, Died, Failure, NotAsked, Refused, Stopped, TimedOut, Unavailable, Unsuitable
from osg_token_renewer.model import BUG, AccessToken, Account, Options, Outcome, State, TokenSpec
from osg_token_renewer.sources.base import Directories, Fetch, Fetched, Kept
from osg_token_renewer.stop import Stop
from osg_token_renewer.text import duration, plural
from osg_token_renewer.watchdog import LINGER

log = logging.getLogger(__name__)

# A lane waits for its issuer most of the time. What takes cores or memory its source limits by itself.
AT_ONCE = 64

# Tokens that ask for exactly the same: one request serves them all.
Batch = list[TokenSpec]

# The next step where nobody knows a better one.
_STUCK = "look for a file system or a name server that does not answer"
_LATER = "the next run tries again; if this lasts, check the network and ask the issuer's operators"


def lanes(due: Sequence[TokenSpec], accounts: Mapping[str, Account], at_once: int) -> list[tuple[Account, list[Batch]]]:
    """What is obtained one after the other, in the order of `due`.

    Tokens of one account are one lane, for a refresh token may rotate; where its source can have several sessions of an account open,
    they are dealt over as many lanes as there is room for.
    """
    batches: dict[str, dict[str, Batch]] = {}
    for spec in due:
        batches.setdefault(spec.account, {}).setdefault(spec.asked, []).append(spec)
    dealt = []
    for name, by_wish in batches.items():
        width = max(1, at_once // len(batches)) if SOURCES[accounts[name].source].OVERLAPS else 1
        every = list(by_wish.values())
        dealt += [(accounts[name], every[first::width]) for first in range(min(width, len(every)))]
    return dealt


def run(
    due: Sequence[TokenSpec],
    accounts: Mapping[str, Account],
    *,
    where: Directories,
    configured_workers: Optional[int],
    stop: Stop,
    run_timeout: float = Options.run_timeout,
    known_issuers: Optional[Mapping[str, str]] = None,
) -> Iterator[Outcome]:
    """Obtains and publishes each token; yields one outcome for each, as they come, within `run_timeout` seconds and LINGER.

    `known_issuers` are those of accounts' last tokens. Closing the iterator early asks the lanes to stop and waits for them.
    """
    at_once = configured_workers or AT_ONCE
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    abandoned = threading.Event()
    limits = Limits(run_timeout, lambda: stop.requested() or abandoned.is_set(), known_issuers or {})
    dealt = lanes(due, accounts, at_once)
    turns = limits.in_turn([account for account, _ in dealt])
    every = [_Lane(*dealt[turn], where, outcomes.put, limits) for turn in turns]
    threads = _start(_Line(every, limits), min(at_once, len(every)))
    end = time.monotonic() + run_timeout + min(LINGER, run_timeout)
    left = {id(spec): spec for spec in due}
    try:
        while left:
            try:
                outcome = outcomes.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            del left[id(outcome.spec)]
            yield outcome
        for spec in left.values():
            yield _failed(spec, Unavailable(f"its lane had not come back when the {duration(run_timeout)} of the run were over", _STUCK))
    finally:
        abandoned.set()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        _tell_cut_off([lane.account.name for lane in every if lane.cut_off])


def _start(line: _Line, workers: int) -> list[threading.Thread]:
    """Threads that nobody has to wait for: a lane may be stuck in what has no time limit, as a file system or the resolver."""

    def work() -> None:
        with Kept() as kept:
            while (lane := line.next()) is not None:
                try:
                    lane.run(kept)
                finally:
                    line.gone(lane)

    threads = [threading.Thread(target=work, name=f"lane_{number}", daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    return threads


class _Line:
    """The lanes that wait for a worker, in their order. Those that may lose their account, if its issuer never answers, are let pass a few
    at a time until it has answered; others pass them by."""

    def __init__(self, lanes: Sequence[_Lane], limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        # By issuer, each with its place: to find the next takes no longer the more of them wait. None: of those who risk nothing.
        self._waiting: dict[Optional[Issuer], deque[tuple[int, _Lane]]] = {}
        self._at_risk: Counter[Optional[Issuer]] = Counter()
        self._issuers = {lane: None if SOURCES[lane.account.source].OVERLAPS else limits.of_all_like(lane.account) for lane in lanes}
        for place, lane in enumerate(lanes):
            self._waiting.setdefault(self._issuers[lane], deque()).append((place, lane))

    def next(self) -> Optional[_Lane]:
        """Waits while none may begin; None when there is none left."""
        with self._changed:
            while self._waiting:
                ready = [(lanes[0][0], issuer) for issuer, lanes in self._waiting.items() if self._may_begin(issuer)]
                if not ready:
                    self._changed.wait(GLANCE)
                    continue
                _, issuer = min(ready, key=lambda each: each[0])
                _, lane = self._waiting[issuer].popleft()
                if not self._waiting[issuer]:
                    del self._waiting[issuer]
                self._at_risk[issuer] += 1
                return lane
        return None

    def gone(self, lane: _Lane) -> None:
        with self._changed:
            # One that may be lost counts on.
            self._at_risk[self._issuers[lane]] -= not lane.cut_off
            self._changed.notify_all()

    def _may_begin(self, issuer: Optional[Issuer]) -> bool:
        if issuer is None or self._at_risk[issuer] < AT_RISK:
            return True
        # What is to be refused may be so at once.
        return issuer.answers > 0 or issuer.is_dead() or self._limits.over()


def _tell_cut_off(accounts: Sequence[str]) -> None:
    if accounts:
        log.warning(
            "%s cut off while waiting for the issuer: where it rotates refresh tokens, the account may be lost: %s",
            "1 agent was" if len(accounts) == 1 else f"{len(accounts)} agents were",
            ", ".join(accounts),
        )


class _Waiting(NamedTuple):
    """A token that came and is not valid yet; `until` is when it, or nothing better, is to be published, in seconds since 1970."""

    spec: TokenSpec
    token: AccessToken
    until: float


class _Lane:
    """One outcome for each token, whatever happens."""

    def __init__(
        self, account: Account, batches: Sequence[Batch], where: Directories, put: Callable[[Outcome], None], limits: Limits
    ) -> None:
        self.account = account
        self.cut_off = False
        self._batches = batches
        self._where = where
        self._put = put
        self._limits = limits
        # By identity: whatever the tokens are called, each has its outcome.
        self._left = {id(spec): spec for batch in batches for spec in batch}
        self._waiting: list[_Waiting] = []
        self._grant: Optional[str] = None

    def run(self, kept: Kept) -> None:
        try:
            self._obtain(kept)
            self._publish_waiting()
        except BaseException as error:
            # Anything else would end this thread, and nothing but it.
            bug = type(error).__name__
            # Where, but not the exception's text: it may hold a secret.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("account %s: a bug in this program: %s\n%s", self.account.name, bug, stack)
            for spec in list(self._left.values()):
                self._done(Outcome(spec, State.FAILED, BUG, f"a bug in this program ({bug})", REPORT))

    def _done(self, outcome: Outcome) -> None:
        del self._left[id(outcome.spec)]
        self._put(outcome)

    def _fail(self, specs: Sequence[TokenSpec], failure: Failure) -> None:
        for spec in specs:
            self._done(_failed(spec, failure, self._grant))

    def _obtain(self, kept: Kept) -> None:
        """Opens the account, and asks for what is left of each batch, until something ends the lane."""
        try:
            # The issuer is not asked for what could not be published.
            for spec, failure in [(spec, failure) for spec in self._left.values() if (failure := _no_place(spec))]:
                self._fail([spec], failure)
            if not self._left:
                return
            self._limits.check()
            name, source = self.account.name, SOURCES[self.account.source]
            # Before it is used: what somebody may have given the account meanwhile is another one.
            self._grant = source.grant(self.account)
            log.debug("account %s: opening it as %s, for %s", name, source.NAME, plural(len(self._left), "token"))
            with ExitStack() as stack:
                asking = Asking(self._limits, self.account)
                fetch = asking.persistently(lambda: stack.enter_context(source.session(self.account, self._where, asking.begin, kept)))
                if source.opening_obtains_token():
                    asking.issuer.answered()
                for batch in self._batches:
                    wanted = [spec for spec in batch if id(spec) in self._left]
                    if wanted:
                        self._renew(wanted, fetch, asking)
        except Failure as failure:
            self.cut_off = self.cut_off or isinstance(failure, (CutOff, Died))
            later = {id(each.spec) for each in self._waiting}
            unanswered = [spec for spec in self._left.values() if id(spec) not in later]
            self._fail(unanswered, failure)
            if not unanswered:
                log.warning("account %s: %s", self.account.name, failure.message)

    def _renew(self, batch: Batch, fetch: Fetch, asking: Asking) -> None:
        """Obtains one token, and publishes it for each of the batch, or keeps it until it is valid. Raises a Failure that ends the lane."""
        try:
            # One that lives long enough for that does for all.
            longest = max(batch, key=lambda spec: spec.min_lifetime or 0)
            fetched = asking.persistently(lambda: fetch(longest))
        except Failure as failure:
            if isinstance(failure, (Refused, Unsuitable)):
                asking.issuer.is_there()
            if _ends_lane(failure):
                raise
            self._fail(batch, failure)
            return
        asking.issuer.answered()
        for spec in batch:
            try:
                self._take(spec, fetched, asking.issuer)
            except Failure as failure:
                self._fail([spec], failure)

    def _take(self, spec: TokenSpec, fetched: Fetched, issuer: Issuer) -> None:
        try:
            token = jwt.parse(fetched.text.reveal(), fetched.expires_at, fetched.issuer)
        except ValueError as error:
            raise Unsuitable(f"what the issuer sent is not a token: {error}") from None
        now = time.time()
        difference = claims.skew(token, fetched.clock_ahead, now)
        if difference:
            issuer.tell_clock(difference)
        until = _valid_from(spec, token, now)
        if until > now:
            # What could not be published then is not waited for.
            claims.check(spec, token, now)
            log.debug("token %s: it becomes valid in %.0f s, and is published then", spec.name, until - now)
            self._waiting.append(_Waiting(spec, token, until))
        else:
            self._done(_published(spec, token))

    def _publish_waiting(self) -> None:
        """The account is closed by now, so that nothing waits but this lane."""
        for spec, token, until in sorted(self._waiting, key=lambda each: each.until):
            try:
                if not self._limits.wait(until - time.time()):
                    self._limits.check()
                self._done(_published(spec, token))
            except (Stopped, NotAsked):
                what = "the run ended before the new token became valid (nbf); the next run obtains another"
                self._fail([spec], Stopped(what) if self._limits.stopped() else NotAsked(what))
            except Failure as failure:
                self._fail([spec], failure)


def _ends_lane(failure: Failure) -> bool:
    """The next token of the account would fare no better; and who wants to be left alone is."""
    return isinstance(failure, (TimedOut, NotAsked, Stopped, DeadGrant, Died)) or bool(
        isinstance(failure, Unavailable) and failure.retry_after
    )


def _no_place(spec: TokenSpec) -> Optional[Failure]:
    try:
        publisher.preflight(spec)
    except Failure as failure:
        return failure
    return None


def _valid_from(spec: TokenSpec, token: AccessToken, now: float) -> float:
    """When the token is to be published: not before it is valid, as long as the token that it replaces is.

    Without a good one nothing is better than this: those whose clocks are right, or who allow for others, can use it at once.
    """
    valid_from = claims.not_before(token)
    if valid_from is None or valid_from <= now:
        return now
    old = publisher.read(spec).token
    if old is None:
        return now
    return valid_from if old.expires_at is None else min(valid_from, old.expires_at)


def _published(spec: TokenSpec, token: AccessToken) -> Outcome:
    now = time.time()
    notes = claims.check(spec, token, now)
    notes += publisher.publish(spec, token)
    message = "renewed" if token.expires_at is None else f"renewed, valid for {duration(token.expires_at - now)}"
    if token.opaque and (spec.audience or spec.scope):
        message += ", not checkable because it is opaque"
    return Outcome(
        spec,
        State.RENEWED,
        "renewed",
        message,
        expires_at=token.expires_at,
        notes=notes,
        token=token,
        fingerprint=jwt.fingerprint(token.text.reveal()),
    )


def _failed(spec: TokenSpec, failure: Failure, grant: Optional[str] = None) -> Outcome:
    hint = failure.hint or (_LATER if isinstance(failure, Unavailable) else None)
    dead = grant if isinstance(failure, DeadGrant) else None
    return Outcome(spec, State.FAILED, failure.reason, failure.message, hint, dead_grant=dead)
