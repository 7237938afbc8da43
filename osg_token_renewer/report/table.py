"""The table of `status`: a line for each token, or, where a line has no room for everything, a line and its
details."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Optional

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from osg_token_renewer.model import AccessToken
from osg_token_renewer.report import states as s
from osg_token_renewer.report.states import TokenState
from osg_token_renewer.text import OUTSIDE_LIMIT, duration, escaped, outside

_STYLES = {
    s.FRESH: "green",
    s.DUE: "cyan",
    s.EXPIRING: "yellow",
    s.EXPIRED: "bold red",
    s.FAILED: "bold red",
    s.MISSING: "bold red",
}
# Without a terminal nothing is folded: the lines are for grep.
_UNBOUNDED = 10_000
# With less than this for each of them, the columns of many words cannot be read.
_READABLE = 36
# Between the columns of a line, and what a frame takes for each of its columns.
_GAP = 2
_FRAME = 3
_NONE = "-"


@dataclass(frozen=True)
class _Row:
    token: str
    account: str
    state: str
    left: str
    grants: str
    path: str
    failure: str


_HEADINGS = _Row("TOKEN", "ACCOUNT", "STATE", "LEFT", "GRANTS", "PATH", "LAST FAILURE")


def render(states: Sequence[TokenState], now: float, width: Optional[int], color: bool) -> str:
    """`width` in columns, None for no limit."""
    if not states:
        return "no token is configured\n"
    target = io.StringIO()
    console = Console(
        file=target,
        width=width or _UNBOUNDED,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    rows = [_row(state, now) for state in states]
    if not width:
        console.print(_lines(rows, None, fold=False))
    elif _least(rows) <= width:
        console.print(_lines(rows, box.SIMPLE_HEAD, fold=True))
    else:
        console.print(*_stacks(rows, width), sep="\n")
    return "\n".join(line.rstrip() for line in target.getvalue().split("\n")).strip("\n") + "\n"


def _widest(rows: Sequence[_Row]) -> dict[str, int]:
    return {
        field.name: max(cell_len(getattr(row, field.name)) for row in (_HEADINGS, *rows))
        for field in fields(_Row)
    }


def _least(rows: Sequence[_Row]) -> int:
    """The columns that lines need, when those of many words are folded to what can still be read."""
    widest = _widest(rows)
    for words in ("grants", "failure"):
        widest[words] = min(widest[words], _READABLE)
    return sum(widest.values()) + _FRAME * len(widest)


def _lines(rows: Sequence[_Row], style: Optional[box.Box], fold: bool) -> Table:
    """One line for each token; `fold`: the columns of many words may be folded."""
    table = Table(box=style, pad_edge=False, header_style="bold")
    words = (_HEADINGS.grants, _HEADINGS.failure)
    for heading in (
        _HEADINGS.token,
        _HEADINGS.account,
        _HEADINGS.state,
        _HEADINGS.left,
        words[0],
        _HEADINGS.path,
        words[1],
    ):
        table.add_column(heading, no_wrap=not (fold and heading in words), overflow="fold")
    for row in rows:
        cells = (row.token, row.account, _colored(row.state), row.left, row.grants, row.path, row.failure)
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return table


def _stacks(rows: Sequence[_Row], width: int) -> list[RenderableType]:
    """For each token a line with what an operator looks for first, and its details below it."""
    widest = _widest(rows)
    room = width - widest["state"] - widest["left"] - 2 * _GAP
    # The account has its place in the line where it fits beside the longest name.
    beside = widest["token"] + _GAP + widest["account"] <= room
    token = widest["token"] if beside else max(1, min(widest["token"], room))

    def line(row: _Row, style: str = "") -> Table:
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        for wide in (token, widest["state"], widest["left"]):
            grid.add_column(width=wide, overflow="fold", style=style)
        grid.add_column(style=style)
        grid.add_row(
            Text(row.token), _colored(row.state), Text(row.left), Text(row.account if beside else "")
        )
        return grid

    stacks: list[RenderableType] = [line(_HEADINGS, "bold")]
    for row in rows:
        stacks += [line(row), _details(row, account=not beside)]
    return stacks


def _details(row: _Row, account: bool) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=3)
    grid.add_column(width=7, style="dim")
    grid.add_column(overflow="fold")
    named = (
        ("account", row.account if account else _NONE),
        ("path", row.path),
        ("grants", row.grants),
        ("failure", row.failure),
    )
    for name, text in named:
        if text != _NONE:
            grid.add_row("", name, Text(text))
    return grid


def _colored(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _row(state: TokenState, now: float) -> _Row:
    spec = state.planned.spec
    grants = _grants(state.planned.published.token)
    # A path may hold any character but a line break, and whoever can write to the history may have written to
    # it.
    failure = outside(_failure(state, now), limit=2 * OUTSIDE_LIMIT)
    return _Row(
        spec.name, spec.account, state.state, _left(state.seconds_left), grants, escaped(spec.path), failure
    )


def _left(seconds: Optional[float]) -> str:
    if seconds is None:
        return _NONE
    return duration(seconds) if seconds > 0 else f"-{duration(seconds)}"


def _grants(token: Optional[AccessToken]) -> str:
    if token is None:
        return _NONE
    if token.opaque:
        return "opaque"
    scope = outside(" ".join(token.scope))
    audience = outside(" ".join(token.audience))
    return " ".join(filter(None, (scope, f"for {audience}" if audience else ""))) or _NONE


def _failure(state: TokenState, now: float) -> str:
    """What went wrong last, and, when that is over, why the state is not well all the same."""
    record = state.planned.record
    # A state that is not well explains itself, also before anything was tried.
    reason = "" if state.well or (record is not None and record.failures_in_row) else state.reason
    if record is None or record.failed_at is None:
        return reason or _NONE
    row = f", {record.failures_in_row} in a row" if record.failures_in_row > 1 else ""
    failure = (
        f"{duration(now - record.failed_at)} ago{row}, {record.failure_reason}: {record.failure_message}"
    )
    return f"{reason}; {failure}" if reason else failure
