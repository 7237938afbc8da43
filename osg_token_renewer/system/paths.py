"""Where the program keeps its own files."""

from __future__ import annotations

import os
from typing import Optional

from osg_token_renewer.system.users import SERVICE_USER, user_name

NAME = "osg-token-renewer"
STATE = f"/var/lib/{NAME}"
RUNTIME = f"/run/{NAME}"
# Where an administrator's changes to the service's unit are (systemd.unit(5)).
DROP_INS = f"/etc/systemd/system/{NAME}.service.d"


def state_directory(configured: Optional[str]) -> str:
    """The path of the state directory, which need not exist yet."""
    if given := configured or _from_systemd("STATE_DIRECTORY"):
        return given
    if os.geteuid() == 0 or user_name(os.geteuid()) == SERVICE_USER:
        return STATE
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, NAME)


def runtime_directories(configured: Optional[str]) -> dict[str, bool]:
    """The paths that the runtime directory may have, the best first, and whether somebody named each.

    The service's own comes before the user's, so that the runs of a person and of the service meet there.
    """
    found = {path: True for path in (configured, _from_systemd("RUNTIME_DIRECTORY")) if path}
    found.setdefault(RUNTIME, False)
    if user_runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.setdefault(os.path.join(user_runtime, NAME), False)
    return found


def _from_systemd(variable: str) -> str:
    """The first directory of a variable, where systemd separates them by colons (systemd.exec(5))."""
    return os.environ.get(variable, "").split(":")[0]
