"""`renew`: obtain and publish the tokens that are due. The timer starts this."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Callable, Optional

from osg_token_renewer import config
from osg_token_renewer.engine.run import Run, begin_run
from osg_token_renewer.errors import Exit, LockHeld, RenewerError
from osg_token_renewer.model import BUG, Config, Outcome, Planned, State
from osg_token_renewer.report import journal
from osg_token_renewer.system import users
from osg_token_renewer.system.signals import Stop, stop_on_signals
from osg_token_renewer.text import plural

log = logging.getLogger(__name__)


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
        _check_user(args.config)
    stop = Stop()
    with begin_run(lambda: _load(args.config), stop=stop, tokens=args.tokens, force=args.force) as current:
        planned = current.plan()
        if args.dry_run:
            return _show(planned)
        try:
            with stop_on_signals(stop):
                outcomes = _renew(current, planned)
        except LockHeld:
            if stop.signal is None:
                raise
            return _report_stop(stop.signal)
        log.info("%s", journal.summary(outcomes))
        return _status(outcomes) if stop.signal is None else _report_stop(stop.signal)


def _load(given: Optional[str]) -> Config:
    found = config.load(given)
    for warning in found.warnings:
        log.warning("%s", warning.text)
    return found


def _report_stop(number: int) -> int:
    log.warning("stopped by %s", signal.Signals(number).name)
    return 128 + number


def _check_user(given: Optional[str]) -> None:
    """Root must not renew the service's tokens: the service could not replace the files that root made."""
    if not users.is_root_beside_service():
        return
    if config.main_file(given) == config.MAIN:
        instead = f"runuser -u {users.SERVICE_USER} -- osg-token-renewer renew"
        raise RenewerError(
            f"this is root, not the service user {users.SERVICE_USER}: nothing was attempted",
            f"use: systemctl start osg-token-renewer.service, or: {instead}",
        )
    log.warning("this is root: new files will be root's, and oidc-agent accounts are those of root's home")


def _status(outcomes: Sequence[Outcome]) -> int:
    if any(outcome.reason == BUG for outcome in outcomes):
        return Exit.BUG
    return Exit.FAILED if any(outcome.state is State.FAILED for outcome in outcomes) else Exit.WELL


def _show(planned: Sequence[Planned]) -> int:
    for each in planned:
        verb = "would be obtained" if each.decision.due else "is fresh"
        paused = f", but its account {each.rest.account} is paused: {each.rest.message}" if each.rest else ""
        print(f"token {each.spec.name}: {verb}: {each.decision.text}{paused}")
    due = sum(each.decision.due for each in planned)
    counts = f"{plural(len(planned), 'token')}: {due} due, {len(planned) - due} fresh"
    # While the watchdog looks: perhaps nobody reads this.
    print(counts if planned else journal.summary(()), flush=True)
    return Exit.WELL


def _renew(current: Run, planned: Sequence[Planned]) -> list[Outcome]:
    due = sum(each.decision.due for each in planned)
    coming = current.outcomes(planned)
    # One message for all fresh tokens: most are, and a message costs more than looking at a token.
    outcomes = [*islice(coming, len(planned) - due)]
    if outcomes:
        log.info("%s", "\n".join(map(journal.line, outcomes)))
    with _show_progress(due) as advance:
        for outcome in coming:
            log.log(journal.level(outcome), "%s", journal.line(outcome))
            outcomes.append(outcome)
            if outcome.state is not State.FRESH:
                advance()
    return outcomes


@contextmanager
def _show_progress(due: int) -> Iterator[Callable[[], None]]:
    """Yields what counts a token. It shows if a person watches and there is something to wait for."""
    if not (due and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)):
        yield lambda: None
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    # Lines that are logged meanwhile go to sys.stderr, which the display replaces to print them above itself.
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as display:
        task = display.add_task("renewing", total=due)
        yield lambda: display.advance(task)
