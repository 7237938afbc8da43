"""What oidc-agent keeps in its directory, beside the encrypted account files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Optional

from osg_token_renewer.process import User


def directory(user: Optional[User] = None) -> str:
    """Where oidc-agent keeps the accounts of this user: $OIDC_CONFIG_DIR, ~/.config/oidc-agent if it is there, else ~/.oidc-agent."""
    given = os.environ.get("OIDC_CONFIG_DIR")
    if given:
        return given
    home = user.home if user else os.path.expanduser("~")
    modern = os.path.join(home, ".config", "oidc-agent")
    return modern if os.path.isdir(modern) else os.path.join(home, ".oidc-agent")


def issuers() -> dict[str, tuple[str, ...]]:
    """The issuers that accounts were made for, each with the accounts that are known to be its own; empty when nothing is known.

    5.x keeps all accounts of an issuer, in JSON; 4.2.6 keeps a line for each issuer, with its first account.
    """
    try:
        with open(os.path.join(directory(), "issuer.config"), encoding="utf-8") as file:
            text = file.read()
        if not text.lstrip().startswith(("[", "{")):
            return {words[0]: tuple(words[1:]) for line in text.splitlines() if len(words := line.split()) > 1}
        content = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    listed = content if isinstance(content, list) else [content]
    return {url: accounts for one in listed if isinstance(one, dict) for url, accounts in [_entry(one)] if url and accounts}


def _entry(one: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    url, accounts = one.get("issuer"), one.get("accounts")
    return url if isinstance(url, str) else "", tuple(map(str, accounts)) if isinstance(accounts, list) else ()
