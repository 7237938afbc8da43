"""Where messages go: stderr, one line each, with its priority when the journal reads it and with its time in
a file."""

from __future__ import annotations

import logging
import os
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any

from osg_token_renewer.text import escaped, instant, outside

ROOT = "osg_token_renewer"

# sd-daemon(3): a line that begins with <N> has the priority N of syslog.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Lines(logging.Formatter):
    """What was not made harmless where it came in (a path, a name from the command line) is so where it goes
    out."""

    def __init__(self, prefix: Callable[[logging.LogRecord], str], warn: bool) -> None:
        super().__init__("%(message)s")
        self._prefix = prefix
        self._warn = warn

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if self._warn and record.levelno == logging.WARNING:
            text = f"warning: {text}"
        prefix = self._prefix(record)
        return "\n".join(prefix + escaped(line) for line in text.split("\n"))


class _Stderr(logging.Handler):
    """Writes to what stderr is at that moment: a progress display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            # Nobody reads the messages (a closed pipe, a full disk): the tokens matter more.
            return


def set_up(verbosity: int) -> None:
    """`verbosity`: 1 also shows details, 0 is usual, -1 only warnings and errors."""
    logger = logging.getLogger(ROOT)
    logger.setLevel({1: logging.DEBUG, 0: logging.INFO}.get(verbosity, logging.WARNING))
    logger.propagate = False
    handler = _Stderr()
    handler.setFormatter(_lines())
    logger.handlers = [handler]
    # It would print what it cannot make sense of in an issuer's answer.
    logging.getLogger("urllib3").propagate = False
    logging.getLogger("urllib3").handlers = [logging.NullHandler()]
    # Nobody asks a record for these.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    warnings.showwarning = _of_a_library
    # An exception within logging must not print the arguments of the call.
    logging.raiseExceptions = False


def _of_a_library(message: Warning | str, category: type[Warning], *_args: Any, **_kwargs: Any) -> None:
    """Python's own way would print the place in the library, and its source."""
    logging.getLogger(ROOT).debug("%s: %s", category.__name__, outside(str(message)))


def _lines() -> _Lines:
    """In the form that whatever stderr is connected to has use for."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return _Lines(lambda _: "", warn=True)
    # $JOURNAL_STREAM names the device and inode of what the journal reads (systemd.exec(5)).
    if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return _Lines(lambda record: f"<{_PRIORITIES.get(record.levelno, 5)}>", warn=False)
    if stat.S_ISREG(status.st_mode):
        # A log file: nobody else would say when it was.
        return _Lines(lambda record: f"{instant(record.created)} ", warn=True)
    return _Lines(lambda _: "", warn=True)
