"""How the benchmarks render figures and judge them. What they measure is for `make bench-quick` to prove."""

from __future__ import annotations

import pytest

from benchmarks.day import INTERVAL, START, Request, load
from benchmarks.figures import Figure, Goal, Result, number, ratios
from benchmarks.report import summary, text


def test_a_figure_is_its_median_with_the_spread() -> None:
    assert str(Figure("the program", [5.0, 4.25, 6.5], "s")) == "5 (4.25 to 6.50) s"


def test_a_figure_without_spread_is_one_number() -> None:
    assert str(Figure("requests", [1, 1, 1])) == "1"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (3.0, "3"),
        (0.0123, "0.012"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (4125.7, "4126"),
    ],
)
def test_a_number_has_about_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([6.0, 8.0], [2.0, 4.0]) == [3.0, 2.0]


def test_the_median_is_judged_not_the_best_round() -> None:
    assert Figure("faster", [7.0, 5.0, 5.5], goal=Goal(6, least=True)).met is False
    assert Figure("slower", [1.0, 1.5, 1.2], goal=Goal(1.2)).met is True
    assert Figure("seconds", [1.0]).met is None


def test_a_quick_run_shows_goals_and_judges_nothing() -> None:
    result = Result("memory", "peak memory", [Figure("peak memory", [80], "MiB", Goal(64))])
    assert "goal: at most 64, NOT MET" in text(result, judged=True)
    assert text(result, judged=False).splitlines()[1] == "  peak memory  80 MiB   goal: at most 64"


def test_the_summary_names_what_was_missed_and_what_did_not_work() -> None:
    result = Result(
        "memory",
        "peak memory",
        [Figure("peak memory", [80], "MiB", Goal(64)), Figure("time", [1.0], goal=Goal(2))],
    )
    assert summary([result], ["agent"]).splitlines() == [
        "1 of 2 goals are met",
        "not met: memory (peak memory: 80 MiB, goal at most 64)",
        "did not work: agent",
    ]


def test_the_load_of_an_issuer_is_counted_by_hours_and_minutes_and_at_a_time() -> None:
    begun = START + INTERVAL
    at = {60: 500, 60.25: 400, 60.5: 300, 130: 90, 7200: 200}
    requests = [Request(0, begun + when, begun + when + 0.5, left) for when, left in at.items()]
    found = load(requests)
    assert (found.hourly[:4], len(found.hourly)) == ([4, 0, 1, 0], 24)
    assert (found.minute, found.in_flight, found.left) == (3, 2, 90)
