"""Whether a file can be trusted: who can change it, or put another in its place.

Trusted are root, the user who runs this program, the service user, and the groups named as they are. The
rules are those of sshd's StrictModes (sshd_config(5)), except for directories: any owner and any writing
group are allowed. Files that they put there are theirs, and so are not trusted. Access control lists count
only as far as a mode shows them.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
from collections.abc import Iterator
from typing import Optional

from osg_token_renewer.system.users import SERVICE_USER, user_name


def is_trusted_user(uid: int) -> bool:
    """Whether a file that this user owns is trusted."""
    return uid in (0, os.geteuid()) or user_name(uid) == SERVICE_USER


def open_regular(path: str, flags: int) -> int:
    """An opener for open(). Raises OSError for a pipe or a device (not /dev/null): a read may never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    # open() itself raises for a directory.
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or _is_null(status)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def find_flaws(path: str, also: Optional[int] = None, descriptor: Optional[int] = None) -> Iterator[str]:
    """Why the file at `path` cannot be trusted, each with the command that fixes it.

    `also` is one more trusted user. With `descriptor`, that open file is judged. Raises OSError if the file
    cannot be looked at.
    """
    status = os.stat(path) if descriptor is None else os.fstat(descriptor)
    if _is_null(status):
        return
    if not stat.S_ISREG(status.st_mode):
        yield "it is not a regular file"
    if not is_trusted_user(status.st_uid) and status.st_uid != also:
        owner = user_name(status.st_uid)
        yield f"it belongs to {owner}, neither to root nor to the service user: chown {SERVICE_USER} {path}"
    # Groups are trusted only by name: a user's primary group may be everybody's.
    group, trusted = _group_name(status.st_gid), (SERVICE_USER, user_name(os.geteuid()))
    if status.st_mode & stat.S_IWOTH:
        yield f"others can write it: chmod o-w {path}"
    elif status.st_mode & stat.S_IWGRP and status.st_gid and group not in trusted:
        yield f"the group {group} can write it: chmod g-w {path}"
    for directory in _list_parents(path):
        # An orchestrator often mounts volumes read-only that everybody may write to.
        if is_open_to_all(os.stat(directory)) and not os.statvfs(directory).f_flag & os.ST_RDONLY:
            yield f"others can write to {directory}, where it is: chmod o-w {directory}"


def _is_null(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def is_open_to_all(directory: os.stat_result) -> bool:
    """Whether everybody can replace files in this directory. A group that can shares it on purpose."""
    return bool(directory.st_mode & stat.S_IWOTH) and not directory.st_mode & stat.S_ISVTX


def _list_parents(path: str) -> list[str]:
    """The directories from the root to a file: on its path as written, and with symbolic links followed."""
    found = set()
    for here in (os.path.abspath(path), os.path.realpath(path)):
        while (here := os.path.dirname(here)) not in found:
            found.add(here)
    return sorted(found)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
