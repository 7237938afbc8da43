"""Where messages go: stderr, each line with its priority for the journal, or with its time in a file."""

from __future__ import annotations

import logging
import os
import stat
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from osg_token_renewer.text import escaped, instant, outside

ROOT = "osg_token_renewer"

# sd-daemon(3): a line that begins with <N> has the priority N of syslog.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Puts a prefix before each line, and escapes what is not printable: a path may hold anything."""

    def __init__(self, prefix: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        prefix = self._prefix(record)
        return "\n".join(prefix + escaped(line) for line in super().format(record).split("\n"))

    def emit(self, record: logging.LogRecord) -> None:
        # A progress display replaces sys.stderr.
        self.stream = sys.stderr
        super().emit(record)


def set_up(verbosity: int) -> None:
    """Configures logging for this process. `verbosity`: 1 also shows details, -1 only warnings and errors."""
    logger = logging.getLogger(ROOT)
    logger.setLevel({1: logging.DEBUG, 0: logging.INFO}.get(verbosity, logging.WARNING))
    logger.propagate = False
    logger.handlers = [_Stderr(_choose_prefix())]
    # urllib3 would print what it cannot parse in an issuer's answer.
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    warnings.showwarning = _log_warning
    # A closed pipe or a full disk must not end a run, nor print the arguments of a call.
    logging.raiseExceptions = False


def _log_warning(message: Warning | str, category: type[Warning], *_args: Any, **_kwargs: Any) -> None:
    """A library's warning; Python itself would print its place in the library, with the source."""
    logging.getLogger(ROOT).debug("%s: %s", category.__name__, outside(str(message)))


def _choose_prefix() -> Callable[[logging.LogRecord], str]:
    """How a line begins depends on who reads stderr."""
    with suppress(OSError, ValueError, AttributeError):
        status = os.fstat(sys.stderr.fileno())
        # $JOURNAL_STREAM names the device and inode of what the journal reads (systemd.exec(5)).
        if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
            return lambda record: f"<{_PRIORITIES.get(record.levelno, 5)}>"
        if stat.S_ISREG(status.st_mode):
            return lambda record: f"{instant(record.created)} {_level(record)}"
    return _level


def _level(record: logging.LogRecord) -> str:
    return "warning: " if record.levelno == logging.WARNING else ""
