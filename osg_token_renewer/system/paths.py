"""Where the program keeps its own files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

from osg_token_renewer.system.users import SERVICE_USER, user_name

if TYPE_CHECKING:
    pass
STATE = "/var/lib/osg-token-renewer"
RUNTIME = "/run/osg-token-renewer"
NAME = "osg-token-renewer"


def state_directory(configured: Optional[str]) -> str:
    """The state directory's path; it need not exist yet."""
    return configured or first_of_list(os.environ.get("STATE_DIRECTORY")) or _default_state()


def _default_state() -> str:
    if os.geteuid() == 0 or user_name(os.geteuid()) == SERVICE_USER:
        return STATE
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, NAME)


def first_of_list(value: Optional[str]) -> Optional[str]:
    """systemd separates several directories by colons (systemd.exec(5))."""
    return value.split(":")[0] if value else None
