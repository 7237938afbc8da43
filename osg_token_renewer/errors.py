"""The exception tree, and the exit statuses that it ends in.

RenewerError             everything that this program raises on purpose                  exit 1
├── UsageError           the command line names something that does not exist           exit 2
├── ConfigError          the configuration is wrong: every problem, with its place      exit 78
├── LockHeld             another run is at work                                         exit 1
├── HistoryError         the history cannot be used: never more than a warning
└── Failure              one token could not be renewed: becomes a failed outcome
    ├── Refused          a person must act: wrong password, unknown account       issuer_answered
    │   └── DeadGrant    the refresh token is dead                                ends_lane, kills_grant
    ├── Unavailable      the next run may succeed: network, 5xx                   advice
    │   ├── Unreachable  the issuer is down: connection refused, 502, 503, 504    issuer_out
    │   │   └── TimedOut the issuer did not answer in time                        ends_lane, counts_at_once
    │   │       └── CutOff   the program that waited for the answer was ended     risks_account
    │   └── NotAsked     the run is over, or its issuer is down                   ends_lane
    ├── Stopped          the run was stopped before this token's turn came        ends_lane
    ├── Local            this host is at fault: program missing, permission, no room
    │   ├── ProgramMissing   a program is not installed
    │   └── Died         the program that waited for the answer ended by itself   ends_lane, risks_account
    └── Unsuitable       the issuer sent something else than was asked for        issuer_answered

On the right stand the consequences of a failure: attributes that `Failure` explains. Subclasses inherit them.
Foreign exceptions are translated once, in the module that uses the library (net/https.py, history/store.py).
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
    """Everything that this program raises on purpose. `hint` is the reader's next step, if one is known."""

    exit_status: int = Exit.FAILED

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RenewerError):
    exit_status = Exit.USAGE


class ConfigError(RenewerError):
    """All problems of all configuration files. Warnings are among them, so that they are not lost."""

    exit_status = Exit.CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class LockHeld(RenewerError):
    pass


class HistoryError(RenewerError):
    pass


class Failure(RenewerError):
    """Why one token was not renewed. The class attributes are the consequences that the engine acts on."""

    # The word that outcomes, history and JSON show.
    reason = "failed"
    # The account's other tokens would fare no better in this run, so its lane ends.
    ends_lane = False
    # A refresh token that the issuer rotated meanwhile may be lost.
    risks_account = False
    # The issuer refused the grant for good: the account is paused.
    kills_grant = False
    # The issuer gave an answer, though no token.
    issuer_answered = False
    # The issuer is down. After a few such failures in a row, the run leaves it alone.
    issuer_out = False
    # Count this failure as soon as the request ends, not after the last try.
    counts_at_once = False
    # The next step, if `hint` names none.
    advice: Optional[str] = None

    def __init__(self, message: str, hint: Optional[str] = None, retry_after: Optional[float] = None) -> None:
        """`retry_after`: seconds after which this run may repeat the request. None: it must not."""
        super().__init__(message, hint)
        self.retry_after = retry_after
        # An issuer that asks for a pause gets one.
        self.ends_lane = self.ends_lane or bool(retry_after)

    def saying(self, message: str) -> Failure:
        """The same failure with another message."""
        return type(self)(message, self.hint, retry_after=self.retry_after)


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
    counts_at_once = True


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
