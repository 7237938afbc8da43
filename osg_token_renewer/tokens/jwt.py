"""Reads an access token without trusting it.

The program is neither the token's issuer nor its audience, so it verifies no signature. It reads what the
token says about itself (RFC 7519): when it expires, and what it grants. It uses no JWT library, because a
run with nothing due reads every token, and must not import a cryptography library for that.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Optional

from osg_token_renewer.model import AccessToken, Secret
from osg_token_renewer.text import LATEST

# b64token of RFC 6750 section 2.1; only that can be sent in an Authorization header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# In characters. No server accepts a longer header; a larger file is not read to its end.
MAX_LENGTH = 64 * 1024


def parse(text: str, expires_at: Optional[float] = None, issuer: Optional[str] = None) -> AccessToken:
    """The token in `text`, without the white space around it.

    `expires_at` (seconds since 1970) and `issuer` stand in for claims `exp` and `iss` that the token lacks.
    Raises ValueError if this cannot be a bearer token (RFC 6750); the message does not show the text.
    """
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
    claims = _read_claims(text) if compact else None
    if claims is None:
        return AccessToken(Secret(text), None, expires_at, issuer)
    own_expiry = numeric_date(claims, "exp")
    own_issuer = claims.get("iss")
    return AccessToken(
        Secret(text),
        claims,
        expires_at if own_expiry is None else own_expiry,
        # JSON can hold half of a surrogate pair, which nothing could store.
        own_issuer if isinstance(own_issuer, str) and own_issuer.isprintable() else issuer,
        _words(claims.get("aud"), split=False),
        # `scope` by RFC 9068 and the WLCG profile; some issuers write `scp`.
        _words(claims.get("scope", claims.get("scp")), split=True),
    )


def numeric_date(claims: Mapping[str, Any], name: str) -> Optional[float]:
    """A claim that is a NumericDate (RFC 7519 section 2), in seconds since 1970; None if it is not one."""
    value = claims.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LATEST:
        return float(value)
    return None


def fingerprint(text: str) -> str:
    """Identifies a token without revealing it: 64 bits of its SHA-256, in hexadecimal."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _read_claims(text: str) -> Optional[dict[str, Any]]:
    """The payload of a JWS in compact form (RFC 7515 section 7.1); None if the token is opaque."""
    try:
        header, claims = (_decode(part) for part in text.split(".")[:2])
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(header, dict) and isinstance(claims, dict) else None


def _decode(part: str) -> Any:
    # Superfluous padding does no harm. str.translate would take longer than all the rest.
    return json.loads(binascii.a2b_base64(part.replace("-", "+").replace("_", "/") + "=="))


def _words(value: object, split: bool) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split()) if split else (value,)
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, str))
    return ()
