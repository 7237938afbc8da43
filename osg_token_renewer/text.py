"""Text for people: durations, instants, and text that came from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

OUTSIDE_LIMIT = 300
# The end of the year 9999, the last that `instant` can show, in seconds since 1970.
LATEST = 253402300800.0

# A JWT, or text as long and dense as a token: an issuer's error may quote what was sent.
_TOKEN_LIKE = re.compile(r"\bey[\w-]{8,}(?:\.[\w-]*){1,4}|[\w~+-]{40,}=*", re.ASCII)
# A shorter piece of base64 may be part of any word.
_DENSE = 8
_URL_SAFE = str.maketrans("+/", "-_")


def outside(text: str, hide: Iterable[str] = (), limit: int = OUTSIDE_LIMIT) -> str:
    """Foreign text (an issuer's error, stderr) as one line of at most `limit` printable characters.

    Before it is cut, `***` replaces each string of `hide` (secrets that the other side may echo, plain or
    encoded) and whatever looks like a token.
    """
    # The longest first: a form may be a part of another.
    for form in sorted({form for secret in hide for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, "***")
    return line(_TOKEN_LIKE.sub("***", text), limit)


def line(text: str, limit: int = OUTSIDE_LIMIT) -> str:
    """Foreign text without a secret (an address that a person is to visit), in the same form as `outside`."""
    # The text may be a megabyte; a part of it is enough, even if many blanks are removed.
    text = text[: limit * 50]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escaped(text: str) -> str:
    """Text that must stay recognisable (a path, a name), with backslash escapes for what is not printable."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _forms(secret: str) -> Iterator[str]:
    """How a secret may look in an answer: plain, form-encoded, within HTML or JSON, or in base64."""
    if not secret:
        return
    import base64
    import html
    from urllib.parse import quote, quote_plus

    yield from (secret, html.escape(secret))
    yield from (json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    content = secret.encode("utf-8", "surrogateescape")
    for form in (quote(content), quote(content, safe=""), quote_plus(content)):
        yield from (form, re.sub("%..", lambda code: code[0].lower(), form))
    for before in range(3):
        # The secret may begin at any byte of what was encoded. Its first and last characters are left out,
        # because they depend on what stands beside it.
        within = base64.b64encode(b"\0" * before + content).decode()[4 if before else 0 : -4]
        if len(within) >= _DENSE:
            yield from (within, within.translate(_URL_SAFE))


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
    """A time limit in seconds: '60 s', '0.4 s'."""
    return f"{round(limit, 1):g} s"


def instant(when: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(int(when), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
