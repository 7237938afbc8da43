"""Text for people: durations, instants, and what came from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone

OUTSIDE_LIMIT = 300


# A JWT, and what is as long and as dense as a token: an issuer may quote in its error what it was sent.
_TOKEN_LIKE = re.compile(r"\bey[\w-]{8,}(?:\.[\w-]*){1,4}|[\w~+-]{40,}=*", re.ASCII)


def outside(text: str, hide: Iterable[str] = (), limit: int = OUTSIDE_LIMIT) -> str:
    """Foreign text (an issuer's error, a subprocess's stderr) as one bounded line of printable characters.

    Control and format characters, bidirectional marks and line breaks become blanks; each string in `hide`
    (secrets that the other side may echo) and whatever looks like a token is masked before anything is cut off.
    """
    text = text[: limit * 50]
    for secret in hide:
        if secret:
            text = text.replace(secret, "***")
    text = _TOKEN_LIKE.sub("***", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def duration(seconds: float) -> str:
    """A span of time in at most two units: '45 s', '11 min', '2 h 5 min', '3 d 4 h'."""
    whole = round(abs(seconds))
    if whole < 60:
        return f"{whole} s"
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole // 60} min"


def seconds(limit: float) -> str:
    """A time limit as it was set, or what was left of another: '60 s', '0.4 s'."""
    return f"{round(limit, 1):g} s"


def instant(when: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(int(when), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
