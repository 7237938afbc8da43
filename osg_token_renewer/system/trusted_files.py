"""Whether a file can be believed: who can change it, or put another in its place.

Believed are root, the user who runs this program, and the service user; and the groups of their names, which
are theirs alone by convention. It is much as with sshd's StrictModes (sshd_config(5)), but that a directory
may belong to anybody, or to a group that can write to it: what they put there is theirs, and not believed.
Access control lists are not looked at beyond what they show in a mode."""

from __future__ import annotations

import errno
import grp
import os
import stat
from collections.abc import Iterator
from typing import Optional

from osg_token_renewer.system.users import SERVICE_USER, user_name

_NOT_A_FILE = "not a regular file"


def is_trusted_user(uid: int) -> bool:
    """Whether what this user owns is believed."""
    return uid in (0, os.geteuid()) or user_name(uid) == SERVICE_USER


def open_regular(path: str, flags: int) -> int:
    """For open(), which raises OSError then for what is not a file: a pipe might never begin, a device never
    end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    # Directories open() refuses by itself.
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or _is_null(status)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _NOT_A_FILE)
    return descriptor


def find_flaws(path: str, also: Optional[int] = None, descriptor: Optional[int] = None) -> Iterator[str]:
    """Why the file at `path`, which `descriptor` may be of, cannot be believed, each with the command that
    mends it.

    `also` is one more user to believe. Raises OSError when it cannot be looked at."""
    status = os.stat(path) if descriptor is None else os.fstat(descriptor)
    if _is_null(status):
        # It holds what it holds, whoever may write to it.
        return
    if not stat.S_ISREG(status.st_mode):
        yield f"it is {_NOT_A_FILE}"
    if not is_trusted_user(status.st_uid) and status.st_uid != also:
        yield f"it belongs to {user_name(status.st_uid)}, neither to root nor to the service user: chown {SERVICE_USER} {path}"
    if status.st_mode & stat.S_IWOTH:
        yield f"others can write it: chmod o-w {path}"
    elif status.st_mode & stat.S_IWGRP and not _group(status.st_gid):
        yield f"the group {_group_name(status.st_gid)} can write it: chmod g-w {path}"
    for directory in list_parents(path):
        # A volume that an orchestrator mounts is often for everyone to write, and read-only.
        if is_open_to_all(os.stat(directory)) and not os.statvfs(directory).f_flag & os.ST_RDONLY:
            yield f"others can write to {directory}, where it is: chmod o-w {directory}"


def _is_null(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def is_open_to_all(directory: os.stat_result) -> bool:
    """Whether others can put something else in the place of what belongs to us in this directory.

    A group that can is no flaw: to share the directory is what it was named for.
    """
    return bool(directory.st_mode & stat.S_IWOTH) and not directory.st_mode & stat.S_ISVTX


def list_parents(path: str) -> list[str]:
    """The directories from the root to a file, as its path is written and as it is once symbolic links are
    followed."""
    found = set()
    for here in (os.path.abspath(path), os.path.realpath(path)):
        while (here := os.path.dirname(here)) not in found:
            found.add(here)
    return sorted(found)


def _group(gid: int) -> bool:
    """Whether it is a group of those who are believed: named as they are, for a primary group may be
    everybody's."""
    return gid == 0 or _group_name(gid) in (SERVICE_USER, user_name(os.geteuid()))


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
