"""What a setup needs and leaves on this host: password and secret files, and a configuration section."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Optional

from osg_token_renewer import config
from osg_token_renewer.config import ini
from osg_token_renewer.errors import ConfigError, Local
from osg_token_renewer.model import Place, Problem, Secret
from osg_token_renewer.options import SecretFile
from osg_token_renewer.system import process, trusted_files, users
from osg_token_renewer.system.secret_files import read_secret
from osg_token_renewer.system.users import User
from osg_token_renewer.text import escaped

log = logging.getLogger(__name__)


def refuse_unsafe(paths: Sequence[Optional[str]], user: Optional[User]) -> None:
    """Raises ConfigError for a password or secret file that the programs would refuse later. One that does
    not exist, or cannot be looked at, is reported when it is read."""
    problems: list[Problem] = []
    for path in filter(None, paths):
        with suppress(OSError):
            flaws = trusted_files.find_flaws(path, user.uid if user else None)
            problems += [Problem(Place(path), flaw) for flaw in flaws]
    if problems:
        raise ConfigError(problems)


@contextmanager
def read_password(path: str, create: bool, user: Optional[User]) -> Iterator[Secret]:
    """The encryption password of an account. With `create`, a file that does not exist is created; it is
    removed again if the account cannot be made. Raises Local."""
    created = create and not os.path.exists(path)
    if created:
        write_private(path, secrets.token_urlsafe(32) + "\n", user)
        print(f"Wrote a random password to {escaped(path)}")
    try:
        yield Secret(read_secret(SecretFile(path), "password"))
    except BaseException:
        if created:
            with suppress(OSError):
                os.unlink(path)
        raise


def keep_secret(path: str, secret: Secret, user: Optional[User]) -> None:
    """Writes a client's secret to a file, unless an earlier try has done that; raises Local."""
    if os.path.exists(path) and read_secret(SecretFile(path), "client secret") == secret.reveal():
        return
    write_private(path, secret.reveal() + "\n", user)
    print(f"Wrote the client secret to {escaped(path)}")


def warn_unless_readable(path: str, user: Optional[User]) -> None:
    """The service must read the file later, as its own user."""
    if user is None:
        return
    argv = [process.find("test", "coreutils"), "-r", path]
    if process.run(argv, process.environment(), 10, user=user).status != 0:
        log.warning("the service user %s cannot read %s: chown %s %s", user.name, path, user.name, path)


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
        create = f"create the directory: install -d -m 0770 -g {users.SERVICE_USER} {directory}"
        hint = None if os.path.isdir(directory) else create
        raise Local(f"{path} cannot be written: {error.strerror}", hint) from error


def place_of_section(account: str, main: Optional[str]) -> Optional[str]:
    """Where the configuration has the account's section, None if nowhere."""
    sections, _problems = ini.read([file for file in config.files(main) if os.path.exists(file)])
    places = (str(section.place) for section in sections if section.name.split() == ["account", account])
    return next(places, None)


def write_section(account: str, text: str, main: str, service_user: str) -> str:
    """Adds a section to `config.d` beside the main file, as a new file whose path it returns. Raises Local,
    with the text to add by hand."""
    directory = os.path.join(os.path.dirname(main), "config.d")
    path = os.path.join(directory, f"{account}.ini")
    try:
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o750)
            _share_with_service(directory, 0o750, service_user)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640), "w") as file:
            file.write(text)
        _share_with_service(path, 0o640, service_user)
    except OSError as error:
        raise Local(f"{path} cannot be written: {error.strerror}", f"add this by hand:\n\n{text}") from error
    return path


def _share_with_service(path: str, mode: int, service_user: str) -> None:
    """Lets the service read it: sets the mode, and, if root writes it, the owner root:GROUP."""
    if os.geteuid() == 0:
        group = pwd.getpwnam(service_user).pw_gid
        with suppress(KeyError):
            group = grp.getgrnam(service_user).gr_gid
        os.chown(path, 0, group)
    os.chmod(path, mode)
