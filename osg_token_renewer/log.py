"""Where messages go: stderr, one line each, with its priority when the journal reads it."""

from __future__ import annotations

import logging
import os
import sys

ROOT = "osg_token_renewer"

# sd-daemon(3): a line that begins with <N> has the priority N of syslog.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Lines(logging.Formatter):
    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if self._journal:
            prefix = f"<{_PRIORITIES.get(record.levelno, 5)}>"
            return "\n".join(prefix + line for line in text.split("\n"))
        return f"warning: {text}" if record.levelno == logging.WARNING else text


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
    handler.setFormatter(_Lines(read_by_journal()))
    logger.handlers = [handler]
    # An exception within logging must not print the arguments of the call.
    logging.raiseExceptions = False


def read_by_journal() -> bool:
    """Whether stderr is connected to the journal: $JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
