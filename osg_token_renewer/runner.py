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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from osg_token_renewer import claims, jwt, publisher
from osg_token_renewer.all_sources import SOURCES
from osg_token_renewer.errors import REPORT, DeadGrant, Failure, TimedOut, Unavailable, Unsuitable
from osg_token_renewer.model import BUG, STOPPED, Account, Outcome, State, TokenSpec
from osg_token_renewer.sources.base import Directories, Fetch, Fetched
from osg_token_renewer.stop import Stop
from osg_token_renewer.text import duration, plural

log = logging.getLogger(__name__)

# A lane waits for its issuer most of the time. What takes cores or memory its source limits by itself.
AT_ONCE = 64

# Tokens that ask for exactly the same: one request serves them all.
Batch = list[TokenSpec]

# The next step where nobody knows a better one.
_LATER = "the next run tries again; if this lasts, check the network and ask the issuer's operators"


def lanes(due: Sequence[TokenSpec], accounts: Mapping[str, Account], at_once: int) -> list[tuple[Account, list[Batch]]]:
    """What is obtained one after the other, in the order of `due`.

    Tokens of one account are one lane, for a refresh token may rotate; where its source can have several sessions of an account open,
    they are dealt over as many lanes as there is room for.
    """
    batches: dict[str, dict[object, Batch]] = {}
    for spec in due:
        batches.setdefault(spec.account, {}).setdefault((spec.asked, spec.min_lifetime), []).append(spec)
    dealt = []
    for name, by_wish in batches.items():
        width = max(1, at_once // len(batches)) if SOURCES[accounts[name].source].OVERLAPS else 1
        every = list(by_wish.values())
        dealt += [(accounts[name], every[first::width]) for first in range(min(width, len(every)))]
    return dealt


def run(
    due: Sequence[TokenSpec], accounts: Mapping[str, Account], *, where: Directories, configured_workers: Optional[int], stop: Stop
) -> Iterator[Outcome]:
    """Obtains and publishes each token; yields one outcome for each, as they come.

    Closing the iterator early asks the lanes to stop and waits for them.
    """
    at_once = configured_workers or AT_ONCE
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    abandoned = threading.Event()

    def stopped() -> bool:
        return stop.requested() or abandoned.is_set()

    with ThreadPoolExecutor(at_once, thread_name_prefix="lane") as pool:
        for account, batches in lanes(due, accounts, at_once):
            pool.submit(_lane, account, batches, where, outcomes.put, stopped)
        try:
            for _ in due:
                yield outcomes.get()
        finally:
            abandoned.set()


def _lane(
    account: Account,
    batches: Sequence[Batch],
    where: Directories,
    put: Callable[[Outcome], None],
    stopped: Callable[[], bool],
) -> None:
    """One outcome for each token, whatever happens."""
    # By identity: whatever the tokens are called, each has its outcome.
    left = {id(spec): spec for batch in batches for spec in batch}
    source = SOURCES[account.source]
    # Before it is used: what somebody may have given the account meanwhile is another one.
    grant = source.grant(account)

    def done(outcome: Outcome) -> None:
        put(outcome)
        del left[id(outcome.spec)]

    try:
        # The issuer is not asked for what could not be published.
        for outcome in [_failed(spec, failure) for spec in left.values() if (failure := _no_place(spec))]:
            done(outcome)
        if left and not stopped():
            log.debug("account %s: opening it as %s, for %s", account.name, account.source, plural(len(left), "token"))
            with source.session(account, where) as fetch:
                _obtain(batches, left, fetch, done, stopped)
        for spec in left.values():
            put(Outcome(spec, State.FAILED, STOPPED, "the run was stopped before its turn came"))
    except Failure as error:
        for spec in left.values():
            put(_failed(spec, error, grant))
        if not left:
            log.warning("account %s: %s", account.name, error.message)
    except Exception as error:
        # Where, but not the exception's text: it may hold a secret.
        log.error(
            "account %s: a bug in this program: %s\n%s",
            account.name,
            type(error).__name__,
            "".join(traceback.format_tb(error.__traceback__)),
        )
        for spec in left.values():
            put(Outcome(spec, State.FAILED, BUG, f"a bug in this program ({type(error).__name__})", REPORT))


def _no_place(spec: TokenSpec) -> Optional[Failure]:
    try:
        publisher.preflight(spec)
    except Failure as failure:
        return failure
    return None


def _obtain(
    batches: Sequence[Batch], left: Mapping[int, TokenSpec], fetch: Fetch, done: Callable[[Outcome], None], stopped: Callable[[], bool]
) -> None:
    """What is left of each batch, until the run is stopped."""
    for batch in batches:
        wanted = [spec for spec in batch if id(spec) in left]
        if wanted and not stopped():
            _renew(wanted, fetch, done)


def _renew(batch: Batch, fetch: Fetch, done: Callable[[Outcome], None]) -> None:
    """Obtains one token, and checks and publishes it for each of the batch.

    Raises TimedOut and DeadGrant, for the lane: the next would fare no better.
    """
    try:
        fetched = fetch(batch[0])
    except (TimedOut, DeadGrant):
        raise
    except Failure as failure:
        for spec in batch:
            done(_failed(spec, failure))
        return
    for spec in batch:
        try:
            done(_published(spec, fetched))
        except Failure as failure:
            done(_failed(spec, failure))


def _published(spec: TokenSpec, fetched: Fetched) -> Outcome:
    try:
        token = jwt.parse(fetched.text.reveal(), fetched.expires_at, fetched.issuer)
    except ValueError as error:
        raise Unsuitable(f"what the issuer sent is not a token: {error}") from None
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
