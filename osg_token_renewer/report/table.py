"""The table of `status`: one line for each token. On a narrow terminal, details follow below each line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple, Optional

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from osg_token_renewer.model import AccessToken, TokenRecord
from osg_token_renewer.report import states as s
from osg_token_renewer.report.states import TokenState
from osg_token_renewer.text import OUTSIDE_LIMIT, duration, escaped, outside

_STYLES = {s.FRESH: "green", s.DUE: "cyan", s.EXPIRING: "yellow", **dict.fromkeys(s.NOT_WELL, "bold red")}
# Columns without a terminal: nothing is folded, because the lines are for grep.
_UNBOUNDED = 10_000
# Columns that GRANTS and LAST FAILURE need each to be readable.
_READABLE = 36
# Between the columns of a grid, and around each column of a table.
_GAP = 2
_FRAME = 3
_NONE = "-"


class _Row(NamedTuple):
    token: str
    account: str
    state: str
    left: str
    grants: str
    path: str
    failure: str


_HEADINGS = _Row("TOKEN", "ACCOUNT", "STATE", "LEFT", "GRANTS", "PATH", "LAST FAILURE")


def render(states: Sequence[TokenState], now: float, width: Optional[int], color: bool) -> str:
    """The whole text. `width` is the terminal's in columns, None for no limit; `color` allows ANSI colors."""
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
        console.print(_lines(rows, fold=False))
    elif _least(rows) <= width:
        console.print(_lines(rows, fold=True))
    else:
        console.print(*_stacks(rows, width), sep="\n")
    return "\n".join(line.rstrip() for line in target.getvalue().split("\n")).strip("\n") + "\n"


def _widest(rows: Sequence[_Row]) -> dict[str, int]:
    columns = zip(_HEADINGS, *rows)
    return {name: max(map(cell_len, column)) for name, column in zip(_Row._fields, columns)}


def _least(rows: Sequence[_Row]) -> int:
    """The width of the table when its columns of many words are folded as narrow as they can be read."""
    widest = _widest(rows)
    for words in ("grants", "failure"):
        widest[words] = min(widest[words], _READABLE)
    return sum(widest.values()) + _FRAME * len(widest)


def _lines(rows: Sequence[_Row], fold: bool) -> Table:
    """One line for each token; `fold`: the columns of many words may be folded, below a rule."""
    table = Table(box=box.SIMPLE_HEAD if fold else None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        folds = fold and heading in (_HEADINGS.grants, _HEADINGS.failure)
        table.add_column(heading, no_wrap=not folds, overflow="fold")
    for row in rows:
        cells = row._asdict()
        table.add_row(*(_colored(cells[name]) if name == "state" else Text(cells[name]) for name in cells))
    return table


def _stacks(rows: Sequence[_Row], width: int) -> list[RenderableType]:
    """For each token a line with what an operator looks for first, and below it the details."""
    widest = _widest(rows)
    room = width - widest["state"] - widest["left"] - 2 * _GAP
    # The account stands in the line if it fits beside the longest name.
    beside = widest["token"] + _GAP + widest["account"] <= room
    token = widest["token"] if beside else max(1, min(widest["token"], room))

    def line(row: _Row, style: str = "") -> Table:
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        for wide in (token, widest["state"], widest["left"]):
            grid.add_column(width=wide, overflow="fold", style=style)
        grid.add_column(style=style)
        account = row.account if beside else ""
        grid.add_row(Text(row.token), _colored(row.state), Text(row.left), Text(account))
        return grid

    details = ("path", "grants", "failure")
    stacks: list[RenderableType] = [line(_HEADINGS, "bold")]
    for row in rows:
        stacks += [line(row), _details(row, details if beside else ("account", *details))]
    return stacks


def _details(row: _Row, names: Sequence[str]) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=3)
    grid.add_column(width=7, style="dim")
    grid.add_column(overflow="fold")
    cells = row._asdict()
    for name in names:
        if cells[name] != _NONE:
            grid.add_row("", name, Text(cells[name]))
    return grid


def _colored(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _row(state: TokenState, now: float) -> _Row:
    spec = state.planned.spec
    return _Row(
        spec.name,
        spec.account,
        state.state,
        _left(state.seconds_left),
        _grants(state.planned.published.token),
        # A path may hold any character but a line break.
        escaped(spec.path),
        # Others may have written to the history.
        outside(_failure(state, now), limit=2 * OUTSIDE_LIMIT),
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
    """What went wrong last; if that is over and the state is not well, why."""
    record = state.planned.record or TokenRecord(state.planned.spec.name)
    reason = "" if state.well or record.failures_in_row else state.reason
    if record.failed_at is None:
        return reason or _NONE
    when = f"{duration(now - record.failed_at)} ago"
    if record.failures_in_row > 1:
        when += f", {record.failures_in_row} in a row"
    failure = f"{when}, {record.failure_reason}: {record.failure_message}"
    return f"{reason}; {failure}" if reason else failure
