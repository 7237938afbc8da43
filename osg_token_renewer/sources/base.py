"""What a source is: a way for an account to obtain tokens; one subclass for each kind (registry.py)."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar

from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option

T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """What an issuer answered: the token's text, unchecked, and what the answer said besides.

    `expires_at` is in seconds since 1970, `clock_ahead` in seconds (tokens/clock_skew.py). None: unknown.
    """

    text: Secret
    expires_at: Optional[float] = None
    issuer: Optional[str] = None
    clock_ahead: Optional[float] = None


# Obtains one token; raises a Failure. The calls of a session follow one after the other.
Fetch = Callable[[TokenSpec], Fetched]

# Each request is made inside of this context. It yields the seconds that the request may take at most (the
# account's timeout applies too), and raises NotAsked or Stopped if no request may be made. The argument is
# the number of seconds that a request needs if cutting it off does harm.
Begin = Callable[[float], AbstractContextManager[float]]


def at_any_time(_wanted: float) -> AbstractContextManager[float]:
    """The Begin of a session outside of runs."""
    return nullcontext(math.inf)


class Kept(AbstractContextManager["Kept"]):
    """What several sessions share: each object is made when it is first needed, and closed with this."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._making = threading.Lock()
        self._made: dict[object, Any] = {}

    def __exit__(self, *_error: object) -> None:
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
    removes what it makes there. `state` is a directory for what must outlive the run; it need not exist.
    A worker's sessions share `kept`, all sessions `shared`.
    """

    sockets: str = ""
    state: str = ""
    begin: Begin = at_any_time
    kept: Kept = field(default_factory=Kept)
    shared: Kept = field(default_factory=Kept)


class Source(ABC):
    """One kind of account. The defaults suit a source that obtains a token with one HTTPS request."""

    # The kind's name, for `source =`.
    NAME: str
    # The option that makes this the account's source if `source` is not given.
    MARKER: str
    # The options of an `[account]` section that only this source reads.
    OPTIONS: tuple[Option, ...]
    # Whether several sessions of one account may be open at once: not if a refresh token may rotate.
    OVERLAPS = True

    @abstractmethod
    def settings(self, values: Mapping[str, Any]) -> Any:
        """The account's settings from its parsed options; raises ValueError if they contradict each other."""

    @abstractmethod
    def session(self, account: Account, context: Context) -> AbstractContextManager[Fetch]:
        """Opens the account; raises a Failure, which counts for each of the account's tokens, if it cannot.

        It never repeats a request: the failure's `retry_after` lets the run do so.
        """

    def issuer(self, account: Account, known: Optional[str]) -> Optional[str]:
        """The URL of the issuer or token endpoint, without a request; `known` is the last token's issuer."""
        return account.issuer or known

    def grant(self, account: Account) -> Optional[str]:  # noqa: ARG002
        """A text that changes when the account gets another grant; None if it has none that could die."""
        return None

    def opening_obtains_token(self) -> bool:
        """Whether opening an account obtains a token that is not used."""
        return False

    def rescue(self, directory: str) -> bool:  # noqa: ARG002
        """Saves what a killed session left in a directory of `sockets`; if False, it stays. Never raises."""
        return True
