"""What the service's unit takes away from it (systemd.exec(5)), and how a site gives a part of it back."""

from __future__ import annotations

import os
import re
from typing import Optional

DROP_INS = "/etc/systemd/system/osg-token-renewer.service.d"
# The unit's own directories for temporary files, and those that it hides: a path in one of them needs more
# than ReadWritePaths=.
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_HIDDEN = ("/home", "/root", "/run/user")
# What the unit's ReadOnlyPaths= has wins over the same directory in ReadWritePaths=.
_READ_ONLY = ("/tmp", "/var/tmp", "/run", "/run/lock", "/dev/shm", "/dev/mqueue")  # noqa: S108


def opening(directory: str) -> Optional[str]:
    """The command that lets the service write to a directory outside of its own; None when this is not the
    service."""
    before = (
        ["PrivateTmp=no"]
        if _in(directory, _TEMPORARY)
        else ["ProtectHome=read-only"]
        if _in(directory, _HIDDEN)
        else []
    )
    if os.path.normpath(directory) in _READ_ONLY:
        before.append("ReadOnlyPaths=")
    # With a `-`: else the unit could not be started on the day when the directory is not there.
    writable = _quoted(f"-{directory}")
    name = re.sub(r"[^A-Za-z0-9]+", "-", directory).strip("-") or "root"
    return _command(f"write-{name}.conf", *before, f"ReadWritePaths={writable}")


def foreign_groups() -> Optional[str]:
    """The command that lets the service give files to other groups than its own; None when this is not the
    service."""
    return _command("groups.conf", "PrivateUsers=no")


def hides(directory: str) -> bool:
    """Whether the unit hides the directory, so that it looks as if it were not there."""
    return _is_service() and _in(directory, (*_HIDDEN, *_TEMPORARY))


def _is_service() -> bool:
    """Whether systemd started this very process, and not one of those that it descends from."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def _command(name: str, *settings: str) -> Optional[str]:
    """To be pasted as it is: writes a drop-in for the unit and makes it known."""
    if not _is_service():
        return None
    import shlex

    lines = " ".join(shlex.quote(line) for line in ("[Service]", *settings))
    return f"printf '%s\\n' {lines} | install -Dm 644 /dev/stdin {DROP_INS}/{name} && systemctl daemon-reload"


def _in(directory: str, places: tuple[str, ...]) -> bool:
    return any(f"{os.path.normpath(directory)}/".startswith(f"{place}/") for place in places)


def _quoted(path: str) -> str:
    """A path as a unit file writes it: percent signs are specifiers, blanks separate, backslashes escape
    (systemd.syntax(7))."""
    path = path.replace("%", "%%")
    if re.fullmatch(r"[^\s\"'\\]+", path):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
