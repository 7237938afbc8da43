"""`renew`: obtain and publish the tokens that are due. What the timer starts."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

from osg_token_renewer import config
from osg_token_renewer.engine import run as engine
from osg_token_renewer.errors import Exit, LockHeld, RenewerError
from osg_token_renewer.report import journal
from osg_token_renewer.system import users
from osg_token_renewer.system.signals import Stop, stop_on_signals
from osg_token_renewer.system.watchdog import Watchdog
from osg_token_renewer.text import plural

if TYPE_CHECKING:
    from osg_token_renewer.model import Outcome, Planned

log = logging.getLogger(__name__)

_INSTEAD = "systemctl start osg-token-renewer.service, or: runuser -u {user} -- osg-token-renewer renew"


def add_parser(subparsers: Any) -> None:
    description = "Obtain and publish the tokens that are due. This is what happens when no command is given."
    parser = subparsers.add_parser(
        "renew", help="renew the tokens that are due (the default)", description=description
    )
    parser.add_argument("tokens", nargs="*", metavar="TOKEN", help="only these tokens")
    parser.add_argument("--force", action="store_true", help="also those that are not due")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.dry_run:
        _not_as_root(args)
    stop = Stop()
    with Watchdog(stop) as watchdog:
        return _renew(args, stop, watchdog)


def _renew(args: argparse.Namespace, stop: Stop, watchdog: Watchdog) -> int:
    found = config.load(args.config)
    watchdog.allow(engine.longest(found.options), engine.longest_stop(found.accounts))
    for warning in found.warnings:
        log.warning("%s", warning.text)
    this = engine.Run(engine.selected(found, args.tokens), force=args.force, stop=stop)
    planned = this.plan()
    if args.dry_run:
        return _show(planned)
    try:
        with stop_on_signals(stop):
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
    """The service's configuration is the service's to renew: files that root made in its place it could not
    replace later."""
    if not users.is_root_beside_service():
        return
    instead = _INSTEAD.format(user=users.SERVICE_USER)
    if config.main_file(args.config) == config.MAIN:
        raise RenewerError(
            f"this is root, not the service user {users.SERVICE_USER}: nothing was attempted",
            f"use: {instead}",
        )
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
    print(
        f"{plural(len(planned), 'token')}: {due} due, {len(planned) - due} fresh"
        if planned
        else journal.summary(())
    )
    # While the watchdog is there: nobody may read it.
    sys.stdout.flush()
    return Exit.WELL


def _run(this: engine.Run, planned: Sequence[Planned]) -> list[Outcome]:
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
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Lines that are logged meanwhile go to sys.stderr, which the display then has in its hand and prints
    # above itself.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("renewing", total=due)
        yield lambda: progress.advance(task)
