"""Whose turn it is to derive keys.

To open an account takes a core for half a second, and 67 MB; then, with oidc-agent 4.2.6, the issuer is waited for, twice. Nobody tells
which of both an opening is at; and if all that share the cores begin to wait at the same time, the cores have nothing left to do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional

from osg_token_renewer.sources.base import Begin

# At a time and for each core, however little they seem to do: it is memory, and what an issuer is asked before it is known to be dead.
MOST_PER_CORE = 3
# After so long another one may begin, though all cores are taken: it may be by others, who do not wait for an issuer. Seconds.
PATIENCE = 1.0
# As long as it takes until one that has begun is seen to run.
_GLANCE = 0.02


def running() -> Optional[int]:
    """How many processes and threads run or wait for a core, on the whole machine and without this one (proc_loadavg(5)); None: unknown."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[0]) - 1
    except (OSError, ValueError, IndexError):
        return None


class Turns:
    """As many at a time as there are cores, and another one whenever a core has nothing to do."""

    def __init__(self, cores: int, running: Callable[[], Optional[int]] = running) -> None:
        self._cores = cores
        self._running = running
        self._under_way = 0
        self._began = 0.0
        self._count = threading.Lock()
        # Who has it is the next: one after the other, in the order of their coming.
        self._next = threading.Semaphore()

    @contextmanager
    def turn(self, begin: Begin) -> Iterator[None]:
        """Waits for a core; raises what `begin` does, also while it waits."""
        with self._next:
            while not self._is_free():
                with begin(0.0):
                    time.sleep(_GLANCE)
            with self._count:
                self._under_way += 1
            self._began = time.monotonic()
        try:
            yield
        finally:
            with self._count:
                self._under_way -= 1

    def _is_free(self) -> bool:
        if self._under_way < self._cores:
            return True
        waited = time.monotonic() - self._began
        if self._under_way >= self._cores * MOST_PER_CORE or waited < _GLANCE:
            return False
        running = self._running()
        return waited >= PATIENCE or (running is not None and running < self._cores)


TURNS = Turns(len(os.sched_getaffinity(0)))
