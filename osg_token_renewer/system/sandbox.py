"""What the service's unit takes away (systemd.exec(5)), and the commands that give a part of it back."""

from __future__ import annotations

import os
import re
from typing import Optional

from osg_token_renewer.system.paths import DROP_INS

# The unit has temporary directories of its own, and hides others: ReadWritePaths= does not suffice there.
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_HIDDEN = ("/home", "/root", "/run/user")
# The unit's ReadOnlyPaths=, which win over the same directory in ReadWritePaths=.
_READ_ONLY = (*_TEMPORARY, "/run", "/run/lock", "/dev/shm", "/dev/mqueue")  # noqa: S108


def opening(directory: str) -> Optional[str]:
    """The command that lets the service write to `directory`; None if this process is not the service."""
    settings = []
    if _is_in(directory, _TEMPORARY):
        settings.append("PrivateTmp=no")
    elif _is_in(directory, _HIDDEN):
        settings.append("ProtectHome=read-only")
    if os.path.normpath(directory) in _READ_ONLY:
        settings.append("ReadOnlyPaths=")
    # Without the `-` the unit could not start when the directory does not exist.
    settings.append(f"ReadWritePaths={_quote(f'-{directory}')}")
    name = re.sub(r"[^A-Za-z0-9]+", "-", directory).strip("-") or "root"
    return _command(f"write-{name}.conf", *settings)


def foreign_groups() -> Optional[str]:
    """The command that lets the service give files to foreign groups; None as for `opening`."""
    return _command("groups.conf", "PrivateUsers=no")


def hides(directory: str) -> bool:
    """Whether the unit hides the directory, so that it seems not to exist."""
    return _is_service() and _is_in(directory, (*_HIDDEN, *_TEMPORARY))


def _is_service() -> bool:
    """Whether systemd started this very process, and not one of those that it descends from."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def _command(name: str, *settings: str) -> Optional[str]:
    """A shell command that writes a drop-in for the unit and has systemd read it."""
    if not _is_service():
        return None
    import shlex

    lines = " ".join(shlex.quote(line) for line in ("[Service]", *settings))
    return f"printf '%s\\n' {lines} | install -Dm 644 /dev/stdin {DROP_INS}/{name} && systemctl daemon-reload"


def _is_in(directory: str, places: tuple[str, ...]) -> bool:
    return any(f"{os.path.normpath(directory)}/".startswith(f"{place}/") for place in places)


def _quote(path: str) -> str:
    """A path as in a unit file (systemd.syntax(7)): percent signs are specifiers, backslashes escape."""
    path = path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return path if re.fullmatch(r"[^\s\"'\\]+", path) else f'"{path}"'
