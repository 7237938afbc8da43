"""The worker threads of a run: they work off the lanes and pass on the outcomes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from osg_token_renewer.engine.attempts import Limits
from osg_token_renewer.engine.lane import Batch, Lane, make_failed
from osg_token_renewer.engine.lane_queue import LaneQueue
from osg_token_renewer.errors import (
    Unavailable,
)
from osg_token_renewer.model import Account, Options, Outcome, TokenSpec
from osg_token_renewer.sources.base import Context, Kept
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system.signals import Stop
from osg_token_renewer.system.watchdog import LINGER
from osg_token_renewer.text import duration

log = logging.getLogger(__name__)

# A lane waits for its issuer most of the time. What takes cores or memory its source limits by itself.
AT_ONCE = 64

# The next step where nobody knows a better one.
_STUCK = "look for a file system or a name server that does not answer"


def deal(
    due: Sequence[TokenSpec], accounts: Mapping[str, Account], at_once: int
) -> list[tuple[Account, list[Batch]]]:
    """What is obtained one after the other, in the order of `due`.

    Tokens of one account are one lane, for a refresh token may rotate; where its source can have several
    sessions of an account open, they are dealt over as many lanes as there is room for."""
    batches: dict[str, dict[str, Batch]] = {}
    for spec in due:
        batches.setdefault(spec.account, {}).setdefault(spec.asked, []).append(spec)
    dealt = []
    for name, by_wish in batches.items():
        width = max(1, at_once // len(batches)) if SOURCES[accounts[name].source].OVERLAPS else 1
        every = list(by_wish.values())
        dealt += [(accounts[name], every[first::width]) for first in range(min(width, len(every)))]
    return dealt


def run_lanes(
    due: Sequence[TokenSpec],
    accounts: Mapping[str, Account],
    *,
    context: Context,
    configured_workers: Optional[int],
    stop: Stop,
    run_timeout: float = Options.run_timeout,
    known_issuers: Optional[Mapping[str, str]] = None,
) -> Iterator[Outcome]:
    """Obtains and publishes each token; yields one outcome for each, as they come, within `run_timeout`
    seconds and LINGER.

    `known_issuers` are those of accounts' last tokens. Closing the iterator early asks the lanes to stop and
    waits for them."""
    at_once = configured_workers or AT_ONCE
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    abandoned = threading.Event()
    limits = Limits(run_timeout, lambda: stop.requested() or abandoned.is_set(), known_issuers or {})
    dealt = deal(due, accounts, at_once)
    turns = limits.in_turn([account for account, _ in dealt])
    every = [Lane(*dealt[turn], context, outcomes.put, limits) for turn in turns]
    threads = _start(LaneQueue(every, limits), min(at_once, len(every)))
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
            yield make_failed(
                spec,
                Unavailable(
                    f"its lane had not come back when the {duration(run_timeout)} of the run were over",
                    _STUCK,
                ),
            )
    finally:
        abandoned.set()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        _tell_cut_off([lane.account.name for lane in every if lane.cut_off])


def _start(line: LaneQueue, workers: int) -> list[threading.Thread]:
    """Threads that nobody has to wait for: a lane may be stuck in what has no time limit, as a file system or
    the resolver."""

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


def _tell_cut_off(accounts: Sequence[str]) -> None:
    if accounts:
        log.warning(
            "%s cut off while waiting for the issuer: where it rotates refresh tokens, the account may be lost: %s",
            "1 agent was" if len(accounts) == 1 else f"{len(accounts)} agents were",
            ", ".join(accounts),
        )
