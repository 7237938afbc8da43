"""How rows measure: one run with what the issuer saw of it, and several sides in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.figures import Figure
from benchmarks.fleet import Wanted, check_published, remove
from benchmarks.world import Cost, World
from testbed import Counts


@dataclass(frozen=True)
class Asked:
    """One run of a program and what the issuer saw of it."""

    cost: Cost
    counts: Counts
    issuer_cpu: float  # seconds
    others: float  # cores that unrelated work took, on average

    @property
    def seconds(self) -> float:
        return self.cost.seconds


def ask(world: World, tokens: Sequence[Wanted], run: Callable[[], Cost], latency_ms: int = 0) -> Asked:
    """Removes all tokens, runs, and checks that all are published. Raises Broken if one is not."""
    with latency(world, latency_ms):
        remove(tokens)
        world.issuer.reset_counts()
        before, busy = world.issuer_cpu(), world.busy()
        cost = run()
        spent = world.issuer_cpu() - before
        others = (world.busy() - busy - cost.cpu - spent) / cost.seconds
        counts = world.issuer.counts()
    check_published(tokens)
    return Asked(cost, counts, spent, max(0.0, others))


@contextmanager
def latency(world: World, milliseconds: int) -> Iterator[None]:
    """Within the context, the issuer delays each answer."""
    world.issuer.settings(latency_ms=milliseconds)
    try:
        yield
    finally:
        world.issuer.settings(latency_ms=0)


def take_turns(rounds: int, *sides: Callable[[], object]) -> None:
    """Runs each side once a round. The order alternates, so that no side always gets the warmer machine."""
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            side()


def time_short(rounds: int, repeats: int, *sides: Callable[[], float]) -> list[list[float]]:
    """The values of each side, one a round: the median of `repeats` runs, since a single run of a few
    milliseconds says little."""
    times: list[list[float]] = [[] for _ in sides]
    for run in sides:
        run()  # fills the caches of byte code and of files
    take_turns(rounds * repeats, *[lambda run=run, of=of: of.append(run()) for run, of in zip(sides, times)])
    starts = range(0, rounds * repeats, repeats)
    return [[statistics.median(of[start : start + repeats]) for start in starts] for of in times]


def milliseconds(seconds: Sequence[float]) -> list[float]:
    return [1000 * each for each in seconds]


def circumstances(asked: Sequence[Asked]) -> list[Figure]:
    """Figures that explain the time of a run."""
    return [
        Figure("CPU time of the program and all it started", [each.cost.cpu for each in asked], "s"),
        Figure("CPU time of the issuer", [each.issuer_cpu for each in asked], "s"),
        Figure("cores that something else took", [each.others for each in asked]),
        Figure("requests at the same time, at most", [each.counts.max_in_flight for each in asked]),
        Figure("connections to the issuer", [each.counts.connections for each in asked]),
    ]
