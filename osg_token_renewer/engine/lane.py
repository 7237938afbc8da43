"""One lane: it opens an account, and obtains and publishes that account's tokens one after the other."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple, Optional

from osg_token_renewer.engine import outcomes
from osg_token_renewer.engine.issuers import Issuer, IssuerTable
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.engine.retries import Requests
from osg_token_renewer.errors import REPORT, Failure, NotAsked, Stopped, Unsuitable
from osg_token_renewer.model import BUG, AccessToken, Account, Outcome, State, TokenSpec
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.base import Context, Fetch, Fetched, Kept
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.text import plural
from osg_token_renewer.tokens import claims, clock_skew, jwt

log = logging.getLogger(__name__)

# Tokens that ask for exactly the same: one request serves them all.
Batch = list[TokenSpec]


class _Held(NamedTuple):
    """A new token that is not valid yet, and when to publish it, in seconds since 1970."""

    spec: TokenSpec
    token: AccessToken
    until: float


class Lane:
    """Hands one outcome for each token to `put`, whatever happens."""

    def __init__(
        self,
        account: Account,
        batches: Sequence[Batch],
        context: Context,
        put: Callable[[Outcome], None],
        limits: Limits,
        issuers: IssuerTable,
    ) -> None:
        self.account = account
        # A rotated refresh token may be lost.
        self.at_risk = False
        self._batches = batches
        self._context = context
        self._put = put
        self._limits = limits
        self._issuers = issuers
        # By identity: each token has its outcome, even if two have the same name.
        self._left = {id(spec): spec for batch in batches for spec in batch}
        self._held: dict[int, _Held] = {}
        self._grant: Optional[str] = None

    @property
    def issuer(self) -> Issuer:
        """Found only in the lane, so that a bug in its source ends no other lane."""
        return self._issuers.find(self.account)

    def run(self, kept: Kept) -> None:
        """Never raises. `kept` belongs to the worker."""
        try:
            self._obtain(kept)
            self._publish_held()
        except BaseException as error:
            # SystemExit, for example, would silently end this thread, and no lane would follow.
            bug = type(error).__name__
            # The frames, but not the exception's text: it may hold a secret.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("account %s: a bug in this program: %s\n%s", self.account.name, bug, stack)
            for spec in list(self._left.values()):
                self._finish(Outcome(spec, State.FAILED, BUG, f"a bug in this program ({bug})", REPORT))

    def _finish(self, outcome: Outcome) -> None:
        del self._left[id(outcome.spec)]
        self._put(outcome)

    def _fail(self, specs: Sequence[TokenSpec], failure: Failure) -> None:
        for spec in specs:
            self._finish(outcomes.of_failure(spec, failure, self._grant))

    def _obtain(self, kept: Kept) -> None:
        """Obtains each batch, until a failure ends the lane."""
        try:
            self._fail_unpublishable()
            if self._left:
                self._limits.check()
                with ExitStack() as stack:
                    self._renew_batches(stack, kept)
        except Failure as failure:
            self.at_risk = failure.risks_account
            unanswered = [spec for key, spec in self._left.items() if key not in self._held]
            self._fail(unanswered, failure)
            if not unanswered:
                log.warning("account %s: %s", self.account.name, failure.message)

    def _fail_unpublishable(self) -> None:
        """The issuer is not asked for a token that could not be published."""
        for spec in list(self._left.values()):
            try:
                SINKS[spec.sink].preflight(spec)
            except Failure as failure:
                self._fail([spec], failure)

    def _renew_batches(self, stack: ExitStack, kept: Kept) -> None:
        """Opens the account, which `stack` closes. Raises the Failure that ends the lane."""
        source = SOURCES[self.account.source]
        # Before the account is opened: a grant that somebody gives it later is another one.
        self._grant = source.grant(self.account)
        tokens = plural(len(self._left), "token")
        log.debug("account %s: opening it as %s, for %s", self.account.name, source.NAME, tokens)
        requests = Requests(self._limits, self.issuer, self.account.timeout)
        context = replace(self._context, begin=requests.begin, kept=kept)
        fetch = requests.repeat(lambda: stack.enter_context(source.session(self.account, context)))
        if source.opening_obtains_token():
            self.issuer.note_token()
        for batch in self._batches:
            wanted = [spec for spec in batch if id(spec) in self._left]
            if wanted:
                self._renew(wanted, fetch, requests)

    def _renew(self, batch: Batch, fetch: Fetch, requests: Requests) -> None:
        """Obtains one token for the whole batch. Raises the Failure that ends the lane."""
        try:
            # A token that lives long enough for this one lives long enough for all.
            longest = max(batch, key=lambda spec: spec.min_lifetime or 0)
            fetched = requests.repeat(lambda: fetch(longest))
        except Failure as failure:
            if failure.issuer_answered:
                self.issuer.note_answer()
            if failure.ends_lane:
                raise
            self._fail(batch, failure)
            return
        self.issuer.note_token()
        for spec in batch:
            try:
                self._accept(spec, fetched)
            except Failure as failure:
                self._fail([spec], failure)

    def _accept(self, spec: TokenSpec, fetched: Fetched) -> None:
        """Publishes the token, or holds it until it is valid. Raises a Failure if it is not suitable."""
        try:
            token = jwt.parse(fetched.text.reveal(), fetched.expires_at, fetched.issuer)
        except ValueError as error:
            raise Unsuitable(f"what the issuer sent is not a token: {error}") from None
        now = time.time()
        if difference := clock_skew.find_skew(token, fetched.clock_ahead, now):
            self.issuer.report_clock(difference)
        until = _publishing_time(spec, token, now)
        if until <= now:
            self._finish(_publish(spec, token))
            return
        # A token that could not be published then is not held.
        claims.check(spec, token, now)
        log.debug("token %s: it becomes valid in %.0f s, and is published then", spec.name, until - now)
        self._held[id(spec)] = _Held(spec, token, until)

    def _publish_held(self) -> None:
        """The account is closed by now, so that nothing waits but this lane."""
        for spec, token, until in sorted(self._held.values(), key=lambda each: each.until):
            try:
                if not self._limits.wait(until - time.time()):
                    self._limits.check()
                self._finish(_publish(spec, token))
            except (Stopped, NotAsked) as failure:
                what = "the run ended before the new token became valid (nbf); the next run obtains another"
                self._fail([spec], failure.saying(what))
            except Failure as failure:
                self._fail([spec], failure)


def _publishing_time(spec: TokenSpec, token: AccessToken, now: float) -> float:
    """When to publish a token that may not be valid yet: when it is, or when the old one expires."""
    valid_from = claims.not_before(token)
    if valid_from is None or valid_from <= now:
        return now
    old = SINKS[spec.sink].read(spec).token
    if old is None:
        # Consumers whose clocks are right, or that allow for others, can use the new one at once.
        return now
    return valid_from if old.expires_at is None else min(valid_from, old.expires_at)


def _publish(spec: TokenSpec, token: AccessToken) -> Outcome:
    """Raises a Failure if the token is not published."""
    now = time.time()
    notes = claims.check(spec, token, now) + SINKS[spec.sink].publish(spec, token)
    return outcomes.of_renewal(spec, token, notes, now)
