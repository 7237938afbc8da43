"""The vocabulary: accounts, tokens, decisions and outcomes. Past the loader there is nothing else.

All of it is immutable. What a run makes for each token is a NamedTuple: it takes a third of the time of a
frozen dataclass, and a run with nothing due does little else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Optional

from osg_token_renewer.text import escaped

# Characters of a section's title, which the configuration does not limit.
_LONGEST_SHOWN = 200


class Secret:
    """A text that must not be shown: `str`, `repr` and format mask it, only `reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('***')"


class Place(NamedTuple):
    """Where a value of the configuration stands. Lines count from 1; None means the file as a whole."""

    file: str
    line: Optional[int] = None

    def __str__(self) -> str:
        file = escaped(self.file)
        return file if self.line is None else f"{file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration. It names places and options, never a line's content."""

    place: Place
    what: str
    section: Optional[str] = None
    option: Optional[str] = None
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.text} (warning)" if self.warning else self.text

    @property
    def text(self) -> str:
        """The problem, without saying whether it is a warning."""
        title = self.section or ""
        if len(title) > _LONGEST_SHOWN:
            title = f"{title[:_LONGEST_SHOWN]}…"
        where = f"[{title}] " if title else ""
        which = f"{self.option}: " if self.option else ""
        return escaped(f"{self.place}: {where}{which}{self.what}")


@dataclass(frozen=True)
class Account:
    """An `[account]` section. `settings` comes from its source; `timeout` is in seconds for one request."""

    name: str
    source: str
    settings: Any
    timeout: float = 60.0
    issuer: Optional[str] = None


@dataclass(frozen=True)
class TokenSpec:
    """A `[token]` section. Empty `audience` or `scope` ask for the issuer's or the account's default.

    `destination` is what the sink named `sink` made of the section's options (see Sink.settings).
    """

    name: str
    account: str
    destination: Any
    audience: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    min_lifetime: Optional[int] = None
    enforce_claims: bool = False
    remove_expired: bool = False
    sink: str = "file"

    @property
    def path(self) -> str:
        return str(self.destination.path)

    @property
    def asked(self) -> str:
        """The request as one comparable text. When it changes, the published token is stale."""
        return json.dumps([self.account, sorted(set(self.audience)), sorted(set(self.scope))])


@dataclass(frozen=True)
class RenewerSettings:
    """The `[renewer]` section. None lets the program choose; `run_timeout` and `spread` are in seconds."""

    workers: Optional[int] = None
    state_dir: Optional[str] = None
    runtime_dir: Optional[str] = None
    run_timeout: int = 600
    spread: int = 0


@dataclass(frozen=True)
class Config:
    """Everything that the configuration says. `files`: the main file and its drop-ins."""

    accounts: Mapping[str, Account]
    tokens: tuple[TokenSpec, ...]
    options: RenewerSettings
    files: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class AccessToken:
    """A token's text, and what is known of it: `expires_at` in seconds since 1970, None if nobody said."""

    text: Secret
    claims: Optional[Mapping[str, Any]] = field(default=None, repr=False)
    expires_at: Optional[float] = None
    issuer: Optional[str] = None
    audience: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()

    @property
    def opaque(self) -> bool:
        return self.claims is None


class Found(Enum):
    """What stands where a token is to be published."""

    NOTHING = "no file"
    UNREADABLE = "not readable"
    NOT_A_TOKEN = "not a token"  # noqa: S105
    NOT_A_FILE = "not a regular file"
    TOKEN = "token"  # noqa: S105


class Published(NamedTuple):
    """What a sink read where a token is published.

    `problem` says why it is not a token, `difference` how mode, owner or group differ from the configuration.
    """

    found: Found
    problem: str = ""
    token: Optional[AccessToken] = None
    fingerprint: Optional[str] = None
    mode: Optional[int] = None
    difference: Optional[str] = None


class TokenRecord(NamedTuple):
    """What the history knows of one token. Times are seconds since 1970."""

    name: str
    fingerprint: Optional[str] = None
    asked: Optional[str] = None
    issuer: Optional[str] = None
    expires_at: Optional[float] = None
    obtained_at: Optional[float] = None
    failed_at: Optional[float] = None
    failure_reason: Optional[str] = None
    failure_message: Optional[str] = None
    failures_in_row: int = 0


class Rest(NamedTuple):
    """The pause of an account whose grant the issuer refused for good, at `since` (seconds since 1970)."""

    account: str
    grant: str
    since: float
    message: str

    @property
    def until(self) -> float:
        """The end of the pause, which lasts a day."""
        return self.since + 86400.0


class Why(Enum):
    """Why a token is due, or that it is not."""

    FRESH = "fresh"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_A_TOKEN = "not a token"  # noqa: S105
    NOT_A_FILE = "not a regular file"
    EXPIRED = "expired"
    EXPIRING = "expiring"
    SPREAD = "spread"
    UNKNOWN_EXPIRY = "unknown expiry"
    CHANGED = "asked for differently"
    EVERY_RUN = "every run"
    FORCED = "forced"


class Decision(NamedTuple):
    """Whether a token is due, and the reason: `why` is the program's word for it, `text` the reader's."""

    why: Why
    text: str

    @property
    def due(self) -> bool:
        return self.why is not Why.FRESH


class Planned(NamedTuple):
    """One token: what is published, what the history knows of it, and whether it is due.

    `expires_at` is the published token's, None if unknown. With `rest`, it is due but its account is paused.
    """

    spec: TokenSpec
    published: Published
    record: Optional[TokenRecord]
    decision: Decision
    expires_at: Optional[float]
    rest: Optional[Rest] = None


class State(Enum):
    RENEWED = "renewed"
    FRESH = "fresh"
    FAILED = "failed"


# The reason of a failed outcome besides those of errors.Failure: the program itself is at fault.
BUG = "bug"


class Outcome(NamedTuple):
    """What became of one token in one run.

    `reason` is the planner's word for a fresh token, `Failure.reason` for a failed one. `expires_at` is the
    published token's, `notes` are warnings about it. `consequence` is what a failure means for the token's
    readers. `dead_grant` is the account's grant (`Source.grant`), if the issuer refused it for good.
    """

    spec: TokenSpec
    state: State
    reason: str
    message: str
    hint: Optional[str] = None
    consequence: Optional[str] = None
    expires_at: Optional[float] = None
    notes: tuple[str, ...] = ()
    token: Optional[AccessToken] = None
    fingerprint: Optional[str] = None
    dead_grant: Optional[str] = None
