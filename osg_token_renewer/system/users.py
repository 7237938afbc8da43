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


def give_to_owner_of(file: int, directory: str) -> None:
    """Gives a file that root made in the service's directory to the service, which must be able to use it
    later."""
    if os.geteuid() == 0:
        status = os.stat(directory)
        os.fchown(file, status.st_uid, status.st_gid)


def is_root_beside_service() -> bool:
    """Whether this is root although there is a service user, whose accounts and files are not root's."""
    try:
        return os.geteuid() == 0 != pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return False


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True)
class User:
    """Whom a subprocess runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@contextmanager
def act_as(user: Optional[User]) -> Iterator[None]:
    """What this process itself does to files is done with the rights of `user`, who could have put a link
    anywhere on their way.

    It can go back to its own, and so is to start no process meanwhile. None changes nothing."""
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
                raise Local(
                    f"this process cannot act as {user.name}: {error.strerror}",
                    f"run it as {user.name}, or as root",
                ) from error
        yield
    finally:
        with defer_signals():
            os.seteuid(uid)
            os.setegid(gid)
            os.setgroups(groups)
