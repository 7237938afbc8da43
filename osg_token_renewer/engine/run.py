"""The engine: which tokens are due, and what became of each."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain
from typing import Optional, TypeVar

from osg_token_renewer.engine import planner
from osg_token_renewer.errors import DeadGrant, HistoryError, Local, UsageError
from osg_token_renewer.history import History
from osg_token_renewer.history.store import DamagedError
from osg_token_renewer.model import Account, Config, Found, Options, Outcome, Planned, Rest, State, TokenSpec
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.system import locks, paths, private_directories, trusted_files
from osg_token_renewer.system.signals import Stop
from osg_token_renewer.system.watchdog import LINGER
from osg_token_renewer.text import duration

log = logging.getLogger(__name__)

# How long a second run waits for the first before it says so and leaves.
LOCK_WAIT = 10.0
# Three requests more take no longer where the timeout is the usual one.
_LAST_REQUESTS = 180.0

# Whoever has no memory has no rests either.
_NO_RESTS = "accounts with a dead grant do not rest meanwhile"

T = TypeVar("T")


def plan(
    config: Config, memory: History, now: float, force: bool = False, level: int = logging.WARNING
) -> list[Planned]:
    """What is to be done about each token; a history that cannot be read is a message of that level and
    nothing more."""
    records = _remembered(memory.records, level)
    spread = config.options.spread
    planned = [
        planner.plan(spec, SINKS[spec.sink].read(spec), records.get(spec.name), now, force, spread)
        for spec in config.tokens
    ]
    if force or not any(each.decision.due for each in planned):
        return planned
    resting = {
        name: rest
        for name, rest in _remembered(memory.rests, logging.DEBUG).items()
        if name in config.accounts and planner.rests(rest, _grant(config.accounts[name]), now)
    }
    return [
        replace(each, rest=resting.get(each.spec.account) if each.decision.due else None) for each in planned
    ]


def _grant(account: Account) -> Optional[str]:
    from osg_token_renewer.sources.registry import SOURCES

    return SOURCES[account.source].grant(account)


def _rescue(directory: str) -> bool:
    from osg_token_renewer.sources.registry import SOURCES

    return all(source.rescue(directory) for source in SOURCES.values())


def _sweep(specs: Sequence[TokenSpec]) -> None:
    for name, sink in SINKS.items():
        sink.sweep([spec for spec in specs if spec.sink == name])


def selected(config: Config, names: Sequence[str]) -> Config:
    """The configuration with only the tokens of these names (all, if none is given); raises UsageError for an
    unknown name."""
    known = {spec.name for spec in config.tokens}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"there is no [token {unknown[0]}] in the configuration", "see: osg-token-renewer status"
        )
    wanted = set(names) or known
    return replace(config, tokens=tuple(spec for spec in config.tokens if spec.name in wanted))


def longest(options: Options) -> float:
    """Seconds that a run may take with all that it waits for; a run that takes longer is stuck."""
    return options.run_timeout + LOCK_WAIT + 2 * min(LINGER, options.run_timeout)


def longest_stop(accounts: Mapping[str, Account]) -> float:
    """Seconds that a run may take to finish the requests under way, when it is told to stop, and those that
    may follow for a new refresh token that an agent had no room to write."""
    longest = max((account.timeout for account in accounts.values()), default=0.0)
    return longest + min(3 * longest, _LAST_REQUESTS) + LINGER


def history(config: Config) -> History:
    return History(paths.state_directory(config.options.state_dir))


def _remembered(query: Callable[[], dict[str, T]], level: int) -> dict[str, T]:
    try:
        return query()
    except DamagedError as error:
        log.log(
            level, "the history is damaged (%s): it starts anew with the next renewal; %s", error, _NO_RESTS
        )
    except HistoryError as error:
        log.log(level, "the history cannot be read (%s): going on without it; %s", error, _NO_RESTS)
    return {}


class Run:
    """One run over the tokens of a configuration: plan it, then iterate over the outcomes; they are recorded
    at the end."""

    def __init__(self, config: Config, *, force: bool, stop: Stop) -> None:
        self._config = config
        self._force = force
        self._stop = stop
        self._history = history(config)

    def plan(self) -> list[Planned]:
        return plan(self._config, self._history, time.time(), self._force)

    def outcomes(self, planned: Sequence[Planned]) -> Iterator[Outcome]:
        """One outcome for each planned token: the fresh ones first, the others as they come.

        Raises LockHeld when another run is at work. When nothing is due, no lock is taken and nothing is
        started."""
        due = [each for each in planned if each.decision.due]
        yield from (_fresh(each) for each in planned if not each.decision.due)
        if not due:
            return
        done: list[Outcome] = []
        with ExitStack() as stack:
            sockets = self._enter(stack)
            _sweep([each.spec for each in due])
            # Another run may have done meanwhile what this one wants to do.
            still = replace(self._config, tokens=tuple(each.spec for each in due))
            due = plan(still, self._history, time.time(), self._force, logging.DEBUG)
            yield from (_fresh(each) for each in due if not each.decision.due)
            try:
                for outcome in self._run([each for each in due if each.decision.due], sockets):
                    done.append(outcome)
                    yield outcome
            finally:
                self._record(done)

    def _enter(self, stack: ExitStack) -> str:
        """Takes the lock; returns the directory for sockets.

        The lock is in the state directory, which the timer's runs and a person's have in common; the runtime
        directory comes and goes with the service, so it is looked for once the lock is held."""
        state = paths.state_directory(self._config.options.state_dir)
        locked = self._lock(stack, state)
        with suppress(OSError):
            if trusted_files.is_open_to_all(os.stat(state)):
                log.warning(
                    "others can write to %s, where the lock and the copies of account files are: chmod o-w %s",
                    state,
                    state,
                )
        directory, shared = stack.enter_context(
            private_directories.open_runtime_directory(self._config.options.runtime_dir, _rescue)
        )
        if not locked and not (shared and self._lock(stack, directory)):
            log.warning("going on without a lock: another run at the same time would not be noticed")
        return directory

    def _lock(self, stack: ExitStack, directory: str) -> bool:
        try:
            path = os.path.join(private_directories.ensure_writable(directory), "lock")
            stack.enter_context(locks.hold_run_lock(path, LOCK_WAIT, self._stop.requested))
        except OSError as error:
            log.warning("there can be no lock in %s: %s", directory, error.strerror)
            return False
        return True

    def _run(self, due: Sequence[Planned], sockets: str) -> Iterator[Outcome]:
        from osg_token_renewer.engine import workers
        from osg_token_renewer.sources.base import Context

        before = {each.spec.name: each for each in due}
        for each in due:
            log.debug("token %s: due: %s", each.spec.name, each.decision.text)
        outcomes = workers.run_lanes(
            [each.spec for each in _most_urgent_first(due) if each.rest is None],
            self._config.accounts,
            context=Context(sockets, paths.state_directory(self._config.options.state_dir)),
            configured_workers=self._config.options.workers,
            stop=self._stop,
            run_timeout=self._config.options.run_timeout,
            known_issuers={each.spec.account: issuer for each in due if (issuer := _issuer(each))},
        )
        now = time.time()
        for outcome in chain((_resting(each, each.rest, now) for each in due if each.rest), outcomes):
            yield _with_consequence(outcome, before[outcome.spec.name], time.time())

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        try:
            private_directories.ensure_writable(os.path.dirname(self._history.path))
            try:
                self._history.record(outcomes, time.time())
            except DamagedError as error:
                aside = self._history.put_aside()
                log.warning(
                    "the history is damaged (%s): it was put aside as %s and starts anew", error, aside
                )
                self._history.record(outcomes, time.time())
        except (HistoryError, OSError) as error:
            log.warning(
                "the history cannot be written (%s): what this run did is not remembered; %s",
                getattr(error, "strerror", None) or error,
                _NO_RESTS,
            )


def _most_urgent_first(due: Sequence[Planned]) -> list[Planned]:
    """Accounts by the nearest expiry among their tokens, so that the most urgent is done first; their tokens
    stay in file order."""
    nearest: dict[str, float] = {}
    for each in due:
        nearest[each.spec.account] = min(nearest.get(each.spec.account, math.inf), each.expires_at or 0.0)
    return sorted(due, key=lambda each: nearest[each.spec.account])


def _issuer(each: Planned) -> Optional[str]:
    """Whose token was published last, as far as is known."""
    token = each.published.token
    return (token.issuer if token else None) or (each.record.issuer if each.record else None)


def _fresh(each: Planned) -> Outcome:
    return Outcome(
        each.spec, State.FRESH, each.decision.why.value, each.decision.text, expires_at=each.expires_at
    )


def _resting(each: Planned, rest: Rest, now: float) -> Outcome:
    message = f"account {rest.account} was not asked again, {duration(now - rest.since)} after {rest.message}"
    again = f"run: osg-token-renewer-setup --reauthenticate {rest.account}; to ask all the same: osg-token-renewer renew --force"
    return Outcome(each.spec, State.FAILED, DeadGrant.reason, message, again)


def _with_consequence(outcome: Outcome, planned: Planned, now: float) -> Outcome:
    """A failed outcome, with what it means for those who read the token; if it expired, that may be that it
    is taken away."""
    if outcome.state is not State.FAILED:
        return outcome
    expires_at = planned.expires_at
    stays = ""
    if planner.to_be_removed(planned, now):
        try:
            SINKS[planned.spec.sink].remove(planned.spec, planned.published)
        except Local as error:
            stays = f" and stays: {error.message}"
        else:
            return replace(outcome, consequence="the expired token was removed", expires_at=None)
    if planned.published.found is Found.UNREADABLE:
        meaning = "the published token cannot be read"
    elif planned.published.token is None:
        meaning = "no token is published"
    elif expires_at is None:
        meaning = "the published token stays"
    elif expires_at <= now:
        meaning = f"the published token expired {duration(now - expires_at)} ago{stays}"
    else:
        meaning = f"the published token is valid for {duration(expires_at - now)} more"
    return replace(outcome, consequence=meaning, expires_at=expires_at)
