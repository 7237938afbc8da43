"""oidc-agent's encrypted file of one account: where it is, how it is locked, read and written.

It is the only place of the account's refresh token. Whoever is about to use that token holds the file's lock.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import Local, Refused, Unavailable
from osg_token_renewer.sources.base import Begin, at_any_time
from osg_token_renewer.system import locks
from osg_token_renewer.system.users import User

log = logging.getLogger(__name__)

# How a complete file of oidc-agent 4.2.6 to 5.3 begins and ends.
_FIRST_LINE = re.compile(rb"\A\d+\n")
_LAST_LINE = re.compile(rb"\nGenerated using version: \d+\.\d+\.\d+\S*\s*\Z")
# `overwrite` puts this in the place of the first byte until the rest is written.
_UNFINISHED = b"\0"
_LARGEST = 1024 * 1024


def find_path(account: str, user: Optional[User] = None) -> str:
    """Where oidc-agent keeps an account of this user, or of `user`: in $OIDC_CONFIG_DIR, else in
    ~/.config/oidc-agent if that exists, else in ~/.oidc-agent (oidc-agent(1), FILES)."""
    if given := os.environ.get("OIDC_CONFIG_DIR"):
        return os.path.join(os.path.abspath(given), account)
    home = user.home if user else os.path.expanduser("~")
    modern = os.path.join(home, ".config", "oidc-agent")
    return os.path.join(modern if os.path.isdir(modern) else os.path.join(home, ".oidc-agent"), account)


def fingerprint(account: str) -> Optional[str]:
    """A digest of the account's file, which changes with its refresh token; None if there is no file."""
    with suppress(OSError):
        return digest(read(find_path(account))).decode("ascii")
    return None


@contextmanager
def lock_account(path: str, account: str, wait: float, begin: Begin = at_any_time) -> Iterator[int]:
    """Locks the account file; yields its descriptor. The lock is released when every process that inherited
    this has ended: the agent of a killed program keeps it for as long as its last request takes.

    Raises Refused if there is no such file, Unavailable if somebody else still holds the lock after `wait`
    seconds, Local, and what `begin` raises.
    """
    try:
        lock = locks.open_to_inherit(path)
    except FileNotFoundError:
        raise no_account(account) from None
    except OSError as error:
        what = f"the account file {path} cannot be read: {error.strerror}"
        raise Local(what, "it must be the service user's own") from error
    try:
        deadline = time.monotonic() + wait
        if not locks.take_lock(lock):
            log.info("account %s: waiting for the run or the login that has it to finish", account)
        while not locks.take_lock(lock):
            if time.monotonic() > deadline:
                what = f"account {account} is in use by another run or login, still after {wait:.0f} s"
                raise Unavailable(what, f"wait for it to end, or see who has it: fuser -v {path}")
            time.sleep(0.05)
            with begin(0.0):
                pass
        yield lock
    finally:
        os.close(lock)


def no_account(account: str) -> Refused:
    return Refused(f"oidc-agent has no account {account}", f"run: osg-token-renewer-setup {account}")


def digest(content: bytes) -> bytes:
    """64 hexadecimal digits (SHA-256)."""
    return hashlib.sha256(content).hexdigest().encode("ascii")


def is_complete(content: bytes) -> bool:
    """Whether it has the form of a whole account file; a later version of oidc-agent may have another one."""
    return _LAST_LINE.search(content) is not None and not content.startswith(_UNFINISHED)


def is_damaged(content: bytes) -> bool:
    """Whether it is only a part of an account file, or nothing. A file of an unknown form is not damaged."""
    written = content.strip(b"\0 \n")
    return (
        content.startswith(_UNFINISHED)
        or not written
        or written.isdigit()
        or (_FIRST_LINE.match(content) is not None and not is_complete(content))
    )


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_LARGEST)


def write(path: str, content: bytes) -> None:
    """Writes a file for this user alone; does not follow a symbolic link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def overwrite(path: str, content: bytes) -> None:
    """Replaces what is in a file, without truncating it first: on a full disk only the blocks that it already
    has are certain. If this is interrupted, the file is one that `is_damaged`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Each piece is on the disk before the next one.
        for place, piece in ((0, _UNFINISHED), (1, content[1:]), (0, content[:1])):
            if os.pwrite(descriptor, piece, place) != len(piece):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if place == 1:
                os.ftruncate(descriptor, len(content))
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_reserve(path: str, size: int) -> None:
    """Takes `size` bytes of the file system, for what will be written later; raises OSError."""
    # A new file: a killed program may have given the old one a second name, that of an account.
    with suppress(FileNotFoundError):
        os.unlink(path)
    # Random bytes, which no file system compresses.
    write(path, os.urandom(size))
