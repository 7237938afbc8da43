"""Where the program keeps what is its own: state (history) and runtime (lock, agent sockets)."""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

log = logging.getLogger(__name__)

SERVICE_USER = "osg-token-svc"
STATE = "/var/lib/osg-token-renewer"
RUNTIME = "/run/osg-token-renewer"
_NAME = "osg-token-renewer"
# sun_path of unix(7) has 108 bytes, and the socket's own part of the path needs some.
_LONGEST_FOR_SOCKETS = 80


def state(configured: Optional[str]) -> str:
    """The state directory's path; it need not exist yet."""
    return configured or _first_of_list(os.environ.get("STATE_DIRECTORY")) or _default_state()


def made(path: str) -> str:
    """Makes a private directory if it is not there; raises OSError when it cannot be used for writing."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, os.strerror(13), path)
    return path


def owned_as_directory(file: int, directory: str) -> None:
    """Gives a file that root made in the service's directory to the service, which must be able to use it later."""
    if os.geteuid() == 0:
        status = os.stat(directory)
        os.fchown(file, status.st_uid, status.st_gid)


def running_as_root_beside_the_service() -> bool:
    """Whether this is root although there is a service user, whose accounts and files are not root's."""
    try:
        return os.geteuid() == 0 != pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return False


@contextmanager
def runtime(configured: Optional[str]) -> Iterator[tuple[str, bool]]:
    """A directory that only this user can enter, and whether other runs find the same one (a lock is of use only there)."""
    user_runtime = os.environ.get("XDG_RUNTIME_DIR")
    wanted = (
        configured,
        _first_of_list(os.environ.get("RUNTIME_DIRECTORY")),
        RUNTIME,
        os.path.join(user_runtime, _NAME) if user_runtime else None,
    )
    for path in wanted:
        if path and _private(path):
            yield path, True
            return
        if path and path == configured:
            log.warning("runtime_dir %s is passed over: it must be this user's own, mode 0700, with a path of at most 80 bytes", path)
    import shutil
    import tempfile

    temporary = tempfile.mkdtemp(prefix=f"{_NAME}-")
    try:
        yield temporary, False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _private(path: str) -> bool:
    """Whether the directory is there (made if need be), ours, closed to others, and short enough for sockets."""
    if len(os.fsencode(path)) > _LONGEST_FOR_SOCKETS:
        return False
    try:
        made(path)
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _default_state() -> str:
    if os.geteuid() == 0 or pwd_name(os.geteuid()) == SERVICE_USER:
        return STATE
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, _NAME)


def pwd_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _first_of_list(value: Optional[str]) -> Optional[str]:
    """systemd separates several directories by colons (systemd.exec(5))."""
    return value.split(":")[0] if value else None
