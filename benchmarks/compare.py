"""`--against DIRECTORY`: the program of this checkout beside that of another one, on one host, in turn.

A ratio above 1 means that ours takes longer. The references and the floor of the rows are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import agents, credentials, dead_issuer, fresh
from benchmarks.figures import Figure, Result, ratios
from benchmarks.measure import Asked, time_short
from benchmarks.world import FULL, LONGEST, Broken, World
from tests.host import ROOT

Prepare = Callable[[World], AbstractContextManager[Callable[[], float]]]

# Runs in the checkout that is its working directory, so that it uses that checkout's modules, old or new.
# Its arguments: a directory, and "quick" or "full". It prints what the row found as JSON.
_DAY = """\
import json, pathlib, sys
from benchmarks import report, rows, world
sizes = world.QUICK if sys.argv[2] == "quick" else world.FULL
result = rows.ROWS["day"](world.World(pathlib.Path(sys.argv[1]), sizes))
print(json.dumps(report.as_json(result, {}, False)))
"""


def compare(world: World, row: str, theirs: Path) -> Result:
    """Measures a row with the programs of both checkouts; raises Broken if one of them does not work."""
    if row == "day":
        return _compare_days(world, theirs)
    prepare, repeated = PREPARED[row]
    with prepare(world) as run:

        def run_of(checkout: Path) -> float:
            with world.checked_out(checkout):
                return run()

        ours, others = time_short(
            world.sizes.rounds,
            world.sizes.repeats if repeated else 1,
            lambda: run_of(ROOT),
            lambda: run_of(theirs),
        )
    figures = [Figure("ours to theirs", ratios(ours, others)), Figure("ours", ours, "s")]
    return Result(row, "ours beside theirs", [*figures, Figure("theirs", others, "s")])


def _compare_days(world: World, theirs: Path) -> Result:
    """The simulated day, of each checkout with its own simulation. It does not depend on the machine, so that
    once is enough."""
    ours, others = _day(world, ROOT), _day(world, theirs)
    shared = [what for what in ours if others.get(what)]
    figures = [Figure(f"ours to theirs: {what}", [ours[what] / others[what]]) for what in shared]
    if not figures:
        raise Broken("the two checkouts' days have no figure in common")
    return Result("day", "ours beside theirs", figures)


def _day(world: World, checkout: Path) -> dict[str, float]:
    """What the row `day` of a checkout found: the median of each figure, by its name."""
    size = "full" if world.sizes.site == FULL.site else "quick"
    done = subprocess.run(
        [sys.executable, "-B", "-c", _DAY, str(world.directory), size],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    if done.returncode != 0:
        raise Broken(f"the day of {checkout}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {figure["what"]: figure["median"] for figure in found["figures"]}


def _timed(prepare: Callable[[World], AbstractContextManager[Callable[[], Asked]]]) -> Prepare:
    @contextmanager
    def prepared(world: World) -> Iterator[Callable[[], float]]:
        with prepare(world) as run:
            yield lambda: run().seconds

    return prepared


# How each row that is about time prepares its run, and whether that is short, so that a round repeats it.
PREPARED: dict[str, tuple[Prepare, bool]] = {
    "agent": (_timed(agents.prepare_agents), False),
    "agent-rotating": (_timed(agents.prepare_rotating_agents), False),
    "credentials": (_timed(credentials.prepare_credentials), False),
    "nothing-due": (fresh.prepare_many, True),
    "growth": (fresh.prepare_most, True),
    "few-due": (fresh.prepare_few, True),
    "dead-issuer": (dead_issuer.prepare_dead_issuer, False),
}
COMPARED = (*PREPARED, "day")
