"""Where the program keeps what is its own: state (history) and runtime (lock, agent sockets)."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.system.locks import open_to_inherit, take_lock
from osg_token_renewer.system.paths import NAME, RUNTIME, first_of_list

if TYPE_CHECKING:
    from osg_token_renewer.system.users import User

log = logging.getLogger(__name__)
# What the names of agents' directories begin with.
_AGENT = "osg-agent-"
# sun_path of unix(7) has 108 bytes, and the socket's own part of the path needs some.
_LONGEST_FOR_SOCKETS = 80
# What a directory for agents must have room for, in bytes, to be used.
_ROOM = 64 * 1024
_ELSEWHERE = "make room there, or name another directory as runtime_dir in [renewer]"


def make_private(path: str) -> str:
    """Makes a private directory if it is not there; raises OSError when it cannot be used for writing."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, os.strerror(13), path)
    return path


@contextmanager
def make_agent_directory(parent: str, owner: Optional[User] = None) -> Iterator[tuple[str, int]]:
    """A new directory for an agent, which only this user (or `owner`) can enter, removed afterwards; and a
    descriptor of it.

    While a process has the descriptor, `sweep` leaves the directory alone. Raises Local."""
    import shutil
    import tempfile

    try:
        path = tempfile.mkdtemp(prefix=_AGENT, dir=parent)
    except OSError as error:
        raise Local(f"no directory can be made in {parent}: {error.strerror}", _ELSEWHERE) from error
    mark = open_to_inherit(path, os.O_DIRECTORY)
    try:
        take_lock(mark)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        yield path, mark
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(mark)


def sweep_agent_directories(parent: str, rescue: Callable[[str], bool]) -> None:
    """Removes the directories of agents whose programs were killed, and that have ended, once `rescue` has
    saved what is in them."""
    import shutil

    for path in _find_left(parent, _AGENT):
        try:
            mark = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if take_lock(mark) and rescue(path):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(mark)


def _find_left(parent: str, prefix: str) -> list[str]:
    """This user's own directories there that have names as tempfile.mkdtemp makes them."""
    pattern = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    with os.scandir(parent) as entries:
        left = [
            entry
            for entry in entries
            if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    found = [(entry.path, entry.stat(follow_symlinks=False)) for entry in left]
    return [
        path
        for path, status in found
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700
    ]


@contextmanager
def find_runtime_directory(
    configured: Optional[str], rescue: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, bool]]:
    """A directory that only this user can enter, and whether other runs find the same one (a lock is of use
    only there).

    What agents of killed programs left in it is removed; `rescue` is called with each of their directories
    before, and says whether it may be. Where none is of use, it is one in which no agent can be started: only
    sources that have agents need one."""
    user_runtime = os.environ.get("XDG_RUNTIME_DIR")
    named = (configured, first_of_list(os.environ.get("RUNTIME_DIRECTORY")))
    usual = (RUNTIME, os.path.join(user_runtime, NAME) if user_runtime else None)
    # The service's own is that of a person's run as well.
    wanted = [path for path in dict.fromkeys((*named, *usual)) if path]
    for path in wanted:
        if _is_usable(path):
            sweep_agent_directories(path, rescue)
            yield path, True
            return
        if path in named or _own_mode(path):
            log.warning(
                "runtime_dir %s is passed over: it must be this user's own, mode 0700, with room, and a path of at most 80 bytes",
                path,
            )
    import tempfile

    try:
        for left in _find_left(tempfile.gettempdir(), f"{NAME}-"):
            _remove_unused(left, rescue)
        temporary = tempfile.mkdtemp(prefix=f"{NAME}-")
    except OSError as error:
        log.warning("there can be no temporary runtime directory either: %s", error.strerror)
        # What fails there says why. Not one that others can enter: they could put themselves in an agent's
        # place.
        yield next(filter(_is_closed, wanted), RUNTIME), False
        return
    try:
        yield temporary, False
    finally:
        _remove_unused(temporary, rescue)


def _remove_unused(path: str, rescue: Callable[[str], bool]) -> None:
    """Removes a temporary runtime directory, unless an agent is still at work in it, or something could not
    be saved."""
    import shutil

    sweep_agent_directories(path, rescue)
    if not _find_left(path, _AGENT):
        shutil.rmtree(path, ignore_errors=True)


def _own_mode(path: str) -> int:
    """The mode of what is there if it is this user's, else 0: another user's is not expected to be of use."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    return status.st_mode if status.st_uid == os.geteuid() else 0


def _is_closed(path: str) -> bool:
    """Whether the directory is there, this user's, and closed to others."""
    mode = _own_mode(path)
    return stat.S_ISDIR(mode) and not mode & 0o077


def _is_usable(path: str) -> bool:
    """Whether the directory is there (made if need be), ours, closed to others, short enough for sockets, and
    has room for one."""
    if len(os.fsencode(path)) > _LONGEST_FOR_SOCKETS:
        return False
    try:
        make_private(path)
        with (
            make_agent_directory(path) as (probe, _mark),
            open(os.path.join(probe, "room"), "wb", buffering=0) as room,
        ):
            if room.write(os.urandom(_ROOM)) < _ROOM:
                return False
    except (OSError, Local):
        return False
    return _is_closed(path)
