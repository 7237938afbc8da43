"""The table of `status`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Optional

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from osg_token_renewer.model import AccessToken
from osg_token_renewer.report import states as s
from osg_token_renewer.report.states import TokenState
from osg_token_renewer.text import duration, outside

_STYLES = {s.FRESH: "green", s.DUE: "cyan", s.EXPIRING: "yellow", s.EXPIRED: "bold red", s.FAILED: "bold red", s.MISSING: "bold red"}
# Without a terminal nothing is folded: the lines are for grep.
_UNBOUNDED = 10_000


def render(states: Sequence[TokenState], now: float, width: Optional[int], color: bool) -> str:
    """`width` in columns, None for no limit."""
    if not states:
        return "no token is configured\n"
    table = Table(box=box.SIMPLE_HEAD if width else None, pad_edge=False, header_style="bold" if color else "")
    for heading in ("TOKEN", "ACCOUNT", "STATE", "LEFT"):
        table.add_column(heading, no_wrap=True, overflow="fold" if width else "ignore")
    for heading in ("GRANTS", "PATH", "LAST FAILURE"):
        table.add_column(heading, overflow="fold", no_wrap=not width)
    for state in states:
        spec = state.planned.spec
        table.add_row(
            Text(spec.name),
            Text(spec.account),
            Text(state.state, style=_STYLES[state.state]),
            Text(_left(state.seconds_left)),
            Text(_grants(state.planned.published.token)),
            Text(spec.path),
            Text(_failure(state, now)),
        )
    target = io.StringIO()
    console = Console(file=target, width=width or _UNBOUNDED, force_terminal=color, color_system="standard" if color else None)
    console.print(table)
    return "\n".join(line.rstrip() for line in target.getvalue().strip("\n").split("\n")) + "\n"


def _left(seconds: Optional[float]) -> str:
    if seconds is None:
        return "-"
    return duration(seconds) if seconds > 0 else f"-{duration(seconds)}"


def _grants(token: Optional[AccessToken]) -> str:
    if token is None:
        return "-"
    if token.opaque:
        return "opaque"
    scope = outside(" ".join(token.scope))
    audience = outside(" ".join(token.audience))
    return " ".join(filter(None, (scope, f"for {audience}" if audience else ""))) or "-"


def _failure(state: TokenState, now: float) -> str:
    record = state.planned.record
    if record is None or record.failed_at is None:
        # A state that is not well explains itself, also before anything was tried.
        return "-" if state.well else state.reason
    row = f", {record.failures_in_row} in a row" if record.failures_in_row > 1 else ""
    return f"{duration(now - record.failed_at)} ago{row}: {record.failure_message}"
