"""The users of this host: the service user, and acting as another user."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.system.signals import defer_signals

SERVICE_USER = "osg-token-svc"


def give_to_owner_of(descriptor: int, directory: str) -> None:
    """If this is root, gives a file to the owner of `directory`: the service must be able to use it."""
    if os.geteuid() == 0:
        status = os.stat(directory)
        os.fchown(descriptor, status.st_uid, status.st_gid)


def is_root_beside_service() -> bool:
    """Whether this is root, and the service has a user of its own."""
    try:
        return os.geteuid() == 0 != pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return False


def user_name(uid: int) -> str:
    """The user's name, else the number as text."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True)
class User:
    """A user that a subprocess runs as; `gid` is the primary group, `groups` are all others."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@contextmanager
def act_as(user: Optional[User]) -> Iterator[None]:
    """This process uses files with the rights of `user`, who may have put links anywhere; None: its own.

    The process can switch back, so it must start no subprocess here. Raises Local if it may not switch.
    """
    if user is None:
        yield
        return
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    try:
        with defer_signals():
            try:
                os.setgroups(user.groups)
                os.setegid(user.gid)
                os.seteuid(user.uid)
            except OSError as error:
                why = f"this process cannot act as {user.name}: {error.strerror}"
                raise Local(why, f"run it as {user.name}, or as root") from error
        yield
    finally:
        with defer_signals():
            os.seteuid(uid)
            os.setegid(gid)
            os.setgroups(groups)
