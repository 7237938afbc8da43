"""One run at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from osg_token_renewer import directories
from osg_token_renewer.errors import LockHeld
from osg_token_renewer.text import line


@contextmanager
def held(path: str, wait: float, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Holds the lock file at `path`; the kernel lets go of it when this process ends, however it ends.

    Raises LockHeld when another process still has it after `wait` seconds, and OSError when there can be no such file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        directories.owned_as_directory(descriptor, os.path.dirname(path))
        deadline = time.monotonic() + wait
        while not directories.taken(descriptor):
            if time.monotonic() > deadline or stopped():
                raise LockHeld(
                    f"another run is at work ({_holder(descriptor)}): nothing was attempted",
                    "wait for it to end: its own time limits bound it",
                )
            time.sleep(0.1)
        # Who it is, for others to say: a full disk must not cost the lock.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    pid = os.pread(descriptor, 20, 0).strip()
    if not pid.isdigit():
        return "unknown process"
    try:
        with open(f"/proc/{int(pid)}/cmdline", "rb") as file:
            command = line(file.read(200).replace(b"\0", b" ").decode("utf-8", "replace"))
    except OSError:
        command = ""
    return f"process {int(pid)}" + (f", {command}" if command else "")
