"""What a run saw that found nothing due, so that the next one can tell from stat(2) alone that nothing has changed since.

As with Git's index. It says only that nothing is to be done; whatever else may be the case, everything is read. So it is no loss when a
snapshot cannot be written, is removed, or makes no sense. This module imports next to nothing: a run with nothing due is to cost what it
takes to look at its files.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

from osg_token_renewer import __version__, config, directories
from osg_token_renewer.report import journal
from osg_token_renewer.text import remaining

if TYPE_CHECKING:
    from osg_token_renewer.model import Config, TokenSpec
    from osg_token_renewer.planner import Planned

FILE = "snapshot.json"
_FORM = 1
# Seconds after which everything is read again, for what files do not show: the memory of a name server, say.
LONGEST = 3600.0
# What changed so many seconds before it was read may have changed once more since, within one tick of its file system's clock.
SETTLED = 3.0
_LARGEST = 64 * 1024 * 1024


def identity(status: os.stat_result) -> list[int]:
    """Another one for each content and each set of permissions that a file has."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return [status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size, *times]


def nothing_due(main: str) -> Optional[list[str]]:
    """What a run says that finds nothing due, a line for each token and one for all: None when it has to look for itself.

    `main` is the main configuration file.
    """
    now = time.time()
    try:
        content = _read(os.path.join(directories.state(None), FILE))
        if not _holds(content, main, now):
            return None
        lines = [journal.fresh(name, remaining(expires_at - now)) for name, _, expires_at, _ in content["tokens"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    return [*lines, journal.totals(fresh=len(lines))]


def _holds(content: Mapping[str, Any], main: str, now: float) -> bool:
    """Whether all is as it was, and the time is not over. What it was first is compared first: the rest may make no sense any more."""
    return (
        content["situation"] == _situation(main)
        and content["taken_at"] <= now < content["until"]
        and all(os.stat(way).st_mode == mode for way, mode in content["ways"].items())
        and all(_now(path) == seen for path, seen in content["files"].items())
        and all(_now(path, follow=False) == seen for _, path, _, seen in content["tokens"])
        and _ids(content["ids"]) == content["ids"]
    )


def take(main: str, found: Config, planned: Sequence[Planned], until: float, began: float) -> None:
    """Keeps what a run saw that found each of `planned`, all tokens of `found`, to be fresh until then (seconds since 1970).

    `began` is when it had not looked at anything yet. There is none where it would not be looked for, or would not be right: when the run
    had something to complain of, or something may have changed while it was read.
    """
    state = directories.state(found.options.state_dir)
    known = all(each.record is not None and each.published.identity for each in planned)
    if found.warnings or not planned or not known or state != directories.state(None):
        return
    from osg_token_renewer import history, trust

    remembered = history.History(state).path
    judged = (*found.files, *found.secret_files)
    paths = [*judged, config.drop_ins(main), remembered, f"{remembered}-journal"]
    with suppress(OSError):
        files = {path: _now(path) for path in paths}
        ways = {way: os.stat(way) for path in judged for way in trust.way(path)}
        seen = filter(None, (*files.values(), *(each.published.identity for each in planned)))
        # A directory that is open to all is one that a read-only file system makes up for.
        if any(max(each[-2:]) / 1e9 > began - SETTLED for each in seen) or any(map(trust.open_to_all, ways.values())):
            return
        content = {
            "situation": _situation(main),
            "taken_at": time.time(),
            "until": min(until, began + LONGEST),
            "ids": _ids(_named(each.spec for each in planned)),
            "files": files,
            "ways": {way: status.st_mode for way, status in ways.items()},
            "tokens": [(each.spec.name, each.spec.path, each.expires_at, each.published.identity) for each in planned],
        }
        _write(os.path.join(state, FILE), json.dumps(content).encode("ascii"))


def _situation(main: str) -> list[object]:
    """What decides, besides files, what a run would find."""
    user = [os.geteuid(), os.getegid(), sorted(os.getgroups())]
    return [_FORM, __version__, os.path.abspath(main), *user, os.environ.get("CREDENTIALS_DIRECTORY")]


def _now(path: str, follow: bool = True) -> Optional[list[int]]:
    """What there is by now; None where there is nothing."""
    try:
        return identity(os.stat(path, follow_symlinks=follow))
    except (FileNotFoundError, NotADirectoryError):
        return None


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


def _read(path: str) -> Mapping[str, Any]:
    """Raises OSError, or ValueError when it is not one that this user has written."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("not this program's own")
        content: Mapping[str, Any] = json.loads(file.read(_LARGEST))
        return content


def _write(path: str, content: bytes) -> None:
    """Replaces the file. After a crash of the machine it may be anything, which does no harm."""
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
        with suppress(OSError):
            os.unlink(temporary)
        raise
