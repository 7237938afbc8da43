"""What tells one state of a file from another without reading it: what stat(2) says. Taken before the file is read, so that whatever
happens to it meanwhile makes it another one."""

from __future__ import annotations

import os
from collections.abc import Sequence

# In a form that JSON keeps.
Identity = Sequence[int]


def of(status: os.stat_result) -> Identity:
    """Another one for each content and each set of permissions that a file has; the time of its last change (st_ctime_ns) is the last."""
    who = (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid)
    return [*who, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def at(path: str, follow: bool = True) -> Identity:
    """That of what is there, or only the error where nothing can be looked at."""
    try:
        return of(os.stat(path, follow_symlinks=follow))
    except OSError as error:
        return [error.errno or 0]


def permissions_at(path: str) -> Identity:
    """What kind of file there is, and who may do what with it, whatever is in it, and whichever it is."""
    seen = at(path)
    return seen[2:5] or seen


def changed_at(seen: Identity) -> float:
    """When a file was changed last, in seconds since 1970, by the clock of its file system."""
    return seen[-1] / 1e9
