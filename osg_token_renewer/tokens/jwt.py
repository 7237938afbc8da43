"""Reading an access token without trusting it.

The program is neither the token's issuer nor its audience, so it verifies no signature; it reads what the
token says of itself (RFC 7519) to know when to renew it and whether it grants what was asked. Written here
because a run with nothing due reads every token and must not pay for importing a cryptography library."""

from __future__ import annotations

import binascii
import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Optional

from osg_token_renewer.model import AccessToken, Secret

# RFC 6750 section 2.1: b64token. A token outside of it cannot be sent in an Authorization header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# Larger than any header that servers accept; keeps a mistaken file from being read whole.
MAX_LENGTH = 64 * 1024


def parse(text: str, expires_at: Optional[float] = None, issuer: Optional[str] = None) -> AccessToken:
    """The token in `text`, white space around it ignored.

    `expires_at` (seconds since 1970) and `issuer` are what others said of it; the token's own `exp` and `iss`
    come first. Raises ValueError, which says what is wrong without showing the text, when this cannot be a
    bearer token (RFC 6750)."""
    text = text.strip()
    if not text:
        raise ValueError("it is empty")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it is longer than {MAX_LENGTH} characters")
    if len(text.split()) > 1:
        raise ValueError("it has more than one line or word")
    compact = _COMPACT.fullmatch(text)
    if not compact and not _BEARER.fullmatch(text):
        raise ValueError("it has characters that a bearer token must not have (RFC 6750)")
    claims = _claims(text) if compact else None
    if claims is None:
        return AccessToken(Secret(text), None, expires_at, issuer)
    said = numeric_date(claims, "exp")
    own_issuer = claims.get("iss")
    return AccessToken(
        Secret(text),
        claims,
        expires_at if said is None else said,
        # Half of a surrogate pair, which JSON can hold, is no text that anything could store.
        own_issuer if isinstance(own_issuer, str) and own_issuer.isprintable() else issuer,
        _words(claims.get("aud"), split=False),
        # `scope` is RFC 9068 and the WLCG profile; `scp` is what some issuers say instead.
        _words(claims.get("scope", claims.get("scp")), split=True),
    )


def numeric_date(claims: Mapping[str, Any], name: str) -> Optional[float]:
    """A NumericDate (RFC 7519 section 2) in seconds since 1970; None if it is absent or not one."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    # The year 9999, the end of what dates can show.
    return seconds if math.isfinite(seconds) and 0 <= seconds < 253402300800 else None


def fingerprint(text: str) -> str:
    """Tells one token from another without giving it away: 64 bits of its SHA-256, in hexadecimal."""
    import hashlib

    return hashlib.sha256(text.strip().encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _claims(text: str) -> Optional[dict[str, Any]]:
    """The payload of what has the compact form of a JWS (RFC 7515 section 7.1), None if the token is opaque
    all the same."""
    header, payload, _signature = text.split(".")
    try:
        if not _is_header(header):
            return None
        claims = _decoded(payload)
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


@functools.lru_cache(maxsize=16)
def _is_header(part: str) -> bool:
    """The tokens of an issuer have one header."""
    return isinstance(_decoded(part), dict)


def _decoded(part: str) -> Any:
    # Two more padding characters than needed do no harm. str.translate would take longer than all the rest.
    return json.loads(binascii.a2b_base64(part.replace("-", "+").replace("_", "/") + "=="))


def _words(value: object, split: bool) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split()) if split else (value,)
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, str))
    return ()
