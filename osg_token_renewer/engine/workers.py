"""The worker threads of a run: they run the lanes and hand on the outcomes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from osg_token_renewer.engine import outcomes
from osg_token_renewer.engine.issuers import IssuerTable
from osg_token_renewer.engine.lane import Batch, Lane
from osg_token_renewer.engine.lane_queue import LaneQueue
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.errors import Unavailable
from osg_token_renewer.model import Account, Outcome, TokenSpec
from osg_token_renewer.sources.base import Context, Kept
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system.watchdog import LINGER
from osg_token_renewer.text import duration

log = logging.getLogger(__name__)

# A lane waits for its issuer most of the time. Sources themselves limit what takes cores or memory.
AT_ONCE = 64


def deal(
    due: Sequence[TokenSpec], accounts: Mapping[str, Account], at_once: int
) -> list[tuple[Account, list[Batch]]]:
    """The tokens as lanes, in the order of `due`. An account is one lane, because a refresh token may rotate;
    or as many as there is room for, if its source can open it several times at once."""
    batches: dict[str, dict[str, Batch]] = {}
    for spec in due:
        batches.setdefault(spec.account, {}).setdefault(spec.asked, []).append(spec)
    dealt = []
    for name, by_request in batches.items():
        width = max(1, at_once // len(batches)) if SOURCES[accounts[name].source].OVERLAPS else 1
        every = list(by_request.values())
        dealt += [(accounts[name], every[first::width]) for first in range(min(width, len(every)))]
    return dealt


def run_lanes(
    due: Sequence[TokenSpec],
    accounts: Mapping[str, Account],
    *,
    context: Context,
    limits: Limits,
    workers: Optional[int] = None,
    known_issuers: Optional[Mapping[str, str]] = None,
) -> Iterator[Outcome]:
    """Obtains and publishes each token; yields one outcome for each, as they come.

    It takes no longer than `limits` allows and LINGER. Closing it early stops the lanes and waits for them.
    `workers`: how many lanes run at once. `known_issuers`: see IssuerTable.
    """
    at_once = workers or AT_ONCE
    coming: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    issuers = IssuerTable(known_issuers or {})
    lanes = [
        Lane(account, batches, context, coming.put, limits, issuers)
        for account, batches in deal(due, accounts, at_once)
    ]
    threads = _start(LaneQueue(lanes, limits), min(at_once, len(lanes)))
    end = time.monotonic() + limits.left() + min(LINGER, limits.seconds)
    left = {id(spec): spec for spec in due}
    try:
        while left:
            outcome = coming.get(timeout=max(0.0, end - time.monotonic()))
            del left[id(outcome.spec)]
            yield outcome
    except queue.Empty:
        late = f"its lane had not come back when the {duration(limits.seconds)} of the run were over"
        stuck = Unavailable(late, "look for a file system or a name server that does not answer")
        yield from (outcomes.of_failure(spec, stuck) for spec in left.values())
    finally:
        limits.abandon()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        _warn_of_risk([lane.account.name for lane in lanes if lane.at_risk])


def _start(lanes: LaneQueue, workers: int) -> list[threading.Thread]:
    """Starts daemon threads: a lane that is stuck, on a file system say, does not keep the process alive."""

    def work() -> None:
        with Kept() as kept:
            while (lane := lanes.next()) is not None:
                lane.run(kept)
                lanes.remove(lane)

    threads = [threading.Thread(target=work, name=f"lane_{number}", daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    return threads


def _warn_of_risk(accounts: Sequence[str]) -> None:
    if accounts:
        agents = "1 agent was" if len(accounts) == 1 else f"{len(accounts)} agents were"
        loss = "where it rotates refresh tokens, the account may be lost"
        log.warning("%s cut off while waiting for the issuer: %s: %s", agents, loss, ", ".join(accounts))
