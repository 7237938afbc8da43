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

import copy
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Optional, TypeVar

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

F = TypeVar("F", bound="Failure")


class RenewerError(Exception):
    """Everything this program raises on purpose. `hint` is the next step for the reader, where one is
    known."""

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
    """Why one token was not renewed. The attributes are the consequences; classes and instances may set them."""

    # The word that outcomes, history and JSON carry.
    reason = "failed"
    # The account's other tokens would fare no better in this run: its lane ends.
    ends_lane = False
    # What waited for the issuer's answer was ended, and a rotated refresh token may be lost with it.
    risks_account = False
    # The issuer refused the grant for good: the account rests.
    kills_grant = False
    # The issuer gave an answer, though no token.
    issuer_answered = False
    # The issuer is out of reach: two such failures in a row, and the run leaves it alone.
    issuer_out = False

    # The next step in a run, where nobody knows a better one.
    advice: Optional[str] = None

    def __init__(
        self, message: str, hint: Optional[str] = None, *, retry_after: Optional[float] = None
    ) -> None:
        """`retry_after`: seconds after which the same request may be made again within this run; None if that
        would not help, or might harm."""
        super().__init__(message, hint)
        self.retry_after = retry_after
        # An issuer that asks for a pause gets one.
        self.ends_lane = self.ends_lane or bool(retry_after)

    def saying(self: F, message: str) -> F:
        """The same failure with another message."""
        other = copy.copy(self)
        RenewerError.__init__(other, message, self.hint)
        return other


class Refused(Failure):
    reason = "refused"
    issuer_answered = True


class DeadGrant(Refused):
    ends_lane = True
    kills_grant = True


class Unavailable(Failure):
    reason = "unavailable"
    advice = "the next run tries again; if this lasts, check the network and ask the issuer's operators"


class Unreachable(Unavailable):
    issuer_out = True


class TimedOut(Unreachable):
    ends_lane = True


class CutOff(TimedOut):
    risks_account = True


class NotAsked(Unavailable):
    ends_lane = True


class Stopped(Failure):
    reason = "stopped"
    ends_lane = True


class Local(Failure):
    reason = "local"


class ProgramMissing(Local):
    pass


class Died(Local):
    ends_lane = True
    risks_account = True


class Unsuitable(Failure):
    reason = "unsuitable"
    issuer_answered = True
