"""What the program talks about: accounts, tokens, decisions and outcomes. Past the configuration loader there
is nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Optional

from osg_token_renewer.text import escaped

# Of a section's title, which the configuration does not limit.
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

    __str__ = __repr__


# Configuration


class Place(NamedTuple):
    """Where a value of the configuration stands; lines count from 1, None is the file as a whole."""

    file: str
    line: Optional[int] = None

    def __str__(self) -> str:
        file = escaped(self.file)
        return file if self.line is None else f"{file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration. It names places and options, never the content of a
    line."""

    place: Place
    what: str
    section: Optional[str] = None
    option: Optional[str] = None
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.text} (warning)" if self.warning else self.text

    @property
    def text(self) -> str:
        """Without the word that tells a warning from an error."""
        where = f"[{_cut(self.section)}] " if self.section else ""
        which = f"{self.option}: " if self.option else ""
        return escaped(f"{self.place}: {where}{which}{self.what}")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"


@dataclass(frozen=True)
class Account:
    """A client registration that can obtain tokens. `settings` is what its source made of the section's
    options."""

    name: str
    source: str
    settings: Any
    timeout: float = 60.0
    # As a URL; None if the configuration does not say.
    issuer: Optional[str] = None


@dataclass(frozen=True)
class TokenSpec:
    """What is wanted. Empty `audience` or `scope` ask for the issuer's or the account's default.

    `sink` is the kind of place where the token goes, and `destination` what that sink made of the section's
    options. Whatever the sink, a destination has a `path`: the one place that no other token may have.
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
        path: str = self.destination.path
        return path

    @property
    def asked(self) -> str:
        """The request as one comparable text: when it changes, the published token is stale."""
        return json.dumps([self.account, sorted(set(self.audience)), sorted(set(self.scope))])


@dataclass(frozen=True)
class Options:
    """The `[renewer]` section; None lets the program choose."""

    workers: Optional[int] = None
    state_dir: Optional[str] = None
    runtime_dir: Optional[str] = None
    # Seconds that a run may take.
    run_timeout: int = 600
    # Seconds that a renewal may be moved ahead of its token's min_lifetime.
    spread: int = 0


@dataclass(frozen=True)
class Config:
    accounts: Mapping[str, Account]
    tokens: tuple[TokenSpec, ...]
    options: Options
    files: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()


# Tokens


@dataclass(frozen=True)
class AccessToken:
    """A token's text and what can be read from it.

    `claims` is None for an opaque token. `expires_at` is in seconds since 1970, None when nobody said.
    """

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
    """What stands at a `token_path`."""

    NOTHING = "no file"
    UNREADABLE = "not readable"
    NOT_A_TOKEN = "not a token"  # noqa: S105
    NOT_A_FILE = "not a regular file"
    TOKEN = "token"  # noqa: S105


@dataclass(frozen=True)
class Published:
    """What the publisher read at a `token_path`.

    `problem` says why it is not a token; `difference`, how the file's mode, owner or group is not what is
    configured; `mode` is the permission bits."""

    found: Found
    problem: str = ""
    token: Optional[AccessToken] = None
    fingerprint: Optional[str] = None
    mode: Optional[int] = None
    difference: Optional[str] = None


@dataclass(frozen=True)
class TokenRecord:
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


# How long an account with a dead grant is not tried, in seconds.
REST = 86400.0


@dataclass(frozen=True)
class Rest:
    """An account whose grant the issuer refused for good: asking again is of no use. `since` is in seconds
    since 1970."""

    account: str
    grant: str
    since: float
    message: str

    @property
    def until(self) -> float:
        return self.since + REST


# Decisions and outcomes


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


@dataclass(frozen=True)
class Decision:
    """Whether a token is due, and the reason in the program's words (`why`) and in the reader's (`text`)."""

    why: Why
    text: str

    @property
    def due(self) -> bool:
        return self.why is not Why.FRESH


@dataclass(frozen=True)
class Planned:
    """One token, what stands at its path, what the history knows of it, and whether it is due.

    `expires_at` is when the published token expires, in seconds since 1970; None when nobody knows, or there
    is none. `rest` says why its account is not asked although the token is due.
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


@dataclass(frozen=True)
class Outcome:
    """What became of one token in one run.

    `reason` is one word: the planner's for a fresh token, `Failure.reason` for a failed one. `expires_at` is
    that of the token that is now published, None when unknown or when there is none. `notes` are warnings
    about a token that was published; `consequence` is what a failure means for the token's readers at that
    moment. `dead_grant` is the account's grant (`Source.grant`) that the issuer has refused for good."""

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
