"""Whether a token grants what was asked for, and for long enough."""

from __future__ import annotations

from typing import Optional

from osg_token_renewer.errors import Unsuitable
from osg_token_renewer.model import AccessToken, TokenSpec
from osg_token_renewer.text import duration, outside
from osg_token_renewer.tokens.jwt import numeric_date

# In seconds. RFC 7519 section 4.1.5 allows "no more than a few minutes" for clocks that differ.
NOT_BEFORE_LEEWAY = 60
# A token that becomes valid within this many seconds needs no note.
_SOON = 5
_LISTED = 5
_COMPARE_CLOCKS = "compare this host's clock with the issuer's"


def check(spec: TokenSpec, token: AccessToken, now: float) -> tuple[str, ...]:
    """Notes about a token that may be published; none if it is what was asked for.

    Raises Unsuitable for a token that must not be published: it has expired, is not valid yet, or (with
    `claims = enforce`) lacks an audience or scope. Of an opaque token only the lifetime can be checked.
    """
    if token.expires_at is not None and token.expires_at <= now:
        ago = duration(now - token.expires_at)
        raise Unsuitable(f"the token that came expired {ago} ago", _COMPARE_CLOCKS)
    if token.claims is None:
        return _check_lifetime(spec, token, now)
    valid_in = (not_before(token) or now) - now
    if valid_in > NOT_BEFORE_LEEWAY:
        raise Unsuitable(f"the token that came is not valid for {duration(valid_in)} yet", _COMPARE_CLOCKS)
    missing = _find_missing(spec, token)
    if missing and spec.enforce_claims:
        raise Unsuitable(
            f"the token that came lacks {' and '.join(missing)}",
            "ask the issuer's operators to grant it, or set claims = warn to publish it all the same",
        )
    notes = [f"lacks {what}" for what in missing]
    notes += _check_lifetime(spec, token, now)
    extra = [word for word in token.scope if spec.scope and word not in spec.scope]
    if extra:
        notes.append(f"has more scope than asked for: {_list(extra)}")
    if valid_in > _SOON:
        notes.append(f"is not valid for another {valid_in:.0f} s")
    return tuple(notes)


def not_before(token: AccessToken) -> Optional[float]:
    """When the token becomes valid (RFC 7519 section 4.1.5), in seconds since 1970; None if it is silent."""
    return None if token.claims is None else numeric_date(token.claims, "nbf")


def _find_missing(spec: TokenSpec, token: AccessToken) -> list[str]:
    pairs = (("audience", spec.audience, token.audience), ("scope", spec.scope, token.scope))
    return [
        f"{what} {_list(absent)}"
        for what, asked, granted in pairs
        if (absent := [word for word in asked if word not in granted])
    ]


def _check_lifetime(spec: TokenSpec, token: AccessToken, now: float) -> tuple[str, ...]:
    if spec.min_lifetime is None:
        return ()
    if token.expires_at is None:
        return ("nobody said when it expires, so it is obtained in every run",)
    left = token.expires_at - now
    if left < spec.min_lifetime:
        return (f"lives only {duration(left)}, less than the {duration(spec.min_lifetime)} of min_lifetime",)
    return ()


def _list(words: list[str]) -> str:
    shown = " ".join(outside(word, limit=80) for word in words[:_LISTED])
    return shown + (f" and {len(words) - _LISTED} more" if len(words) > _LISTED else "")
