"""oidc-agent's own list of issuers and their accounts, beside the encrypted account files."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Collection, Mapping

from osg_token_renewer.sources import account_file


def read() -> Mapping[str, Collection[str]]:
    """The issuers that accounts were made for, each with the accounts that are known to be its own; empty when nothing is known.

    5.x keeps all accounts of an issuer, in JSON; 4.2.6 keeps a line for each issuer, with its first account.
    """
    path = account_file.path("issuer.config")
    try:
        status = os.stat(path)
        return _read(path, status.st_ino, status.st_mtime_ns, status.st_size)
    except OSError:
        return {}


@functools.lru_cache(maxsize=1)
def _read(path: str, *_version: int) -> Mapping[str, Collection[str]]:
    """A run asks for each of its accounts."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if not text.lstrip().startswith(("[", "{")):
            return {words[0]: frozenset(words[1:]) for line in text.splitlines() if len(words := line.split()) > 1}
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    listed = content if isinstance(content, list) else [content]
    return {url: accounts for one in listed if isinstance(one, dict) for url, accounts in [_entry(one)] if url and accounts}


def _entry(one: Mapping[str, object]) -> tuple[str, frozenset[str]]:
    url, accounts = one.get("issuer"), one.get("accounts")
    return url if isinstance(url, str) else "", frozenset(map(str, accounts)) if isinstance(accounts, list) else frozenset()
