"""One line for each outcome and one for the run: for journals, logs and mails from cron."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from osg_token_renewer.model import Outcome, State
from osg_token_renewer.text import plural


def line(outcome: Outcome) -> str:
    """'token x: what happened, why, what it means; what to do'."""
    fact = outcome.message
    if outcome.state is State.FAILED:
        fact = f"failed ({outcome.reason}): {fact}"
    elif outcome.state is State.FRESH:
        fact = f"fresh: {fact}"
    text = ": ".join(filter(None, (f"token {outcome.spec.name}", fact, outcome.consequence)))
    return "; ".join((text, *filter(None, (outcome.hint,)), *outcome.notes))


def level(outcome: Outcome) -> int:
    if outcome.state is State.FAILED:
        return logging.ERROR
    return logging.WARNING if outcome.notes else logging.INFO


def summary(outcomes: Sequence[Outcome]) -> str:
    """'5 tokens: 2 renewed, 2 fresh, 1 failed (x)'."""
    if not outcomes:
        return "no token is configured: nothing to do"
    counts = ", ".join(
        f"{sum(outcome.state is state for outcome in outcomes)} {state.value}" for state in State
    )
    failed = [outcome.spec.name for outcome in outcomes if outcome.state is State.FAILED]
    shown = ", ".join(failed[:10]) + (f" and {len(failed) - 10} more" if len(failed) > 10 else "")
    return f"{plural(len(outcomes), 'token')}: {counts}" + (f" ({shown})" if failed else "")
