"""How many inputs the property tests try, and a line that reports it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.properties import cases

# No case has a time limit, because the machine may be slow.
PATIENT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
ALWAYS: dict[str, Any] = {"deadline": None, "print_blob": True, "suppress_health_check": PATIENT}
# The short run always tries the same cases, so that it passes everywhere or nowhere. The long run tries new
# ones, and keeps failed cases in .hypothesis/.
settings.register_profile("short", max_examples=100, derandomize=True, **ALWAYS)
# FUZZ_CASES is the number for all properties together.
PROPERTIES = 18
CASES = int(os.environ.get("FUZZ_CASES", "100000"))
settings.register_profile("long", max_examples=-(-CASES // PROPERTIES), **ALWAYS)
# --hypothesis-profile overrides this.
settings.load_profile("short")


@pytest.fixture(autouse=True)
def counted(record_property: Callable[[str, object], None]) -> Iterator[None]:
    before = cases.answers
    yield
    record_property("answers", cases.answers - before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    ends = [
        report
        for report in terminalreporter.getreports("")
        if report.when == "teardown" and "answers" in dict(report.user_properties)
    ]
    answers = [value for report in ends for name, value in report.user_properties if name == "answers"]
    unclear = len(
        {report.nodeid for report in terminalreporter.getreports("failed")}
        & {report.nodeid for report in ends}
    )
    terminalreporter.write_line(
        f"any input: {len(answers)} properties, {sum(answers)} answers, {unclear} properties that do not hold"
    )
