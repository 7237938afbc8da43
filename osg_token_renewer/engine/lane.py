"""One lane: opens an account, and obtains and publishes its tokens one after the other."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple, Optional

from osg_token_renewer.engine.attempts import Asking, Issuer, Limits
from osg_token_renewer.errors import (
    REPORT,
    Failure,
    NotAsked,
    Stopped,
    Unsuitable,
)
from osg_token_renewer.model import BUG, AccessToken, Account, Outcome, State, TokenSpec
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.base import Context, Fetch, Fetched, Kept
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.text import duration, plural
from osg_token_renewer.tokens import claims, clock_skew, jwt

log = logging.getLogger(__name__)

# Tokens that ask for exactly the same: one request serves them all.
Batch = list[TokenSpec]


class _Waiting(NamedTuple):
    """A token that came and is not valid yet; `until` is when it, or nothing better, is to be published, in
    seconds since 1970."""

    spec: TokenSpec
    token: AccessToken
    until: float


class Lane:
    """One outcome for each token, whatever happens."""

    def __init__(
        self,
        account: Account,
        batches: Sequence[Batch],
        context: Context,
        put: Callable[[Outcome], None],
        limits: Limits,
    ) -> None:
        self.account = account
        self.cut_off = False
        self._batches = batches
        self._context = context
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
            self._done(make_failed(spec, failure, self._grant))

    def _obtain(self, kept: Kept) -> None:
        """Opens the account, and asks for what is left of each batch, until something ends the lane."""
        try:
            # The issuer is not asked for what could not be published.
            for spec, failure in [
                (spec, failure) for spec in self._left.values() if (failure := _no_place(spec))
            ]:
                self._fail([spec], failure)
            if not self._left:
                return
            self._limits.check()
            name, source = self.account.name, SOURCES[self.account.source]
            # Before it is used: what somebody may have given the account meanwhile is another one.
            self._grant = source.grant(self.account)
            log.debug(
                "account %s: opening it as %s, for %s", name, source.NAME, plural(len(self._left), "token")
            )
            with ExitStack() as stack:
                asking = Asking(self._limits, self.account)
                context = replace(self._context, begin=asking.begin, kept=kept)
                fetch = asking.persistently(
                    lambda: stack.enter_context(source.session(self.account, context))
                )
                if source.opening_obtains_token():
                    asking.issuer.answered()
                for batch in self._batches:
                    wanted = [spec for spec in batch if id(spec) in self._left]
                    if wanted:
                        self._renew(wanted, fetch, asking)
        except Failure as failure:
            self.cut_off = self.cut_off or failure.risks_account
            later = {id(each.spec) for each in self._waiting}
            unanswered = [spec for spec in self._left.values() if id(spec) not in later]
            self._fail(unanswered, failure)
            if not unanswered:
                log.warning("account %s: %s", self.account.name, failure.message)

    def _renew(self, batch: Batch, fetch: Fetch, asking: Asking) -> None:
        """Obtains one token, and publishes it for each of the batch, or keeps it until it is valid. Raises a
        Failure that ends the lane."""
        try:
            # One that lives long enough for that does for all.
            longest = max(batch, key=lambda spec: spec.min_lifetime or 0)
            fetched = asking.persistently(lambda: fetch(longest))
        except Failure as failure:
            if failure.issuer_answered:
                asking.issuer.is_there()
            if failure.ends_lane:
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
        difference = clock_skew.find_skew(token, fetched.clock_ahead, now)
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


def _no_place(spec: TokenSpec) -> Optional[Failure]:
    try:
        SINKS[spec.sink].preflight(spec)
    except Failure as failure:
        return failure
    return None


def _valid_from(spec: TokenSpec, token: AccessToken, now: float) -> float:
    """When the token is to be published: not before it is valid, as long as the token that it replaces is.

    Without a good one nothing is better than this: those whose clocks are right, or who allow for others, can
    use it at once."""
    valid_from = claims.not_before(token)
    if valid_from is None or valid_from <= now:
        return now
    old = SINKS[spec.sink].read(spec).token
    if old is None:
        return now
    return valid_from if old.expires_at is None else min(valid_from, old.expires_at)


def _published(spec: TokenSpec, token: AccessToken) -> Outcome:
    now = time.time()
    notes = claims.check(spec, token, now)
    notes += SINKS[spec.sink].publish(spec, token)
    message = (
        "renewed" if token.expires_at is None else f"renewed, valid for {duration(token.expires_at - now)}"
    )
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


def make_failed(spec: TokenSpec, failure: Failure, grant: Optional[str] = None) -> Outcome:
    hint = failure.hint or failure.advice
    dead = grant if failure.kills_grant else None
    return Outcome(spec, State.FAILED, failure.reason, failure.message, hint, dead_grant=dead)
