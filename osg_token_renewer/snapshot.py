"""What a run saw that found nothing due, so that the next one can tell from stat(2) alone that nothing has changed since.

As with git's index. It says only that nothing is to be done; whatever else may be the case, everything is read. So it is no loss when a
snapshot cannot be written, is removed, or makes no sense. This module imports next to nothing: a run with nothing due is to cost what it
takes to look at its files.
"""

from __future__ import annotations

import grp
import json
import logging
import os
import pwd
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Optional

from osg_token_renewer import __version__, directories, identity
from osg_token_renewer.identity import Identity

if TYPE_CHECKING:
    from osg_token_renewer.model import Config, TokenSpec
    from osg_token_renewer.planner import Planned

log = logging.getLogger(__name__)

FILE = "snapshot.json"
_FORM = 1
# Seconds after which everything is read again, for what files do not show: what a directory service knows, say.
LONGEST = 3600.0
# What changed so many seconds before it was looked at may have changed once more since, within one tick of its file system's clock.
SETTLED = 3.0
# Seconds since 1970; no token lives longer (jwt.numeric_date).
_LATEST = 253402300800.0
_LARGEST = 64 * 1024 * 1024


class _Token(NamedTuple):
    name: str
    path: str
    expires_at: float
    seen: Identity


class _Snapshot(NamedTuple):
    """As JSON has it. Times are seconds since 1970."""

    situation: Sequence[object]
    taken_at: float
    # When the first token will be due.
    until: float
    # Files that were read, and what makes others be read.
    files: Mapping[str, Identity]
    # Who may do what with the files of secrets, and with the directories on the way to what is believed.
    permissions: Mapping[str, Identity]
    # What is believed that is no symbolic link, and where links and directories lead.
    plain: Sequence[str]
    real: Mapping[str, str]
    # What the names of owners and groups mean.
    ids: Mapping[str, Optional[int]]
    warnings: Sequence[str]
    tokens: Sequence[Sequence[object]]


class Fresh(NamedTuple):
    """What a run with nothing due has to say: its warnings, and the seconds that each token has left, by its name."""

    warnings: Sequence[str]
    left: Sequence[tuple[str, float]]


def nothing_due(main: str) -> Optional[Fresh]:
    """What is to be said when nothing has changed since nothing was due; None when a run has to look for itself.

    `main` is the main configuration file.
    """
    now = time.time()
    try:
        kept = _read(os.path.join(directories.state(None), FILE))
        tokens = [_Token(*each) for each in kept.tokens]  # type: ignore[arg-type]
        if not tokens or not _holds(kept, tokens, main, now) or not all(now < each.expires_at < _LATEST for each in tokens):
            return None
        return Fresh([str(text) for text in kept.warnings], [(str(each.name), each.expires_at - now) for each in tokens])
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError):
        return None


def _holds(kept: _Snapshot, tokens: Sequence[_Token], main: str, now: float) -> bool:
    """Whether all is as it was, and its time is not over. What may be of another version is compared first."""
    return (
        kept.situation == _situation(main)
        and kept.taken_at <= now < min(kept.until, kept.taken_at + LONGEST)
        and not any(map(os.path.islink, kept.plain))
        and all(os.path.realpath(path) == real for path, real in kept.real.items())
        and all(identity.permissions_at(path) == seen for path, seen in kept.permissions.items())
        and all(identity.at(path) == seen for path, seen in kept.files.items())
        and all(identity.at(each.path, follow=False) == each.seen for each in tokens)
        and _ids(kept.ids) == kept.ids
    )


def take(main: str, found: Config, planned: Sequence[Planned], history: Mapping[str, Identity], until: float, began: float) -> None:
    """Keeps what a run saw that found each of `planned`, all tokens of `found`, to be fresh until then (seconds since 1970).

    `history` is what the files of the history were before they were read; `began` is when nothing had been looked at yet.
    """
    why = _why_not(found, planned, history, began) or _taken(main, found, planned, history, until)
    if why:
        log.debug("no snapshot is kept, so the next run reads everything, too: %s", why)


def _why_not(found: Config, planned: Sequence[Planned], history: Mapping[str, Identity], began: float) -> Optional[str]:
    """Why it would not be found, or not be right."""
    if directories.state(found.options.state_dir) != directories.state(None):
        return "state_dir names another directory than the default, which is where one is looked for before the configuration is read"
    unknown = next((each.spec.name for each in planned if each.record is None), None)
    if unknown or not planned:
        return f"token {unknown} is not in the history" if unknown else "there is no token"
    every = [
        *((path, seen) for path, seen in (*found.seen.items(), *history.items())),
        *((each.spec.path, each.published.identity) for each in planned),
    ]
    late = next((path for path, seen in every if identity.changed_at(seen) > began - SETTLED), None)
    return f"{late} has just changed" if late else None


def _taken(main: str, found: Config, planned: Sequence[Planned], history: Mapping[str, Identity], until: float) -> Optional[str]:
    """None, or why it was not taken."""
    from osg_token_renewer import trust

    believed = (*found.files, *found.secrets_seen)
    try:
        ways = {way for path in believed for way in trust.way(path)}
        # Since it was looked at; or on a file system that is only to be read, for now.
        opened = next((way for way in ways if trust.open_to_all(os.stat(way))), None)
        if opened:
            return f"others can write to {opened}"
        plain = [path for path in believed if not os.path.islink(path)]
        # Of the others, whose directories lead to the same places, many are in one. Not normalised: `link/..` is where the link leads.
        leading = {os.path.dirname(os.path.join(os.getcwd(), path)) for path in plain} | (set(believed) - set(plain))
        kept = _Snapshot(
            _situation(main),
            time.time(),
            until,
            {**found.seen, **history},
            {**{way: identity.permissions_at(way) for way in ways}, **found.secrets_seen},
            plain,
            {path: os.path.realpath(path) for path in leading},
            _ids(_named(each.spec for each in planned)),
            [warning.text for warning in found.warnings],
            [_Token(each.spec.name, each.spec.path, each.expires_at or 0.0, each.published.identity) for each in planned],
        )
        _write(os.path.join(directories.state(None), FILE), json.dumps(kept._asdict()).encode("ascii"))
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _situation(main: str) -> list[object]:
    """What decides, besides files, what a run would find."""
    user = [os.geteuid(), os.getegid(), sorted(os.getgroups())]
    # Paths of the configuration may be relative, too.
    return [_FORM, __version__, os.getcwd(), main, *user, os.environ.get("CREDENTIALS_DIRECTORY")]


def _named(specs: Iterable[TokenSpec]) -> set[str]:
    """The owners and groups that tokens are to have, by their names."""
    every = ((kind, name) for spec in specs for kind, name in (("owner", spec.owner), ("group", spec.group)))
    return {f"{kind} {name}" for kind, name in every if name and not name.isdecimal()}


def _ids(named: Iterable[str]) -> dict[str, Optional[int]]:
    return {each: _id(*each.split(" ", 1)) for each in named}


def _id(kind: str, name: str) -> Optional[int]:
    try:
        return pwd.getpwnam(name).pw_uid if kind == "owner" else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _read(path: str) -> _Snapshot:
    """Raises OSError, or ValueError or TypeError when it is not one that this user has written."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("not this program's own")
        return _Snapshot(**json.loads(file.read(_LARGEST)))


def _write(path: str, content: bytes) -> None:
    """Replaces the file; raises OSError. After a crash of the machine it may be anything, which does no harm."""
    temporary = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    # Another run that is at the same has the other file then, or none.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
