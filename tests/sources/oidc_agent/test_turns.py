"""Who may open an account when: with threads that want a turn, and a made-up load of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional

import pytest

from osg_token_renewer.errors import Stopped
from osg_token_renewer.sources.base import Begin, at_any_time
from osg_token_renewer.sources.oidc_agent import turns
from osg_token_renewer.sources.oidc_agent.turns import MOST_PER_CORE, Turns
from tests.host import until

CORES = 2
MANY = 10


class Openings:
    """Openings that all want a turn, and keep it until they are ended."""

    def __init__(self, used: Callable[[], Optional[float]], begin: Begin) -> None:
        self.under_way = self.left = 0
        self.ended = threading.Event()
        self._turns = Turns(lambda: CORES, used)
        self._count = threading.Lock()
        self._threads = [threading.Thread(target=self._open, args=(begin,)) for _ in range(MANY)]
        for thread in self._threads:
            thread.start()

    def _open(self, begin: Begin) -> None:
        try:
            with self._turns.take(begin):
                with self._count:
                    self.under_way += 1
                self.ended.wait()
        except Stopped:
            with self._count:
                self.left += 1

    def end(self) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join()


Opening = Callable[..., Openings]


@pytest.fixture
def opening() -> Iterator[Opening]:
    started: list[Openings] = []

    def make(used: Callable[[], Optional[float]], begin: Begin = at_any_time) -> Openings:
        started.append(Openings(used, begin))
        return started[-1]

    yield make
    for each in started:
        each.end()


def all_cores() -> float:
    """CPU time used while every core is busy; a bit more, for clocks differ."""
    return time.monotonic() * CORES * 1.1


def a_core() -> float:
    return time.monotonic()


def test_while_the_cores_are_busy_there_is_one_opening_per_core(opening: Opening) -> None:
    found = opening(all_cores)
    until(lambda: found.under_way == CORES)
    time.sleep(10 * turns._GLANCE)
    assert found.under_way == CORES


@pytest.mark.parametrize("used", [a_core, lambda: None], ids=["idle core", "unknown"])
def test_while_a_core_is_idle_another_opening_begins_up_to_a_limit(
    opening: Opening, used: Callable[[], Optional[float]]
) -> None:
    found = opening(used)
    until(lambda: found.under_way == CORES * MOST_PER_CORE)
    time.sleep(10 * turns._GLANCE)
    assert found.under_way == CORES * MOST_PER_CORE


def test_an_opening_that_can_only_wait_for_its_issuer_does_not_count(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "DERIVED_WITHIN", 0.2)
    found = opening(all_cores)
    until(lambda: found.under_way == MANY)


def test_turns_are_given_in_the_order_of_arrival() -> None:
    ours, begin = Turns(lambda: 1, all_cores), at_any_time
    order: list[int] = []

    def open_as(number: int) -> None:
        with ours.take(begin):
            order.append(number)

    with ours.take(begin):
        threads = []
        for number in range(20):
            threads.append(threading.Thread(target=open_as, args=(number,)))
            threads[-1].start()
            until(lambda: len(ours._waiting) == len(threads))
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_every_opening_gets_its_turn(opening: Opening) -> None:
    found = opening(all_cores)
    found.ended.set()
    until(lambda: found.under_way == MANY)


def test_a_wait_ends_when_nothing_new_may_begin(opening: Opening) -> None:
    stopped = threading.Event()

    @contextmanager
    def begin(_wanted: float) -> Iterator[float]:
        if stopped.is_set():
            raise Stopped("the run was stopped")
        yield 1.0

    found = opening(all_cores, begin)
    until(lambda: found.under_way == CORES)
    stopped.set()
    until(lambda: found.left == MANY - CORES)
    assert found.under_way == CORES


def test_the_cpu_time_of_a_started_program_counts() -> None:
    before = turns.used()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass"], check=True)
    after = turns.used()
    assert before is not None
    assert after is not None
    assert after - before >= 0.9


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000\n", 2), ("150000 100000\n", 1), ("50000 100000\n", 1)]
)
def test_a_limited_control_group_has_whole_cores_and_at_least_one(limit: str, cores: int) -> None:
    assert turns.share(limit) == cores


@pytest.mark.parametrize("limit", ["max 100000\n", "", "1", "1 2 3"])
def test_a_group_without_a_limit_has_all_cores(limit: str) -> None:
    with pytest.raises(ValueError):
        turns.share(limit)


def test_this_process_has_no_more_cores_than_it_is_bound_to() -> None:
    assert 1 <= turns.cores() <= len(os.sched_getaffinity(0))
