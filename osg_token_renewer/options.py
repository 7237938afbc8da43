"""Typed options of the configuration: what a section may hold, and how a text becomes a value.

A parser takes the text of an option, which is never empty, and returns its value or raises ValueError saying
what is wrong without showing the text: it may be a secret in the wrong place."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from osg_token_renewer.model import Secret

CREDENTIAL = "credential:"


@dataclass(frozen=True)
class Option:
    name: str
    parse: Callable[[str], Any]
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class SecretFile:
    """A file that holds a secret: a path, or a systemd credential (`credential:NAME`, systemd.exec(5)
    LoadCredential=)."""

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
    """A name of an account or token: it stands in file names, log lines and argument lists."""
    problem = bad_name(value)
    if problem:
        raise ValueError(problem)
    return value


def bad_name(value: str) -> Optional[str]:
    if value.startswith("-"):
        return "a name must not begin with '-'"
    if "/" in value or value in (".", ".."):
        return "a name must not contain '/', nor be '.' or '..'"
    # Of all white space only the blank is printable.
    if not value.isprintable() or " " in value:
        return "a name must not contain white space or control characters"
    return None


def seconds(value: str) -> int:
    return _integer(value, "a number of seconds", 0, 10 * 365 * 86400)


def time_limit(value: str) -> int:
    """Seconds that somebody or something waits at the most."""
    return _integer(value, "a number of seconds", 1, 3600)


def owner(value: str) -> str:
    """A user or group, by name or number; the largest numbers mean nobody, or leave things as they are
    (chown(2))."""
    if not value.isprintable():
        raise ValueError("must not contain control characters")
    if value.isdecimal() and not (value.isascii() and int(value) < 2**32 - 2):
        raise ValueError("must be a name, or a number that a user or group can have")
    return value


def count(value: str) -> int:
    return _integer(value, "a number", 1, 10_000)


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
        if not credential or bad_name(credential):
            raise ValueError(f"must be {CREDENTIAL}NAME with the name of a credential")
    return SecretFile(path(value))


def endpoint(value: str) -> str:
    """A URL that secrets may be sent to: https, or http to this host's loopback."""
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
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return parse


def known(options: Sequence[Option]) -> tuple[str, ...]:
    return tuple(option.name for option in options)


def _integer(value: str, what: str, lowest: int, highest: int) -> int:
    # int() would also take '1_000', ' 7' and digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise ValueError(f"must be {what}")
    number = int(value)
    if not lowest <= number <= highest:
        raise ValueError(f"must be {what} from {lowest} to {highest}")
    return number
