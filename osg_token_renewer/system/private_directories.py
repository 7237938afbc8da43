"""Makes and removes the program's own directories: for its state, its lock, and the sockets of agents."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.system.locks import open_to_inherit, take_lock
from osg_token_renewer.system.paths import NAME, RUNTIME, runtime_directories

if TYPE_CHECKING:
    from osg_token_renewer.system.users import User

log = logging.getLogger(__name__)
_AGENT = "osg-agent-"
# sun_path of unix(7) has 108 bytes, and the socket's own part of the path needs some.
_LONGEST_FOR_SOCKETS = 80
# What a runtime directory must have room for, in bytes.
_ROOM = 64 * 1024
ELSEWHERE = "make room there, or name another directory as runtime_dir in [renewer]"

# Saves what an agent of a killed program left in its directory; returns whether that may be removed now.
Rescue = Callable[[str], bool]


def ensure_writable(path: str) -> str:
    """Makes a directory for this user alone unless it exists. Raises OSError if it cannot be written to."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return path


@contextmanager
def make_agent_directory(parent: str, owner: Optional[User] = None) -> Iterator[tuple[str, int]]:
    """A new directory that only this user (or `owner`) can enter, and a descriptor of it. Raises Local.

    As long as a process has the descriptor, `sweep_agent_directories` leaves the directory alone.
    """
    import shutil
    import tempfile

    try:
        path = tempfile.mkdtemp(prefix=_AGENT, dir=parent)
    except OSError as error:
        raise Local(f"no directory can be made in {parent}: {error.strerror}", ELSEWHERE) from error
    mark = open_to_inherit(path, os.O_DIRECTORY)
    try:
        take_lock(mark)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        yield path, mark
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(mark)


def sweep_agent_directories(parent: str, rescue: Rescue) -> None:
    """Removes the directories of agents that ended after their program was killed, once `rescue` agrees."""
    import shutil

    for path in _find_own(parent, _AGENT):
        try:
            mark = open_to_inherit(path, os.O_DIRECTORY)
        except OSError:
            continue
        try:
            if take_lock(mark) and rescue(path):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(mark)


def _find_own(parent: str, prefix: str) -> list[str]:
    """This user's private directories in `parent` whose names are as tempfile.mkdtemp makes them."""
    pattern = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    with os.scandir(parent) as entries:
        return [entry.path for entry in entries if pattern.fullmatch(entry.name) and _is_private(entry.path)]


@contextmanager
def open_runtime_directory(configured: Optional[str], rescue: Rescue) -> Iterator[tuple[str, bool]]:
    """A directory that only this user can enter, and whether other runs find the same one, for a lock.

    What agents of killed programs left there is removed, once `rescue` agrees. If none is usable, it is
    one in which agents fail to start; other sources still work.
    """
    candidates = runtime_directories(configured)
    usable = _find_usable(candidates)
    if usable is not None:
        sweep_agent_directories(usable, rescue)
        yield usable, True
        return
    temporary = _make_temporary(rescue)
    try:
        # The fallback must not be one that others can enter: they could take the place of an agent.
        yield temporary or next(filter(_is_private, candidates), RUNTIME), False
    finally:
        if temporary:
            _remove_temporary(temporary, rescue)


def _find_usable(candidates: Mapping[str, bool]) -> Optional[str]:
    """The first path that can be used; warns of the others that somebody named or that this user owns."""
    for path, named in candidates.items():
        if _is_usable(path):
            return path
        if named or _own_mode(path):
            needs = "it must be this user's own, mode 0700, with room, and a path of at most 80 bytes"
            log.warning("runtime_dir %s is passed over: %s", path, needs)
    return None


def _make_temporary(rescue: Rescue) -> Optional[str]:
    """A temporary runtime directory, in place of those that earlier runs left; None if none can be made."""
    import tempfile

    try:
        for left in _find_own(tempfile.gettempdir(), f"{NAME}-"):
            _remove_temporary(left, rescue)
        return tempfile.mkdtemp(prefix=f"{NAME}-")
    except OSError as error:
        log.warning("there can be no temporary runtime directory either: %s", error.strerror)
        return None


def _remove_temporary(path: str, rescue: Rescue) -> None:
    """Keeps the directory if an agent is still at work in it, or if something in it could not be saved."""
    import shutil

    sweep_agent_directories(path, rescue)
    if not _find_own(path, _AGENT):
        shutil.rmtree(path, ignore_errors=True)


def _own_mode(path: str) -> int:
    """The mode of what is at `path` if this user owns it, else 0."""
    with suppress(OSError):
        status = os.lstat(path)
        return status.st_mode if status.st_uid == os.geteuid() else 0
    return 0


def _is_private(path: str) -> bool:
    """Whether `path` is a directory of this user that nobody else can enter."""
    mode = _own_mode(path)
    return stat.S_ISDIR(mode) and not mode & 0o077


def _is_usable(path: str) -> bool:
    """Whether the directory, made if necessary, is private, has room, and is short enough for sockets."""
    if len(os.fsencode(path)) > _LONGEST_FOR_SOCKETS:
        return False
    try:
        ensure_writable(path)
        with make_agent_directory(path) as (probe, _), open(f"{probe}/room", "wb", buffering=0) as room:
            return room.write(os.urandom(_ROOM)) == _ROOM and _is_private(path)
    except (OSError, Local):
        return False
