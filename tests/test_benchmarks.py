"""How the benchmarks judge and render figures, and compare two checkouts. `make bench-quick` proves the
rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.day import INTERVAL, START, Request, load
from benchmarks.figures import Figure, Goal, Result, number, ratios
from benchmarks.report import summary, text
from tests.host import LONGEST, ROOT


def test_a_figure_shows_its_median_and_its_spread() -> None:
    assert str(Figure("the program", [5.0, 4.25, 6.5], "s")) == "5 (4.25 to 6.50) s"


def test_a_figure_without_spread_shows_one_number() -> None:
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


def test_a_ratio_compares_values_of_one_round() -> None:
    assert ratios([6.0, 8.0], [2.0, 4.0]) == [3.0, 2.0]


def test_a_goal_judges_the_median_and_not_the_best_round() -> None:
    assert Figure("faster", [7.0, 5.0, 5.5], goal=Goal(6, least=True)).met is False
    assert Figure("slower", [1.0, 1.5, 1.2], goal=Goal(1.2)).met is True
    assert Figure("seconds", [1.0]).met is None


def test_a_quick_run_shows_goals_without_judging_them() -> None:
    result = Result("memory", "peak memory", [Figure("peak memory", [80], "MiB", Goal(64))])
    assert "goal: at most 64, NOT MET" in text(result, judged=True)
    assert text(result, judged=False).splitlines()[1] == "  peak memory  80 MiB   goal: at most 64"


def test_the_summary_names_missed_goals_and_broken_rows() -> None:
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


def run_against(directory: Path, row: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--against", str(directory), "--only", row]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False)


def test_two_checkouts_are_measured_side_by_side() -> None:
    done = run_against(ROOT, "credentials")
    assert done.returncode == 0, done.stderr
    result = json.loads((ROOT / "build" / "bench" / "against" / "credentials.json").read_text())
    ratio, ours, theirs = result["figures"]
    assert (ratio["what"], ours["what"], theirs["what"]) == ("ours to theirs", "ours", "theirs")
    assert ratio["values"] == [ours["median"] / theirs["median"]]


def test_only_a_checkout_and_a_row_about_time_can_be_compared(tmp_path: Path) -> None:
    for directory, row, message in (
        (tmp_path, "agent", "is no checkout"),
        (ROOT, "memory", "not about time"),
    ):
        done = run_against(directory, row)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_the_load_of_an_issuer_counts_requests_by_hour_by_minute_and_in_flight() -> None:
    begun = START + INTERVAL
    at = {60: 500, 60.25: 400, 60.5: 300, 130: 90, 7200: 200}
    requests = [Request(0, begun + when, begun + when + 0.5, left) for when, left in at.items()]
    found = load(requests)
    assert (found.hourly[:4], len(found.hourly)) == ([4, 0, 1, 0], 24)
    assert (found.minute, found.in_flight, found.left) == (3, 2, 90)
