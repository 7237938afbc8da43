"""Lanes in parallel: the tokens of one account one after the other, accounts beside each other.

A failure stops nothing but what depends on it: a token's failure is that token's outcome, an account that cannot be opened is the
outcome of each of its tokens.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from osg_token_renewer import claims, jwt, publisher
from osg_token_renewer.all_sources import SOURCES
from osg_token_renewer.errors import REPORT, Failure, TimedOut, Unavailable, Unsuitable
from osg_token_renewer.model import BUG, STOPPED, Account, Outcome, State, TokenSpec
from osg_token_renewer.sources.base import Fetch
from osg_token_renewer.stop import Stop
from osg_token_renewer.text import duration, plural

log = logging.getLogger(__name__)

# A lane waits for its issuer most of the time, but opening an oidc-agent account takes a core for 0.3 s and 67 MB.
_LANES_PER_CORE = 4
_MOST_LANES = 16

# The next step where nobody knows a better one.
_LATER = "the next run tries again; if this lasts, check the network and ask the issuer's operators"


def workers(lanes: int, configured: Optional[int]) -> int:
    """How many lanes run at a time."""
    return max(1, min(lanes, configured or min(_MOST_LANES, _LANES_PER_CORE * (os.cpu_count() or 1))))


def run(
    due: Sequence[TokenSpec], accounts: Mapping[str, Account], *, directory: str, configured_workers: Optional[int], stop: Stop
) -> Iterator[Outcome]:
    """Obtains and publishes each token; yields one outcome for each, as they come.

    `directory` is where sessions may keep sockets. Closing the iterator early asks the lanes to stop and waits for them.
    """
    lanes: dict[str, list[TokenSpec]] = {}
    for spec in due:
        lanes.setdefault(spec.account, []).append(spec)
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    abandoned = threading.Event()

    def stopped() -> bool:
        return stop.requested() or abandoned.is_set()

    with ThreadPoolExecutor(workers(len(lanes), configured_workers), thread_name_prefix="lane") as pool:
        for name, specs in lanes.items():
            pool.submit(_lane, accounts[name], specs, directory, outcomes.put, stopped)
        try:
            for _ in due:
                yield outcomes.get()
        finally:
            abandoned.set()


def _lane(
    account: Account,
    specs: Sequence[TokenSpec],
    directory: str,
    put: Callable[[Outcome], None],
    stopped: Callable[[], bool],
) -> None:
    """One outcome for each token, whatever happens."""
    left = list(specs)
    try:
        # The issuer is not asked for what could not be published.
        blocked = [_failed(spec, failure) for spec in specs if (failure := _no_place(spec))]
        for outcome in blocked:
            put(outcome)
            left.remove(outcome.spec)
        if left and not stopped():
            log.debug("account %s: opening it as %s, for %s", account.name, account.source, plural(len(left), "token"))
            with SOURCES[account.source].session(account, directory) as fetch:
                while left and not stopped():
                    put(_renew(left[0], fetch))
                    del left[0]
        for spec in left:
            put(Outcome(spec, State.FAILED, STOPPED, "the run was stopped before its turn came"))
    except Failure as error:
        for spec in left:
            put(_failed(spec, error))
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
        for spec in left:
            put(Outcome(spec, State.FAILED, BUG, f"a bug in this program ({type(error).__name__})", REPORT))


def _no_place(spec: TokenSpec) -> Optional[Failure]:
    try:
        publisher.preflight(spec)
    except Failure as failure:
        return failure
    return None


def _renew(spec: TokenSpec, fetch: Fetch) -> Outcome:
    """Obtains, checks and publishes one token. Raises TimedOut, for the lane: who did not answer will not answer the next either."""
    try:
        fetched = fetch(spec)
        try:
            token = jwt.parse(fetched.text.reveal(), fetched.expires_at, fetched.issuer)
        except ValueError as error:
            raise Unsuitable(f"what the issuer sent is not a token: {error}") from None
        now = time.time()
        notes = claims.check(spec, token, now)
        notes += publisher.publish(spec, token)
    except TimedOut:
        raise
    except Failure as failure:
        return _failed(spec, failure)
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


def _failed(spec: TokenSpec, failure: Failure) -> Outcome:
    hint = failure.hint or (_LATER if isinstance(failure, Unavailable) else None)
    return Outcome(spec, State.FAILED, failure.reason, failure.message, hint)
