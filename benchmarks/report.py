"""Results as text for people and as JSON for programs, with a description of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Figure, Result
from testbed.issuer import NODE

ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, object]:
    """What the figures depend on."""
    node = str(NODE) if NODE.exists() else "node"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "revision": revision(ROOT),
        "cores used": len(os.sched_getaffinity(0)),
        "cores": os.cpu_count(),
        "cpu": _line("/proc/cpuinfo", "model name"),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "load before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "oidc-agent": _said("oidc-agent", "--version"),
        "node": _said(node, "--version"),
        "curl": _said("curl", "--version"),
    }


def revision(checkout: Path) -> str:
    return _said("git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12")


def text(result: Result, judged: bool) -> str:
    """A row: its title, a line for each figure, its notes. `judged`: also whether each goal is met."""
    lines = [f"{result.name}: {result.title}"]
    width = max(len(figure.what) for figure in result.figures)
    lines += [f"  {figure.what:{width}}  {figure}{_verdict(figure, judged)}" for figure in result.figures]
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)]) + "\n"


def heading(described: Mapping[str, object]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in described.items())


def summary(results: Sequence[Result], broken: Iterable[str]) -> str:
    """How many goals are met, which are not, and which rows did not work."""
    figures = [(result.name, figure) for result in results for figure in result.figures if figure.goal]
    missed = [
        f"{name} ({figure.what}: {figure}, goal {figure.goal})" for name, figure in figures if not figure.met
    ]
    lines = [f"{len(figures) - len(missed)} of {len(figures)} goals are met"]
    lines += [f"not met: {each}" for each in missed]
    return "\n".join([*lines, *(f"did not work: {name}" for name in broken)]) + "\n"


def as_json(result: Result, described: Mapping[str, object], judged: bool) -> dict[str, object]:
    figures = [figure.as_json() for figure in result.figures]
    return {
        "name": result.name,
        "title": result.title,
        "judged": judged,
        "figures": figures,
        "notes": result.notes,
        "machine": described,
    }


def _verdict(figure: Figure, judged: bool) -> str:
    if figure.goal is None:
        return ""
    return f"   goal: {figure.goal}" + (f", {'met' if figure.met else 'NOT MET'}" if judged else "")


def _said(*command: str) -> str:
    """The first line that a program prints; "not there" without the program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "not there"
    return (done.stdout.splitlines() or [""])[0].strip()


def _line(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
