"""Short runs of what `make chaos` runs for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import TRIALS

TRIES = {"killed": 6, "filled": 3, "failing": 3, "together": 1}


@pytest.mark.parametrize("trial", TRIES)
def test_nothing_is_lost_leaked_or_torn(trial: str, tmp_path: Path) -> None:
    run, _usual = TRIALS[trial]
    figures = run(TRIES[trial], tmp_path)
    assert figures.well, str(figures)
    assert figures.faults
