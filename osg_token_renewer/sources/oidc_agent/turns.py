"""Whose turn it is to open an oidc-agent account.

Opening one takes a core for half a second (key derivation) and 67 MB. With oidc-agent 4.2.6 the issuer is
then asked twice. An opening does not show whether it computes or waits. If all wait, the cores are idle. So
another one begins whenever the control group of this process leaves the cores time. Measured, 16 accounts of
4 tokens on 2 cores, times faster than the original: 1, 2, 3 per core 4.0, 5.2, 5.3; this 6.9.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Optional

from osg_token_renewer.sources.base import Begin

# Openings at a time, however idle the cores are: each takes memory.
MOST_PER_CORE = 3
# After so many seconds an opening only waits for its issuer, perhaps for long, and needs no core any more.
DERIVED_WITHIN = 2.0
# Seconds over which the load of the cores is measured.
_GLANCE = 0.02
# Mounts of control groups of version 2; the first one if those of version 1 are mounted too.
_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


def used() -> Optional[float]:
    """Seconds of CPU time of this process's control group (Control Group v2, cpu.stat); None if unknown.
    Agents and their clients are in that group; in the service's sandbox, /proc does not show them."""
    try:
        return int(_read_of_group("cpu.stat").split()[1]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def cores() -> int:
    """How many cores this process may use at a time: by its affinity, and by its group's limit (cpu.max)."""
    bound_to = len(os.sched_getaffinity(0))
    try:
        return min(bound_to, share(_read_of_group("cpu.max")))
    except (OSError, ValueError):
        return bound_to


def share(limit: str) -> int:
    """Whole cores, at least 1, of a limit (CPU time and period); raises ValueError if there is no limit."""
    granted, period = map(int, limit.split())
    return max(1, granted // max(1, period))


def _read_of_group(name: str) -> str:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    mounts = (mount + path for mount in _MOUNTS)
    with open(os.path.join(next(filter(os.path.isdir, mounts), _MOUNTS[-1]), name), encoding="ascii") as file:
        return file.read()


class Turns(AbstractContextManager["Turns"]):
    """As many openings at a time as there are cores, and one more whenever the cores are not busy."""

    def __init__(self, cores: Callable[[], int] = cores, used: Callable[[], Optional[float]] = used) -> None:
        self._cores = cores
        self._used = used
        self._changed = threading.Condition()
        # In the order of arrival, which a Condition does not promise to keep.
        self._waiting: list[object] = []
        # When each opening began.
        self._began: dict[object, float] = {}

    def __exit__(self, *_error: object) -> None:
        """There is nothing to close."""

    @contextmanager
    def take(self, begin: Begin) -> Iterator[None]:
        """Waits for a turn, and has it until it is left; raises what `begin` raises, also while it waits."""
        opening = object()
        with self._changed:
            self._waiting.append(opening)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting[0] is opening)
            self._wait(begin)
            self._began[opening] = time.monotonic()
        finally:
            with self._changed:
                self._waiting.remove(opening)
                self._changed.notify_all()
        try:
            yield
        finally:
            del self._began[opening]

    def _wait(self, begin: Begin) -> None:
        cores, before, used_before = self._cores(), time.monotonic(), self._used()
        while self._deriving(before) >= cores:
            with begin(0.0):
                time.sleep(_GLANCE)
            now, used = time.monotonic(), self._used()
            idle = used is None or used_before is None or used - used_before < (now - before) * (cores - 0.5)
            if idle and self._deriving(now) < cores * MOST_PER_CORE:
                return
            before, used_before = now, used

    def _deriving(self, now: float) -> int:
        """How many may still derive their keys."""
        return sum(now - began < DERIVED_WITHIN for began in list(self._began.values()))
