"""File locks (flock(2)): the run lock, and locks that a subprocess inherits."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from osg_token_renewer.errors import LockHeld
from osg_token_renewer.system import users
from osg_token_renewer.text import line


def take_lock(descriptor: int) -> bool:
    """Locks the file of `descriptor` until every process has closed it; returns whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_to_inherit(path: str, flags: int = 0) -> int:
    """A descriptor for a subprocess to inherit; `path` must not be a symbolic link."""
    return move_up(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags))


def move_up(descriptor: int) -> int:
    """Gives the descriptor a number of 10 or above, because a shell may use the lower ones for itself."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(descriptor)


@contextmanager
def hold_run_lock(path: str, wait: float, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Holds the lock file at `path`. Raises OSError if the file cannot be made.

    Raises LockHeld if another process still holds it after `wait` seconds, or once `stopped` says so.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        users.give_to_owner_of(descriptor, os.path.dirname(path))
        deadline = time.monotonic() + wait
        while not take_lock(descriptor):
            if time.monotonic() > deadline or stopped():
                why = f"another run is at work ({_describe_holder(descriptor)}): nothing was attempted"
                raise LockHeld(why, "wait for it to end: its own time limits bound it")
            time.sleep(0.1)
        # The process id is only for the message above: a full disk must not cost the lock.
        with suppress(OSError):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        yield


def _describe_holder(descriptor: int) -> str:
    pid = os.pread(descriptor, 20, 0).strip()
    if not pid.isdigit():
        return "unknown process"
    command = ""
    with suppress(OSError), open(f"/proc/{int(pid)}/cmdline", "rb") as file:
        command = line(file.read(200).replace(b"\0", b" ").decode("utf-8", "replace"))
    return f"process {int(pid)}" + (f", {command}" if command else "")
