"""Files that hold a secret: how they are read, and who may read them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.options import CREDENTIAL, SecretFile
from osg_token_renewer.system import trusted_files

_LONGEST_LINE = 64 * 1024


def find_path(file: SecretFile) -> str:
    """The file's path; raises Local if it is a credential and systemd handed none over."""
    if not file.is_credential:
        return file.text
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    name = file.text[len(CREDENTIAL) :]
    if not directory:
        why = f"the credential {name} is only there under systemd: $CREDENTIALS_DIRECTORY is not set"
        raise Local(why, f"add LoadCredential={name}:PATH to the service, and start it with systemctl")
    return os.path.join(directory, name)


def read_secret(file: SecretFile, what: str) -> str:
    """The secret, which is the first line. Raises Local, which says `what` the secret is."""
    return read_line(file, what).decode("utf-8", "surrogateescape").rstrip("\r\n")


def read_line(file: SecretFile, what: str) -> bytes:
    """The first line with its end, for programs that parse it themselves. Raises Local as `read_secret`."""
    path = find_path(file)
    try:
        with open(path, "rb", opener=trusted_files.open_regular) as opened:
            line = opened.readline(_LONGEST_LINE)
    except OSError as error:
        why = f"the {what} file {path} cannot be read: {error.strerror}"
        raise Local(why, _remedy(path, error)) from error
    if not line.strip(b"\r\n"):
        raise Local(f"the {what} file {path} is empty")
    return line


def find_flaws(file: SecretFile) -> Iterator[str]:
    """Why the file cannot be trusted, each with the remedy. Raises OSError or Local if that is unknown."""
    # systemd guards credentials.
    if not file.is_credential:
        yield from trusted_files.find_flaws(find_path(file))


def others_can_read(path: str) -> bool:
    """Whether everybody on this host can read the file; raises OSError."""
    mode = os.stat(path).st_mode
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _remedy(path: str, error: OSError) -> Optional[str]:
    if isinstance(error, PermissionError):
        return f"let the user of the service read it: chown osg-token-svc {path}"
    if isinstance(error, FileNotFoundError):
        return "create it, readable by the user of the service alone"
    return "name a regular file" if error.errno in (errno.EINVAL, errno.EISDIR) else None
