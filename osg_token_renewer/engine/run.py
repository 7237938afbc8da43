"""One run: which tokens are due, and what becomes of each."""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Optional, TypeVar

from osg_token_renewer.engine import expiry, outcomes, planner
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.errors import HistoryError, Local, UsageError
from osg_token_renewer.history.store import DamagedError, History
from osg_token_renewer.model import Account, Config, Outcome, Planned, RenewerSettings, State
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.base import Context, Kept
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system import locks, paths, private_directories, trusted_files
from osg_token_renewer.system.signals import Stop
from osg_token_renewer.system.watchdog import LINGER, Watchdog

log = logging.getLogger(__name__)

# Seconds that a second run waits for the first before it gives up.
LOCK_WAIT = 10.0
# With the usual timeout, three more requests take no longer.
_LAST_REQUESTS = 180.0

_NO_PAUSES = "accounts with a dead grant are not paused meanwhile"

T = TypeVar("T")


def plan_all(config: Config, now: float, force: bool = False, level: int = logging.WARNING) -> list[Planned]:
    """What to do about each token. A history that cannot be read is a message of `level`, nothing more."""
    history = History(paths.state_directory(config.options.state_dir))
    records = _remembered(history.records, level)
    planned = []
    for spec in config.tokens:
        published, record = SINKS[spec.sink].read(spec), records.get(spec.name)
        decision = planner.decide(spec, published, record, now, force, config.options.spread)
        planned.append(Planned(spec, published, record, decision, planner.expiry(published, record)))
    if force or not any(each.decision.due for each in planned):
        return planned
    rests = {
        name: rest
        for name, rest in _remembered(history.rests, logging.DEBUG).items()
        if (account := config.accounts.get(name))
        and planner.is_resting(rest, SOURCES[account.source].grant(account), now)
    }
    return [
        each._replace(rest=rests.get(each.spec.account)) if each.decision.due else each for each in planned
    ]


def select(config: Config, names: Sequence[str]) -> Config:
    """Keeps only these tokens, or all if no name is given. Raises UsageError for a name without a token."""
    known = {spec.name for spec in config.tokens}
    for name in names:
        if name not in known:
            missing = f"there is no [token {name}] in the configuration"
            raise UsageError(missing, "see: osg-token-renewer status")
    wanted = set(names) or known
    return replace(config, tokens=tuple(spec for spec in config.tokens if spec.name in wanted))


def longest(options: RenewerSettings) -> float:
    """Seconds that a run may take with all that it waits for; a run that takes longer is stuck."""
    return options.run_timeout + LOCK_WAIT + 2 * min(LINGER, options.run_timeout)


def longest_stop(accounts: Mapping[str, Account]) -> float:
    """Seconds that a run may take once it is told to stop: for the requests under way, and for those that may
    follow when an agent had no room to write a new refresh token."""
    most = max((account.timeout for account in accounts.values()), default=0.0)
    return most + min(3 * most, _LAST_REQUESTS) + LINGER


@contextmanager
def begin_run(
    load: Callable[[], Config], *, stop: Stop, tokens: Sequence[str] = (), force: bool = False
) -> Iterator[Run]:
    """A run for the tokens of these names, or for all; at its end, all that it opened is closed."""
    # The watchdog also guards `load`: a configuration can be on a file system that does not answer.
    with Watchdog(stop) as watchdog, Kept() as shared, ExitStack() as stack:
        # Garbage is collected rarely: most of what a run makes stays until its end.
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(20_000)
        config = load()
        watchdog.allow(longest(config.options), longest_stop(config.accounts))
        yield Run(select(config, tokens), force=force, stop=stop, shared=shared)


class Run:
    """Plans the tokens of a configuration, then iterates over their outcomes and records them."""

    def __init__(self, config: Config, *, force: bool, stop: Stop, shared: Kept) -> None:
        self.config = config
        self._force = force
        self._stop = stop
        self._state = paths.state_directory(config.options.state_dir)
        self._history = History(self._state)
        self._shared = shared

    def plan(self) -> list[Planned]:
        return plan_all(self.config, time.time(), self._force)

    def outcomes(self, planned: Sequence[Planned]) -> Iterator[Outcome]:
        """One outcome for each planned token: the fresh ones first, the others as they come.

        If nothing is due, it takes no lock and starts nothing. Raises LockHeld when another run is at work.
        """
        due = [each for each in planned if each.decision.due]
        yield from (outcomes.of_fresh(each) for each in planned if not each.decision.due)
        if not due:
            return
        known = {each.spec.account: issuer for each in planned if (issuer := _last_issuer(each))}
        with ExitStack() as stack:
            sockets = self._enter(stack)
            for name, sink in SINKS.items():
                sink.sweep([each.spec for each in due if each.spec.sink == name])
            # Another run may have renewed some of them meanwhile.
            still = replace(self.config, tokens=tuple(each.spec for each in due))
            due = plan_all(still, time.time(), self._force, logging.DEBUG)
            yield from (outcomes.of_fresh(each) for each in due if not each.decision.due)
            done: list[Outcome] = []
            try:
                for outcome in self._renew([each for each in due if each.decision.due], sockets, known):
                    done.append(outcome)
                    yield outcome
            finally:
                self._record(done)

    def _enter(self, stack: ExitStack) -> str:
        """Takes the lock in the state directory, which all runs share; returns the directory for sockets."""
        locked = self._lock(stack, self._state)
        with suppress(OSError):
            if trusted_files.is_open_to_all(os.stat(self._state)):
                holds = "where the lock and the copies of account files are"
                log.warning("others can write to %s, %s: chmod o-w %s", self._state, holds, self._state)
        # This directory comes and goes with the service, so the run looks for it once it holds the lock.
        directory, shared = stack.enter_context(
            private_directories.open_runtime_directory(self.config.options.runtime_dir, _rescue)
        )
        if not locked and not (shared and self._lock(stack, directory)):
            log.warning("going on without a lock: another run at the same time would not be noticed")
        return directory

    def _lock(self, stack: ExitStack, directory: str) -> bool:
        try:
            path = os.path.join(private_directories.ensure_writable(directory), "lock")
            stack.enter_context(locks.hold_run_lock(path, LOCK_WAIT, self._stop.requested))
        except OSError as error:
            remedy = "let this user write there"
            log.warning("no lock can be taken in %s: %s; %s", directory, error.strerror, remedy)
            return False
        return True

    def _renew(
        self, due: Sequence[Planned], sockets: str, known_issuers: Mapping[str, str]
    ) -> Iterator[Outcome]:
        from osg_token_renewer.engine import workers

        for each in due:
            log.debug("token %s: due: %s", each.spec.name, each.decision.text)
            if each.rest:
                yield settle(outcomes.of_rest(each, each.rest, time.time()), each)
        before = {each.spec.name: each for each in due}
        for outcome in workers.run_lanes(
            [each.spec for each in _most_urgent_first(due) if not each.rest],
            self.config.accounts,
            context=Context(sockets, self._state, shared=self._shared),
            limits=Limits(self.config.options.run_timeout, self._stop.requested),
            workers=self.config.options.workers,
            known_issuers=known_issuers,
        ):
            yield settle(outcome, before[outcome.spec.name])

    def _record(self, done: Sequence[Outcome]) -> None:
        try:
            private_directories.ensure_writable(self._state)
            try:
                self._history.record(done, time.time())
            except DamagedError as error:
                aside = self._history.put_aside()
                log.warning(
                    "the history is damaged (%s): it was put aside as %s and starts anew", error, aside
                )
                self._history.record(done, time.time())
        except (HistoryError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            forgotten = "what this run did is not remembered"
            log.warning("the history cannot be written (%s): %s; %s", reason, forgotten, _NO_PAUSES)


def _remembered(query: Callable[[], dict[str, T]], level: int) -> dict[str, T]:
    try:
        return query()
    except DamagedError as error:
        anew = "it starts anew with the next renewal"
        log.log(level, "the history is damaged (%s): %s; %s", error, anew, _NO_PAUSES)
    except HistoryError as error:
        log.log(level, "the history cannot be read (%s): going on without it; %s", error, _NO_PAUSES)
    return {}


def _rescue(directory: str) -> bool:
    return all(source.rescue(directory) for source in SOURCES.values())


def settle(outcome: Outcome, planned: Planned) -> Outcome:
    """Adds what a failure means for the token's readers, once an expired token is removed if it is to be."""
    if outcome.state is not State.FAILED:
        return outcome
    now = time.time()
    stays = ""
    try:
        if expiry.remove_expired(planned, now):
            return outcome._replace(consequence="the expired token was removed", expires_at=None)
    except Local as error:
        stays = f" and stays: {error.message}"
    consequence = outcomes.consequence(planned, now) + stays
    return outcome._replace(consequence=consequence, expires_at=planned.expires_at)


def _most_urgent_first(due: Sequence[Planned]) -> list[Planned]:
    """Accounts in the order of the nearest expiry among their tokens, which stay in file order."""
    nearest: dict[str, float] = {}
    for each in due:
        nearest[each.spec.account] = min(nearest.get(each.spec.account, math.inf), each.expires_at or 0.0)
    return sorted(due, key=lambda each: nearest[each.spec.account])


def _last_issuer(each: Planned) -> Optional[str]:
    """The issuer of the token that was published last, if it is known."""
    token = each.published.token
    return (token.issuer if token else None) or (each.record.issuer if each.record else None)
