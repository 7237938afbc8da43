"""The result of a row: figures with their goals. Nothing is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional


@dataclass(frozen=True)
class Goal:
    """A limit: with `least` the least good value, otherwise the largest."""

    limit: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'at most'} {number(self.limit)}"


@dataclass(frozen=True)
class Figure:
    """One value a round; the median counts. A figure without a goal explains another one."""

    what: str
    values: Sequence[float]
    unit: str = ""
    goal: Optional[Goal] = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> Optional[bool]:
        return None if self.goal is None else self.goal.met(self.median)

    def __str__(self) -> str:
        """For example '6.1 (5.8 to 6.3) s', or '6.1 s' if all values are the same."""
        low, high = number(min(self.values)), number(max(self.values))
        spread = "" if low == high else f" ({low} to {high})"
        return f"{number(self.median)}{spread}{self.unit and ' ' + self.unit}"

    def as_json(self) -> Mapping[str, object]:
        goal = (
            None
            if self.goal is None
            else {"limit": self.goal.limit, "kind": "at least" if self.goal.least else "at most"}
        )
        found = {
            "values": list(self.values),
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
        }
        return {"what": self.what, "unit": self.unit, **found, "goal": goal, "met": self.met}


@dataclass(frozen=True)
class Result:
    """What one row found. `notes` are lines for people."""

    name: str
    title: str
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default=())


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round, because only values of one round were measured under the same
    circumstances."""
    return [one / other for one, other in zip(above, below)]


def number(value: float) -> str:
    """About three digits: such measurements tell no more."""
    if value == int(value):
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
