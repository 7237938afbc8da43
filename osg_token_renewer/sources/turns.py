"""Whose turn it is to derive keys.

To open an account takes a core for half a second, and 67 MB; then, with oidc-agent 4.2.6, the issuer is
waited for, twice. Nobody tells which of both an opening is at; and if all that share the cores begin to wait
at the same time, the cores have nothing left to do."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from osg_token_renewer.sources.base import Begin

# At a time and for each core, however little they seem to do, for it is memory.
MOST_PER_CORE = 3
# After so many seconds an opening only waits for its issuer, which may be for long: others are not to wait
# for that, too.
DERIVED_WITHIN = 2.0
# Seconds over which it is seen how much the cores have to do.
_GLANCE = 0.02
# Where systems mount the control groups of version 2; the first is beside those of version 1.
_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


def used() -> Optional[float]:
    """CPU time in seconds that all processes of this one's control group have used so far; None where nobody
    keeps it.

    Agents and their clients are among them. Of `/proc` there is nothing else to be seen in the service's
    sandbox. Source: the kernel's Control Group v2, cpu.stat."""
    try:
        return int(_of_group("cpu.stat").split()[1]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


@functools.cache
def cores() -> int:
    """How many this process may use at a time: those it is bound to, or what its control group has of
    them."""
    bound_to = len(os.sched_getaffinity(0))
    try:
        return min(bound_to, share(_of_group("cpu.max")))
    except (OSError, ValueError):
        return bound_to


def share(limit: str) -> int:
    """What cpu.max (Control Group v2) makes of the cores: CPU time and period. Raises ValueError where there
    is no limit."""
    granted, period = map(int, limit.split())
    return max(1, granted // max(1, period))


def _of_group(name: str) -> str:
    with open(os.path.join(_group(), name), encoding="ascii") as file:
        return file.read()


@functools.cache
def _group() -> str:
    """The directory of this process's control group."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    return next(filter(os.path.isdir, (mount + path for mount in _MOUNTS)), _MOUNTS[-1])


class Turns:
    """As many at a time as there are cores, and another one whenever these have not enough to do."""

    def __init__(self, cores: Callable[[], int] = cores, used: Callable[[], Optional[float]] = used) -> None:
        self._cores = cores
        self._used = used
        self._changed = threading.Condition()
        # In the order of their coming, which the locks of `threading` do not promise to keep.
        self._waiting: list[object] = []
        # When each of those that are under way began.
        self._began: dict[object, float] = {}

    @contextmanager
    def take(self, begin: Begin) -> Iterator[None]:
        """Waits for a core; raises what `begin` does, also while it waits."""
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
            # Who does not know does without: they share the cores, that is all.
            idle = used is None or used_before is None or used - used_before < (now - before) * (cores - 0.5)
            if idle and self._deriving(now) < cores * MOST_PER_CORE:
                return
            before, used_before = now, used

    def _deriving(self, now: float) -> int:
        """How many may still derive their keys."""
        return sum(now - began < DERIVED_WITHIN for began in list(self._began.values()))
