"""Runs one command and writes what it cost: launch.py RESULT COMMAND [ARGUMENT ...]

It is a program of its own, without site-packages, because a process starts with the peak memory of its
parent. It becomes the subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), because only a parent learns the CPU time
of a process, and background processes lose theirs.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
# An agent ends far sooner once it is told to, even on a slow machine.
LAST_GONE = 300


def main(result: str, command: list[str]) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - started
    signal.alarm(LAST_GONE)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        signal.alarm(0)
    everything = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "seconds": seconds,
        "cpu": everything.ru_utime + everything.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status),
    }
    with open(result, "w") as file:
        json.dump(cost, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
