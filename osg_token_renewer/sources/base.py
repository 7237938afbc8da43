"""What a source is: a way for an account to obtain tokens. One subclass a kind, listed in registry.py."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Optional, TypeVar

from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option
from osg_token_renewer.sources.turns import Turns

T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """What an issuer answered: the token's text as it came, unchecked.

    `expires_at` (seconds since 1970) and `issuer` are what the answer said beside the token, None when it
    said nothing. `clock_ahead`: by how many seconds the issuer's clock is ahead of this host's; None where
    that cannot be seen."""

    text: Secret
    expires_at: Optional[float] = None
    issuer: Optional[str] = None
    clock_ahead: Optional[float] = None


# Obtains one token; raises a Failure. Calls are made one after the other.
Fetch = Callable[[TokenSpec], Fetched]

# What each request is made within: gives the seconds that it may take at most, besides the account's own
# timeout, and sees a TimedOut. The argument is how many it should have, where a request that is cut off does
# harm. Raises NotAsked or Stopped when none may be made.
Begin = Callable[[float], AbstractContextManager[float]]


def at_any_time(_wanted: float) -> AbstractContextManager[float]:
    """A Begin outside of runs."""
    return nullcontext(math.inf)


class Kept:
    """What a worker's sessions, opened one after the other, have in common: made when it is first asked for,
    closed with the worker."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._making = threading.Lock()
        self._made: dict[object, Any] = {}

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._stack.close()

    def get(self, make: Callable[[], AbstractContextManager[T]]) -> T:
        """What `make` makes, entered: all who ask get the same, in whichever thread. `make` must be quick."""
        with self._making:
            if make not in self._made:
                self._made[make] = self._stack.enter_context(make())
            made: T = self._made[make]
            return made


@dataclass(frozen=True)
class Context:
    """What a run gives to each session that it opens. The defaults are for a session outside of runs.

    `sockets` is a directory that is private to this user, with a path short enough for sockets; a session
    removes what it makes there. `state` is for what must outlive the run; it need not exist. `begin` is
    entered around each request. `kept` belongs to the worker: its next session finds there what this one made.
    `shared` belongs to the run: all its sessions find the same there. `turns` limits what costs cores and memory.
    """

    sockets: str = ""
    state: str = ""
    begin: Begin = at_any_time
    kept: Kept = field(default_factory=Kept)
    shared: Kept = field(default_factory=Kept)
    turns: Turns = field(default_factory=Turns)


class Source(ABC):
    """One kind of account. The defaults are right for a source that gets a token with one HTTPS request."""

    # What `source =` calls it.
    NAME: str
    # The option whose presence makes this the account's source if `source` is not given.
    MARKER: str
    # The options of an `[account]` section that only this source reads.
    OPTIONS: tuple[Option, ...]
    # Whether several sessions of one account may be open at the same time: not if a refresh token may rotate.
    OVERLAPS = True

    @abstractmethod
    def settings(self, values: Mapping[str, Any]) -> Any:
        """The account's settings from its parsed options; raises ValueError for combinations without sense."""

    @abstractmethod
    def session(self, account: Account, context: Context) -> AbstractContextManager[Fetch]:
        """Opens the account; yields a function that obtains one token after the other.

        Raises a Failure if the account cannot be opened: it is then the failure of each of its tokens. It
        repeats no request by itself: a failure says with `retry_after` that the run may do so.
        """

    def issuer(self, account: Account, known: Optional[str]) -> Optional[str]:
        """Whom the account's requests go to, as a URL, without asking; None if that is not known.

        `known` is the issuer of the account's last token, if there was one.
        """
        return account.issuer or known

    def grant(self, account: Account) -> Optional[str]:  # noqa: ARG002
        """A text that changes when the account gets another grant; None if it has none that could die."""
        return None

    def opening_obtains_token(self) -> bool:
        """Whether opening an account obtains a token from its issuer, which nobody uses."""
        return False

    def rescue(self, directory: str) -> bool:  # noqa: ARG002
        """Saves what must not be lost from `directory`, which the session of a killed program left in `sockets`.

        Returns whether that is done; if not, the directory stays for the next run. Never raises.
        """
        return True
