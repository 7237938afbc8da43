"""The rows of runs with nothing due, or little: what it costs to look at many fresh tokens."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.credentials import renew_all
from benchmarks.figures import Figure, Goal, Result, ratios
from benchmarks.fleet import Fleet, section_of, write
from benchmarks.measure import milliseconds, time_short
from benchmarks.world import HERE, LONGEST, SYSTEM_PYTHON, Broken, World, check_same
from tests.host import Host

# A run with nothing due must not load these.
HEAVY = ("requests", "urllib3", "jwt", "cryptography", "rich")
INTERPRETER = "import argparse, configparser, json"


def nothing_due(world: World) -> Result:
    sizes, large, small = world.sizes, _many(world), _tenth(world)
    modules = _only_computes(world, large.host)
    ours_small, ours, interpreter = time_short(
        sizes.rounds,
        sizes.repeats,
        lambda: _look(world, small.host),
        lambda: _look(world, large.host),
        lambda: world.cost(large.host, [SYSTEM_PYTHON, "-I", "-c", INTERPRETER], quiet=True).seconds,
    )
    fewer = len(small.tokens)
    return Result(
        "nothing-due",
        f"{len(large.tokens)} tokens of {sizes.accounts_of_many} accounts, none due",
        [
            Figure(f"times python3 -I -c '{INTERPRETER}'", ratios(ours, interpreter), goal=Goal(8)),
            Figure(f"the same with {fewer} tokens", ratios(ours_small, interpreter), goal=Goal(3.5)),
            Figure("the program", milliseconds(ours), "ms"),
            Figure(f"the program with {fewer} tokens", milliseconds(ours_small), "ms"),
            Figure("the interpreter", milliseconds(interpreter), "ms"),
            Figure("modules loaded", [modules]),
        ],
        [f"no process started, no socket made, and not loaded: {', '.join(HEAVY)}"],
    )


def growth(world: World) -> Result:
    sizes = world.sizes
    many, most = _many(world).host, _most(world).host
    ours, ours_larger = time_short(
        sizes.rounds, sizes.repeats, lambda: _look(world, many), lambda: _look(world, most)
    )
    return Result(
        "growth",
        f"{sizes.most} tokens of {sizes.most * sizes.accounts_of_many // sizes.many} accounts, none due",
        [
            Figure(f"times the time for {sizes.many}", ratios(ours_larger, ours), goal=Goal(11)),
            Figure(f"{sizes.most} tokens", milliseconds(ours_larger), "ms"),
            Figure(f"{sizes.many} tokens", milliseconds(ours), "ms"),
        ],
    )


def few_due(world: World) -> Result:
    sizes = world.sizes
    fleet = _few(world)
    alone = world.host("alone")
    write(alone, [*fleet.sections_of_due, *map(section_of, fleet.due)])
    with_all, without = time_short(
        sizes.rounds,
        sizes.repeats,
        lambda: renew_all(world, fleet.host, fleet.due, sizes.latency_ms).seconds,
        lambda: renew_all(world, alone, fleet.due, sizes.latency_ms).seconds,
    )
    return Result(
        "few-due",
        f"{sizes.many} tokens of {sizes.accounts_of_many} accounts, {sizes.due} due",
        [
            Figure(f"times what those {sizes.due} alone cost", ratios(with_all, without), goal=Goal(1.5)),
            Figure("with all the others", milliseconds(with_all), "ms"),
            Figure("alone", milliseconds(without), "ms"),
        ],
    )


@contextmanager
def prepare_few(world: World) -> Iterator[Callable[[], float]]:
    """Yields a run of the program in which a few of many tokens are due, in seconds."""
    fleet = _few(world)
    yield lambda: renew_all(world, fleet.host, fleet.due, world.sizes.latency_ms).seconds


@contextmanager
def prepare_many(world: World) -> Iterator[Callable[[], float]]:
    """Yields a run of the program in which none of many tokens is due, in seconds."""
    host = _many(world).host
    yield lambda: _look(world, host)


@contextmanager
def prepare_most(world: World) -> Iterator[Callable[[], float]]:
    """The same with the most tokens."""
    host = _most(world).host
    yield lambda: _look(world, host)


def _look(world: World, host: Host) -> float:
    """Seconds of a run that finds nothing due."""
    return world.renew(host, quiet=True, python=SYSTEM_PYTHON).seconds


def _tenth(world: World) -> Fleet:
    return Fleet(world.host("tenth"), world.sizes.many // 10, world.sizes.accounts_of_many // 10)


def _many(world: World) -> Fleet:
    sizes = world.sizes
    return world.once("many", lambda: Fleet(world.host("many"), sizes.many, sizes.accounts_of_many))


def _most(world: World) -> Fleet:
    sizes = world.sizes
    accounts = sizes.accounts_of_many * sizes.most // sizes.many
    return Fleet(world.host("most"), sizes.most, accounts)


def _few(world: World) -> Fleet:
    sizes = world.sizes
    return Fleet(world.host("few"), sizes.many, sizes.accounts_of_many, sizes.due, world.issuer)


def _only_computes(world: World, host: Host) -> int:
    """Counts the modules that a run loads. Raises Broken if it starts a process, makes a socket, or loads a
    heavy module."""
    result = host.short / "watched.json"
    command = [SYSTEM_PYTHON, "-I", str(HERE / "watch.py"), str(result), *world.program(host)[2:]]
    subprocess.run(
        command,
        env=world.environment(host),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=LONGEST,
    )
    seen = json.loads(result.read_text())
    check_same("exit status", seen["status"], 0)
    if seen["events"]:
        raise Broken(f"nothing is due, and yet: {', '.join(sorted(set(seen['events'])))}")
    heavy = sorted(set(HEAVY) & set(seen["modules"]))
    if heavy:
        raise Broken(f"nothing is due, and yet it loads {', '.join(heavy)}")
    return len(seen["modules"])
