"""`renew`: obtain and publish the tokens that are due. What the timer starts."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

from osg_token_renewer import config, directories, snapshot
from osg_token_renewer.errors import Exit, LockHeld, RenewerError
from osg_token_renewer.report import journal
from osg_token_renewer.stop import Stop, on_signals
from osg_token_renewer.text import plural, remaining
from osg_token_renewer.watchdog import Watchdog

if TYPE_CHECKING:
    from osg_token_renewer import renew
    from osg_token_renewer.model import Outcome
    from osg_token_renewer.planner import Planned

log = logging.getLogger(__name__)

_INSTEAD = "systemctl start osg-token-renewer.service, or: runuser -u {user} -- osg-token-renewer renew"


def add_parser(subparsers: Any) -> None:
    description = "Obtain and publish the tokens that are due. This is what happens when no command is given."
    parser = subparsers.add_parser("renew", help="renew the tokens that are due (the default)", description=description)
    parser.add_argument("tokens", nargs="*", metavar="TOKEN", help="only these tokens")
    parser.add_argument("--force", action="store_true", help="also those that are not due")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.dry_run:
        _not_as_root(args)
    stop = Stop()
    watchdog = Watchdog(stop)
    usual = not (args.dry_run or args.force or args.tokens)
    if usual and not log.isEnabledFor(logging.DEBUG):
        fresh = snapshot.nothing_due(config.main_file(args.config))
        if fresh is not None:
            return _say_fresh(fresh)
    return _look_and_renew(args, stop, watchdog, usual)


def _say_fresh(fresh: snapshot.Fresh) -> int:
    """What `_look_and_renew` would say, if it had looked at everything."""
    for warning in fresh.warnings:
        log.warning("%s", warning)
    log.info("%s", "\n".join(journal.fresh(name, remaining(left)) for name, left in fresh.left))
    log.info("%s", journal.totals(fresh=len(fresh.left)))
    return Exit.WELL


def _look_and_renew(args: argparse.Namespace, stop: Stop, watchdog: Watchdog, usual: bool) -> int:
    # Here, because a run in which nothing has changed needs none of it.
    from osg_token_renewer import renew

    began = time.time()
    found = config.load(args.config)
    watchdog.allow(renew.longest(found.options), renew.longest_stop(found.accounts))
    for warning in found.warnings:
        log.warning("%s", warning.text)
    this = renew.Run(renew.selected(found, args.tokens), force=args.force, stop=stop)
    planned = this.plan()
    if args.dry_run:
        return _show(planned)
    if usual:
        this.take_snapshot(config.main_file(args.config), planned, began)
    try:
        with on_signals(stop):
            outcomes = _run(this, planned)
    except LockHeld:
        if stop.signal is None:
            raise
        return _stopped(stop.signal)
    log.info("%s", journal.summary(outcomes))
    return _status(outcomes) if stop.signal is None else _stopped(stop.signal)


def _stopped(number: int) -> int:
    log.warning("stopped by %s", signal.Signals(number).name)
    return 128 + number


def _not_as_root(args: argparse.Namespace) -> None:
    """The service's configuration is the service's to renew: files that root made in its place it could not replace later."""
    if not directories.running_as_root_beside_the_service():
        return
    instead = _INSTEAD.format(user=directories.SERVICE_USER)
    if config.main_file(args.config) == config.MAIN:
        raise RenewerError(f"this is root, not the service user {directories.SERVICE_USER}: nothing was attempted", f"use: {instead}")
    log.warning("this is root: new files will be root's, and oidc-agent accounts are those of root's home")


def _status(outcomes: Sequence[Outcome]) -> int:
    from osg_token_renewer.model import BUG, State

    if any(outcome.reason == BUG for outcome in outcomes):
        return Exit.BUG
    return Exit.FAILED if any(outcome.state is State.FAILED for outcome in outcomes) else Exit.WELL


def _show(planned: Sequence[Planned]) -> int:
    for each in planned:
        verb = "would be obtained" if each.decision.due else "is fresh"
        rests = f", but its account {each.rest.account} rests: {each.rest.message}" if each.rest else ""
        print(f"token {each.spec.name}: {verb}: {each.decision.text}{rests}")
    due = sum(each.decision.due for each in planned)
    print(f"{plural(len(planned), 'token')}: {due} due, {len(planned) - due} fresh" if planned else journal.summary(()))
    return Exit.WELL


def _run(this: renew.Run, planned: Sequence[Planned]) -> list[Outcome]:
    from osg_token_renewer.model import State

    due = sum(each.decision.due for each in planned)
    coming = this.outcomes(planned)
    # One message: of many tokens most are fresh, and a message costs more than to look at a token.
    outcomes = [*islice(coming, len(planned) - due)]
    if outcomes:
        log.info("%s", "\n".join(map(journal.line, outcomes)))
    with _display(due) as advance:
        for outcome in coming:
            log.log(journal.level(outcome), "%s", journal.line(outcome))
            outcomes.append(outcome)
            if outcome.state is not State.FRESH:
                advance()
    return outcomes


def _display(due: int) -> AbstractContextManager[Callable[[], None]]:
    """A progress display when a person watches and there is something to wait for."""
    watched = due and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    return _progress(due) if watched else nullcontext(lambda: None)


@contextmanager
def _progress(due: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Lines that are logged meanwhile go to sys.stderr, which the display then has in its hand and prints above itself.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("renewing", total=due)
        yield lambda: progress.advance(task)
