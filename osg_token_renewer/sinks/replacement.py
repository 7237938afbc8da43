"""Atomic replacement of a file: a reader sees the old content or the new, never a part of it.

The new content goes to a temporary file in the same directory, which then takes the file's name. Paths are
relative to the opened directory, and a symbolic link as the last part of a path is never followed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.system import locks, sandbox

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
# A file name has at most 255 bytes; this leaves room for what a temporary file's name adds.
_LONGEST_STEM = 200


@contextmanager
def open_directory(directory: str) -> Iterator[int]:
    """Yields a descriptor of the directory; raises Local if it cannot be used."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _explain_unusable(directory, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def replace_file(path: str, directory: int, content: bytes, prepare: Callable[[int], None]) -> None:
    """Replaces `path`, whose opened directory is `directory`, by a file with this content.

    `prepare` gets the new file's descriptor, and sets owner, group and mode before there is any content.
    Raises Local; the old file is then untouched, and no temporary file stays.
    """
    where, name = os.path.split(path)
    with _make_temporary(directory, where, name) as (temporary, file):
        try:
            prepare(file)
            while content:
                content = content[os.write(file, content) :]
            os.fsync(file)
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            what = f"{path} cannot be written: {error.strerror}"
            raise Local(what, _find_remedy(where, error.errno)) from error
    sync_directory(directory)


def sync_directory(directory: int) -> None:
    """Makes a new or removed name survive a power cut, if the file system can do that."""
    with suppress(OSError):
        os.fsync(directory)


def check_writable(directory: str) -> None:
    """Raises Local if no file can be created in the directory."""
    if not os.access(directory, os.W_OK | os.X_OK):
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
        raise _explain_unwritable(directory, errno.EROFS if read_only else errno.EACCES)


def remove_abandoned(paths: Iterable[str]) -> None:
    """Removes this user's temporary files for these paths, unless a running program still has them."""
    stems: dict[str, set[str]] = {}
    for path in paths:
        directory, name = os.path.split(path)
        stems.setdefault(directory, set()).add(_stem(name))
    for directory, ours in stems.items():
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in list(entries):
                found = _TEMPORARY.fullmatch(entry.name)
                if found and found[1] in ours and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    _remove_unlocked(entry.path)


@contextmanager
def _make_temporary(directory: int, where: str, name: str) -> Iterator[tuple[str, int]]:
    """Yields the name and descriptor of a new locked file, which is removed unless it got another name."""
    import secrets

    temporary = f".{_stem(name)}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(temporary, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise _explain_unwritable(where, error.errno) from error
    try:
        # Tells other runs that the file is not abandoned.
        locks.take_lock(file)
        yield temporary, file
    except BaseException:
        # Works even if the file can no longer be removed.
        with suppress(OSError):
            os.ftruncate(file, 0)
        raise
    finally:
        os.close(file)
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)


def _remove_unlocked(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if locks.take_lock(file):
            os.unlink(path)
    finally:
        os.close(file)


def _stem(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])


def _explain_unusable(directory: str, error: OSError) -> Local:
    if sandbox.hides(directory):
        what = f"the service's unit hides the directory {directory}, or it cannot be used: {error.strerror}"
        return Local(what, f"let the service see it: {sandbox.opening(directory)}")
    if isinstance(error, FileNotFoundError):
        return Local(f"there is no directory {directory}", f"create it: install -d -m 0770 {directory}")
    what = f"the directory {directory} cannot be used: {error.strerror}"
    commands = f"chgrp osg-token-svc {directory}; chmod 0770 {directory}"
    return Local(what, f"let the user of the service enter and write it: {commands}")


def _explain_unwritable(directory: str, number: Optional[int]) -> Local:
    what = f"no file can be made in {directory}: {os.strerror(number or errno.EACCES)}"
    return Local(what, _find_remedy(directory, number))


def _find_remedy(directory: str, number: Optional[int]) -> Optional[str]:
    """What makes the directory writable, if the error number tells."""
    if number == errno.EROFS and (opening := sandbox.opening(directory)):
        return f"if the service's unit forbids it: {opening}"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"let this user write to {directory}"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"make room there: df {directory}; df -i {directory}"
    return None
