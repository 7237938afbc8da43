"""The standard streams and the log of both programs."""

from __future__ import annotations

import os
import sys

from osg_token_renewer.system import log


def set_up_log(verbosity: int) -> None:
    """`verbosity`: 1 shows details, 0 is the default, -1 shows only warnings and errors."""
    log.set_up(verbosity)


def release() -> None:
    """Flushes the streams; drops what nobody takes (a full disk, a reader that is gone). Python would try to
    write that once more when it ends, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_printable() -> None:
    """Makes the streams take any text: neither a file name nor a terminal that is not UTF-8, nor a closed
    stream, may end a run."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        # Python has None for a closed stream, and the next file to be opened would get its number.
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
