"""What the service's unit takes away from it (systemd.exec(5)), and how a site gives a part of it back."""

from __future__ import annotations

import os
import re
import shlex
from typing import Optional

DROP_INS = "/etc/systemd/system/osg-token-renewer.service.d"
# The unit's own directories for temporary files, and those that it hides: a path in one of them needs more than ReadWritePaths=.
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_HIDDEN = ("/home", "/root", "/run/user")


def opening(directory: str) -> Optional[str]:
    """The command that lets the service write to a directory outside of its own; None when this is not run by systemd."""
    before = ["PrivateTmp=no"] if _in(directory, _TEMPORARY) else ["ProtectHome=read-only"] if _in(directory, _HIDDEN) else []
    name = re.sub(r"[^A-Za-z0-9]+", "-", directory).strip("-") or "root"
    return _command(f"write-{name}.conf", *before, f"ReadWritePaths={_quoted(directory)}")


def foreign_groups() -> Optional[str]:
    """The command that lets the service give files to other groups than its own; None when this is not run by systemd."""
    return _command("groups.conf", "PrivateUsers=no")


def hides(directory: str) -> bool:
    """Whether the unit hides the directory, so that it looks as if it were not there."""
    return _under_systemd() and _in(directory, _HIDDEN)


def _under_systemd() -> bool:
    return "INVOCATION_ID" in os.environ


def _command(name: str, *settings: str) -> Optional[str]:
    """To be pasted as it is: writes a drop-in for the unit and makes it known."""
    if not _under_systemd():
        return None
    lines = " ".join(shlex.quote(line) for line in ("[Service]", *settings))
    return f"printf '%s\\n' {lines} | install -Dm 644 /dev/stdin {DROP_INS}/{name} && systemctl daemon-reload"


def _in(directory: str, places: tuple[str, ...]) -> bool:
    return any(f"{os.path.normpath(directory)}/".startswith(f"{place}/") for place in places)


def _quoted(path: str) -> str:
    """A path as a unit file writes it: percent signs are specifiers, blanks separate, backslashes escape (systemd.syntax(7))."""
    path = path.replace("%", "%%")
    if re.fullmatch(r"[^\s\"'\\]+", path):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
