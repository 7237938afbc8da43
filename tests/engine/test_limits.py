"""The limits of a run."""

from __future__ import annotations

import threading

import pytest

from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.errors import NotAsked, Stopped
from tests.engine.clock import BOUND, Clock


def test_time_runs_from_the_start_to_the_deadline(clock: Clock) -> None:
    limits = Limits(10.0, lambda: False)
    assert limits.left() == 10
    assert limits.wait(4.0)
    assert limits.left() == pytest.approx(6)
    assert not limits.over()


def test_nothing_begins_after_the_deadline(clock: Clock) -> None:
    limits = Limits(0.01, lambda: False)
    assert limits.wait(BOUND) is False
    assert limits.over()
    with pytest.raises(NotAsked, match="the 0 s of the run were over before its turn came"):
        limits.check()


def test_nothing_begins_in_a_run_that_was_stopped_or_abandoned() -> None:
    stopped = threading.Event()
    first, second = Limits(600.0, stopped.is_set), Limits(600.0, stopped.is_set)
    first.abandon()
    assert (first.over(), second.over()) == (True, False)
    stopped.set()
    for limits in (first, second):
        assert (limits.stopped(), limits.over(), limits.wait(BOUND)) == (True, True, False)
        with pytest.raises(Stopped) as raised:
            limits.check()
        assert raised.value.reason == "stopped"
