"""What a row brings: figures with their goals. Pure: no figure is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional


@dataclass(frozen=True)
class Goal:
    """`least`: not less than the limit; otherwise not more."""

    limit: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'at most'} {number(self.limit)}"


@dataclass(frozen=True)
class Figure:
    """One value a round; what counts is the median. Without a goal it only explains another figure."""

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
        """'6.1 (5.8 to 6.3) s'; without the spread where there is none."""
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
    """`notes` say what stands behind the figures, for people."""

    name: str
    title: str
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default=())


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each round: both were measured under the same circumstances only there."""
    return [one / other for one, other in zip(above, below)]


def number(value: float) -> str:
    """Three digits are more than such measurements tell."""
    if value == int(value):
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
