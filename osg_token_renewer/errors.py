"""The exception tree, and the exit statuses it ends in.

RenewerError
├── UsageError             the command line asks for something that does not exist        exit 2
├── ConfigError            the configuration is wrong: every problem, with its place      exit 78
├── LockHeld               another run is at work                                         exit 1
├── HistoryError           the history cannot be used: never more than a warning
└── Failure                one token could not be renewed: becomes a failed outcome
    ├── Refused            a person must act: wrong password, unknown account
    │   └── DeadGrant      the refresh token is dead
    ├── Unavailable        try again later: network, 5xx, no answer in time
    │   ├── Unreachable    whoever asks the same issuer next will most likely fare no better: connection refused, 502, 503, 504
    │   │   └── TimedOut   no answer in time
    │   │       └── CutOff what waited for the answer was ended, and with it perhaps a rotated refresh token
    │   └── NotAsked       the run's time is over, or the issuer was found not to answer
    ├── Stopped            the run was asked to stop before this token's turn came
    ├── Local              this host is at fault: program missing, permission, no room
    │   ├── ProgramMissing a program is not installed
    │   └── Died           what waited for the answer ended by itself, and with it perhaps a rotated refresh token
    └── Unsuitable         the issuer answered, but not with the token that was asked for

Foreign exceptions are translated once, where they enter: http.py and process.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from osg_token_renewer.model import Problem


class Exit(IntEnum):
    """Exit statuses; 78 is EX_CONFIG of sysexits.h, 130 and 143 are 128 + SIGINT and 128 + SIGTERM."""

    WELL = 0
    FAILED = 1
    USAGE = 2
    BUG = 3
    CONFIG = 78


REPORT = "please report it, with these lines, to the maintainers of osg-token-renewer"


class RenewerError(Exception):
    """Everything this program raises on purpose. `hint` is the next step for the reader, where one is known."""

    exit_status: Exit = Exit.FAILED

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RenewerError):
    exit_status = Exit.USAGE


class ConfigError(RenewerError):
    """All problems of all configuration files; warnings are in there too, so that they are not lost."""

    exit_status = Exit.CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class LockHeld(RenewerError):
    pass


class HistoryError(RenewerError):
    pass


class Failure(RenewerError):
    """Why one token was not renewed. `reason` is the word that outcomes, history and JSON carry."""

    reason = "failed"


class Refused(Failure):
    reason = "refused"


class DeadGrant(Refused):
    pass


class Unavailable(Failure):
    """`retry_after`: seconds after which the same may be asked again within this run; None, where that would not help or might harm."""

    reason = "unavailable"

    def __init__(self, message: str, hint: Optional[str] = None, *, retry_after: Optional[float] = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class Unreachable(Unavailable):
    pass


class TimedOut(Unreachable):
    pass


class CutOff(TimedOut):
    pass


class NotAsked(Unavailable):
    pass


class Stopped(Failure):
    reason = "stopped"


class Local(Failure):
    reason = "local"


class ProgramMissing(Local):
    pass


class Died(Local):
    pass


class Unsuitable(Failure):
    reason = "unsuitable"
