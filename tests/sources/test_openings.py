from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional

import pytest

from osg_token_renewer.errors import Stopped
from osg_token_renewer.sources import openings
from osg_token_renewer.sources.base import Begin, at_any_time
from osg_token_renewer.sources.openings import MOST_PER_CORE, PATIENCE, Turns
from tests.host import until

CORES = 2


class Openings:
    """Some that all want their turn, and keep it until they are ended."""

    def __init__(self, turns: Turns, number: int, begin: Begin = at_any_time) -> None:
        self.under_way = self.left = 0
        self.ended = threading.Event()
        self._count = threading.Lock()
        self._threads = [threading.Thread(target=self._open, args=(turns, begin)) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _open(self, turns: Turns, begin: Begin) -> None:
        try:
            with turns.turn(begin):
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


@pytest.fixture
def opening() -> Iterator[Callable[..., Openings]]:
    started: list[Openings] = []

    def make(running: Callable[[], Optional[int]], begin: Begin = at_any_time, number: int = 10) -> Openings:
        started.append(Openings(Turns(CORES, running), number, begin))
        return started[-1]

    yield make
    for each in started:
        each.end()


@pytest.mark.parametrize("running", [CORES, 100, None], ids=str)
def test_while_all_cores_are_taken_there_are_as_many_as_cores(
    opening: Callable[..., Openings], monkeypatch: pytest.MonkeyPatch, running: Optional[int]
) -> None:
    monkeypatch.setattr(openings, "PATIENCE", 3600.0)
    found = opening(lambda: running)
    until(lambda: found.under_way == CORES)
    time.sleep(0.2)
    assert found.under_way == CORES


def test_another_begins_when_a_core_has_nothing_to_do_up_to_a_limit(opening: Callable[..., Openings]) -> None:
    found = opening(lambda: CORES - 1)
    until(lambda: found.under_way == CORES * MOST_PER_CORE)
    time.sleep(1.5 * PATIENCE)
    assert found.under_way == CORES * MOST_PER_CORE


def test_who_takes_the_cores_for_long_is_not_waited_for(opening: Callable[..., Openings]) -> None:
    began = time.monotonic()
    found = opening(lambda: 100)
    until(lambda: found.under_way == CORES + 2)
    assert time.monotonic() - began >= 2 * PATIENCE


def test_all_have_their_turn(opening: Callable[..., Openings]) -> None:
    found = opening(lambda: 100)
    until(lambda: found.under_way == CORES)
    found.ended.set()
    until(lambda: found.under_way == 10)


def test_who_waits_for_a_core_leaves_when_nothing_may_be_begun_any_more(opening: Callable[..., Openings]) -> None:
    stopped = threading.Event()

    @contextmanager
    def begin(_wanted: float) -> Iterator[float]:
        if stopped.is_set():
            raise Stopped("the run was stopped")
        yield 1.0

    found = opening(lambda: 100, begin)
    until(lambda: found.under_way == CORES)
    stopped.set()
    until(lambda: found.left == 10 - found.under_way)


def test_what_runs_on_this_machine_is_counted() -> None:
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
    try:
        until(lambda: (openings.running() or 0) >= 3)
    finally:
        for process in busy:
            process.kill()
            process.wait()
