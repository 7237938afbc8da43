"""One line an outcome, one line a run: for journals, logs and mails from cron."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from osg_token_renewer.text import plural

if TYPE_CHECKING:
    from osg_token_renewer.model import Outcome


def fresh(name: str, message: str) -> str:
    return f"token {name}: fresh: {message}"


def totals(*, renewed: int = 0, fresh: int = 0, failed: int = 0) -> str:
    """'5 tokens: 2 renewed, 2 fresh, 1 failed'."""
    return f"{plural(renewed + fresh + failed, 'token')}: {renewed} renewed, {fresh} fresh, {failed} failed"


def line(outcome: Outcome) -> str:
    """'token x: what happened, why, what it means; what to do'."""
    from osg_token_renewer.model import State

    if outcome.state is State.FRESH:
        return fresh(outcome.spec.name, outcome.message)
    fact = f"failed ({outcome.reason}): {outcome.message}" if outcome.state is State.FAILED else outcome.message
    text = ": ".join(filter(None, (f"token {outcome.spec.name}", fact, outcome.consequence)))
    return "; ".join((text, *filter(None, (outcome.hint,)), *outcome.notes))


def level(outcome: Outcome) -> int:
    from osg_token_renewer.model import State

    if outcome.state is State.FAILED:
        return logging.ERROR
    return logging.WARNING if outcome.notes else logging.INFO


def summary(outcomes: Sequence[Outcome]) -> str:
    """'5 tokens: 2 renewed, 2 fresh, 1 failed (x)'."""
    from osg_token_renewer.model import State

    if not outcomes:
        return "no token is configured: nothing to do"
    counts = {state.value: sum(outcome.state is state for outcome in outcomes) for state in State}
    failed = [outcome.spec.name for outcome in outcomes if outcome.state is State.FAILED]
    return totals(**counts) + (f" ({_names(failed)})" if failed else "")


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
