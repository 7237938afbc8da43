"""`make bench`: measures all rows, prints them, and leaves them as JSON in build/bench/.

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
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Result
from benchmarks.rows import ROWS
from benchmarks.world import FULL, QUICK, Broken, World

OUTPUT = report.ROOT / "build" / "bench"
# What the goals are for.
CORES = 2


def main() -> int:
    args = _arguments()
    sizes = QUICK if args.quick else FULL
    if args.rounds:
        sizes = dataclasses.replace(sizes, rounds=args.rounds)
    # For the programs and the issuer alike, which are started from here.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    described = report.machine()
    pages = [report.heading(described)]
    print(pages[0], flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, World(Path(directory), sizes) as world:
        for name in args.only or ROWS:
            started = time.monotonic()
            try:
                result = ROWS[name](world)
            except Broken as error:
                broken.append(name)
                print(f"{name}: did not work: {error}\n", file=sys.stderr, flush=True)
                continue
            results.append(result)
            pages.append(report.text(result, judged=not args.quick))
            print(pages[-1], f" (took {time.monotonic() - started:.0f} s)\n", sep="", flush=True)
            (OUTPUT / f"{name}.json").write_text(
                json.dumps(report.as_json(result, described, not args.quick), indent=2) + "\n"
            )
    if not args.quick:
        pages.append(report.summary(results, broken))
        print(pages[-1], end="")
    (OUTPUT / "report.txt").write_text("\n".join(pages))
    return 1 if broken else 0


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
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
