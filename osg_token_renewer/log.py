"""Where messages go: stderr, one line each, with its priority when the journal reads it."""

from __future__ import annotations

import logging
import os
import sys

from osg_token_renewer.text import escaped

ROOT = "osg_token_renewer"

# sd-daemon(3): a line that begins with <N> has the priority N of syslog.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Lines(logging.Formatter):
    """What was not made harmless where it came in (a path, a name from the command line) is so where it goes out."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 5)}>" if self._journal else ""
        text = "\n".join(prefix + escaped(line) for line in super().format(record).split("\n"))
        return f"warning: {text}" if record.levelno == logging.WARNING and not self._journal else text


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
    # It would print what it cannot make sense of in an issuer's answer.
    logging.getLogger("urllib3").propagate = False
    logging.getLogger("urllib3").handlers = [logging.NullHandler()]
    # An exception within logging must not print the arguments of the call.
    logging.raiseExceptions = False


def read_by_journal() -> bool:
    """Whether stderr is connected to the journal: $JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
