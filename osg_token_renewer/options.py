"""Typed options of the configuration, and the parsers that turn an option's text into a value.

A parser takes a text that is not empty. It returns the value or raises ValueError; the message never shows
the text, which may be a misplaced secret.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from osg_token_renewer.model import Secret

CREDENTIAL = "credential:"


@dataclass(frozen=True)
class Option:
    """An option of a section; `default` is its value if it is absent or empty."""

    name: str
    parse: Callable[[str], Any]
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class SecretFile:
    """A file with a secret: a path, or a systemd credential (systemd.exec(5)) as `credential:NAME`."""

    text: str

    @property
    def is_credential(self) -> bool:
        return self.text.startswith(CREDENTIAL)


def text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def secret(value: str) -> Secret:
    return Secret(text(value))


def words(value: str) -> tuple[str, ...]:
    found = tuple(value.split())
    if not value.isprintable() and any(ord(c) < 32 or ord(c) == 127 for word in found for c in word):
        raise ValueError("must not contain control characters")
    return found


def name(value: str) -> str:
    """The name of an account or token."""
    if flaw := find_name_flaw(value):
        raise ValueError(flaw)
    return value


def find_name_flaw(value: str) -> Optional[str]:
    """Why this cannot be a name (for file names, log lines and argument lists); None if it can."""
    if value.startswith("-"):
        return "a name must not begin with '-'"
    if "/" in value or value in (".", ".."):
        return "a name must not contain '/', nor be '.' or '..'"
    # The blank is the only printable white space.
    if not value.isprintable() or " " in value:
        return "a name must not contain white space or control characters"
    return None


def _integer(what: str, lowest: int, highest: int) -> Callable[[str], int]:
    """A parser of whole numbers in this range."""

    def parse(value: str) -> int:
        # int() also accepts '1_000', ' 7' and the digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,12}", value):
            raise ValueError(f"must be {what}")
        number = int(value)
        if not lowest <= number <= highest:
            raise ValueError(f"must be {what} from {lowest} to {highest}")
        return number

    return parse


count = _integer("a number", 1, 10_000)
seconds = _integer("a number of seconds", 0, 10 * 365 * 86400)
# Seconds after which a wait ends.
time_limit = _integer("a number of seconds", 1, 3600)


def owner(value: str) -> str:
    """A user or group, by name or number; chown(2) reserves the largest numbers."""
    if not value.isprintable():
        raise ValueError("must not contain control characters")
    if value.isdecimal() and not (value.isascii() and int(value) < 2**32 - 2):
        raise ValueError("must be a name, or a number that a user or group can have")
    return value


def mode(value: str) -> int:
    if not re.fullmatch(r"[0-7]{3,4}", value):
        raise ValueError("must be an octal mode of three or four digits, as 0600")
    number = int(value, 8)
    if number & stat.S_IWOTH:
        raise ValueError("must not let others write")
    return number


def path(value: str) -> str:
    if "\n" in value or "\0" in value:
        raise ValueError("a path must be one line")
    return value


def absolute_path(value: str) -> str:
    if not path(value).startswith("/"):
        raise ValueError("must be an absolute path")
    if value.endswith("/") or os.path.basename(value) in (".", ".."):
        raise ValueError("must be the path of a file, not of a directory")
    return value


def secret_file(value: str) -> SecretFile:
    if value.startswith(CREDENTIAL):
        credential = value[len(CREDENTIAL) :]
        if not credential or find_name_flaw(credential):
            raise ValueError(f"must be {CREDENTIAL}NAME with the name of a credential")
    return SecretFile(path(value))


def endpoint(value: str) -> str:
    """A URL to which secrets may be sent: https, or http to this host's loopback."""
    from urllib.parse import urlsplit

    if not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError("a URL must not contain white space or control characters")
    try:
        url = urlsplit(value)
        url.port  # noqa: B018
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be an https URL")
    if url.username or url.password:
        raise ValueError("must not hold a user name or password")
    if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("must be https: plain http is only for this host's loopback")
    return value


def choice(*allowed: str) -> Callable[[str], str]:
    """A parser that accepts only these texts."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return parse
