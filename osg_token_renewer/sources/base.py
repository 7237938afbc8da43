"""What a source is: a module with these names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Optional, Protocol, TypeVar

from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option

T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """What an issuer answered: the token's text as it came, unchecked.

    `expires_at` (seconds since 1970) and `issuer` are what the answer said beside the token, None when it said nothing.
    `clock_ahead`: by how many seconds the issuer's clock is ahead of this host's; None where that cannot be seen.
    """

    text: Secret
    expires_at: Optional[float] = None
    issuer: Optional[str] = None
    clock_ahead: Optional[float] = None


@dataclass(frozen=True)
class Directories:
    """Where a session may make files.

    `sockets` is private to this user and short enough for sockets; what a session makes in it, it removes. `state` is for what must
    outlive the run; it need not exist.
    """

    sockets: str
    state: str


# Obtains one token; raises a Failure. Calls are made one after the other.
Fetch = Callable[[TokenSpec], Fetched]

# What each request is made within: gives the seconds that it may take at most, besides the account's own timeout, and sees a TimedOut.
# The argument is how many it should have, where a request that is cut off does harm. Raises NotAsked or Stopped when none may be made.
Begin = Callable[[float], AbstractContextManager[float]]


def at_any_time(_wanted: float) -> AbstractContextManager[float]:
    """A Begin outside of runs."""
    return nullcontext(math.inf)


class Kept:
    """What a worker's sessions, opened one after the other, have in common: made when it is first asked for, closed with the worker."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._made: dict[object, Any] = {}

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self._stack.close()

    def get(self, make: Callable[[], AbstractContextManager[T]]) -> T:
        if make not in self._made:
            self._made[make] = self._stack.enter_context(make())
        made: T = self._made[make]
        return made


class Source(Protocol):
    """A module is one: module-level names satisfy this protocol."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """What `source =` calls it."""

    @property
    def MARKER(self) -> str:  # noqa: N802
        """The option whose presence makes this the account's source where `source` is not given."""

    @property
    def OPTIONS(self) -> tuple[Option, ...]:  # noqa: N802
        """The options of an `[account]` section that only this source reads."""

    @property
    def OVERLAPS(self) -> bool:  # noqa: N802
        """Whether several sessions of one account may be open at the same time: not where a refresh token may rotate."""

    def opening_obtains_token(self) -> bool:
        """Whether to open an account is to obtain a token from its issuer, which nobody uses."""

    def settings(self, values: Mapping[str, Any]) -> Any:
        """The account's settings from its parsed options; raises ValueError for combinations that make no sense."""

    def rescue(self, directory: str) -> bool:
        """Saves what must not be lost from a directory of a session whose program was killed; false if it could not. Never raises."""

    def issuer(self, account: Account, known: Optional[str]) -> Optional[str]:
        """Whom the account's requests go to, as a URL, without asking; None when that is not known.

        `known` is the issuer of the account's last token, if there was one.
        """

    def grant(self, account: Account) -> Optional[str]:
        """A text that changes when the account is given another grant; None where the account has none that could die."""

    def session(
        self, account: Account, directories: Directories, begin: Begin = at_any_time, kept: Optional[Kept] = None
    ) -> AbstractContextManager[Fetch]:
        """Opens the account, for tokens one after the other. What may outlive it for the next one is in `kept`.

        Entering raises a Failure when the account cannot be opened, which is the failure of each token that was to come from it. It
        repeats no request by itself: an Unavailable says with `retry_after` that this may be done.
        """
