"""What setting up an account leaves on this host: files for passwords and secrets, and a section of the
configuration."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from typing import Optional

from osg_token_renewer import config
from osg_token_renewer.config import ini
from osg_token_renewer.errors import Local
from osg_token_renewer.system import users
from osg_token_renewer.system.users import User


def write_private(path: str, content: str, user: Optional[User]) -> None:
    """A new file for the service user alone; raises Local, also when there is one already."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            if user is not None:
                os.fchown(file.fileno(), user.uid, user.gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        directory = os.path.dirname(path)
        hint = (
            None
            if os.path.isdir(directory)
            else f"create the directory: install -d -m 0770 -g {users.SERVICE_USER} {directory}"
        )
        raise Local(f"{path} cannot be written: {error.strerror}", hint) from error


def place_of_section(account: str, main: Optional[str]) -> Optional[str]:
    """Where the configuration has the account's section, None if nowhere."""
    sections, _problems = ini.read([file for file in config.files(main) if os.path.exists(file)])
    return next(
        (str(section.place) for section in sections if section.name.split() == ["account", account]), None
    )


def write_section(account: str, text: str, main: str, service_user: str) -> str:
    """Adds a section to `config.d` beside the main file, as a new file whose path it returns.

    Raises Local, with the text to add by hand.
    """
    directory = os.path.join(os.path.dirname(main), "config.d")
    path = os.path.join(directory, f"{account}.ini")
    try:
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o750)
            _like_configuration(directory, service_user)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640), "w") as file:
            file.write(text)
        _like_configuration(path, service_user)
    except OSError as error:
        raise Local(f"{path} cannot be written: {error.strerror}", f"add this by hand:\n\n{text}") from error
    return path


def _like_configuration(path: str, service_user: str) -> None:
    """Readable by the service: root:GROUP, where root writes it."""
    mode = 0o750 if stat.S_ISDIR(os.stat(path).st_mode) else 0o640
    if os.geteuid() == 0:
        group = pwd.getpwnam(service_user).pw_gid
        with suppress(KeyError):
            group = grp.getgrnam(service_user).gr_gid
        os.chown(path, 0, group)
    os.chmod(path, mode)
