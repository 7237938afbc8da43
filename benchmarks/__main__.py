"""`make bench`: measures the rows, prints them, and writes them as text and JSON to build/bench.

The exit status says whether everything worked, not whether a goal was met: times depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import report
from benchmarks.compare import COMPARED, compare
from benchmarks.figures import Result
from benchmarks.rows import ROWS
from benchmarks.world import FULL, QUICK, Broken, World

OUTPUT = report.ROOT / "build" / "bench"
# The goals are for a machine with two cores.
CORES = 2


def main() -> int:
    args = _arguments()
    sizes = QUICK if args.quick else FULL
    if args.rounds:
        sizes = dataclasses.replace(sizes, rounds=args.rounds)
    # The programs and the issuer are started from here and inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    described = report.machine()
    if args.against:
        described["against"] = f"{args.against}, {report.revision(args.against)}"
    print(report.heading(described), flush=True)
    output = OUTPUT / "against" if args.against else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        World(Path(directory), sizes, args.against) as world,
    ):
        pages, broken = _measure(world, args, output, described)
    (output / "report.txt").write_text("\n".join([report.heading(described), *pages]))
    return 1 if broken else 0


def _measure(
    world: World, args: argparse.Namespace, output: Path, described: Mapping[str, object]
) -> tuple[list[str], list[str]]:
    """Measures the rows and shows each when it is done; returns the pages, and the rows that did not work."""
    results: list[Result] = []
    pages: list[str] = []
    broken: list[str] = []
    judged = not args.quick and not args.against
    for name in args.only or (COMPARED if args.against else ROWS):
        started = time.monotonic()
        try:
            result = compare(world, name, args.against) if args.against else ROWS[name](world)
        except Broken as error:
            broken.append(name)
            print(f"{name}: did not work: {error}\n", file=sys.stderr, flush=True)
            continue
        results.append(result)
        pages.append(report.text(result, judged))
        print(pages[-1], f" (took {time.monotonic() - started:.0f} s)\n", sep="", flush=True)
        written = json.dumps(report.as_json(result, described, judged), indent=2)
        (output / f"{name}.json").write_text(written + "\n")
    if judged:
        pages.append(report.summary(results, broken))
        print(pages[-1], end="")
    return pages, broken


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures what a run costs, beside what it must cost."
    )
    parser.add_argument("--quick", action="store_true", help="all rows in small, once; nothing is judged")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="how often each row is measured (default: 5, with --quick 1)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(ROWS),
        metavar="ROW",
        help=f"one of: {', '.join(ROWS)}; may be repeated",
    )
    parser.add_argument(
        "--against",
        type=_checkout,
        metavar="DIRECTORY",
        help="another checkout: instead of judging, compare the times of both programs"
        f" (rows: {', '.join(COMPARED)})",
    )
    args = parser.parse_args()
    left_out = set(args.only or ()) - set(COMPARED)
    if args.against and left_out:
        parser.error(f"not about time, so that --against has no use for it: {', '.join(sorted(left_out))}")
    return args


def _checkout(text: str) -> Path:
    directory = Path(text).resolve()
    if not (directory / "libexec" / "osg-token-renewer").is_file():
        raise argparse.ArgumentTypeError(f"{directory} is no checkout of osg-token-renewer")
    return directory


if __name__ == "__main__":
    sys.exit(main())
