"""Does the token grant what was asked?"""

from __future__ import annotations

from typing import Optional

from osg_token_renewer.errors import Unsuitable
from osg_token_renewer.model import AccessToken, TokenSpec
from osg_token_renewer.text import duration, outside
from osg_token_renewer.tokens.jwt import numeric_date

# The clocks of two hosts differ; RFC 7519 section 4.1.5 allows for "no more than a few minutes".
NOT_BEFORE_LEEWAY = 60
# Less is not worth a word.
_SOON = 5
_LISTED = 5


def check(spec: TokenSpec, token: AccessToken, now: float) -> tuple[str, ...]:
    """What is to be said of a token that may be published; empty when it is what was asked for.

    Raises Unsuitable for a token that must not be published: expired, not valid yet, or, with `claims =
    enforce`, lacking an audience or a scope that was asked for. An opaque token cannot be checked for those.
    """
    if token.expires_at is not None and token.expires_at <= now:
        raise Unsuitable(
            f"the token that came expired {duration(now - token.expires_at)} ago",
            "compare this host's clock with the issuer's",
        )
    if token.claims is None:
        return _lifetime(spec, token, now)
    valid_from = not_before(token)
    if valid_from is not None and valid_from > now + NOT_BEFORE_LEEWAY:
        raise Unsuitable(
            f"the token that came is not valid for {duration(valid_from - now)} yet",
            "compare this host's clock with the issuer's",
        )
    missing = _missing(spec, token)
    if missing and spec.enforce_claims:
        raise Unsuitable(
            f"the token that came lacks {' and '.join(missing)}",
            "ask the issuer's operators to grant it, or set claims = warn to publish it all the same",
        )
    early = (
        (f"is not valid for another {valid_from - now:.0f} s",)
        if valid_from is not None and valid_from > now + _SOON
        else ()
    )
    return (*(f"lacks {what}" for what in missing), *_lifetime(spec, token, now), *_more(spec, token), *early)


def not_before(token: AccessToken) -> Optional[float]:
    """When the token becomes valid (RFC 7519 section 4.1.5), in seconds since 1970; None when it does not
    say."""
    return None if token.claims is None else numeric_date(token.claims, "nbf")


def _missing(spec: TokenSpec, token: AccessToken) -> list[str]:
    return [
        f"{what} {_listed(absent)}"
        for what, asked, granted in (
            ("audience", spec.audience, token.audience),
            ("scope", spec.scope, token.scope),
        )
        if (absent := [word for word in asked if word not in granted])
    ]


def _more(spec: TokenSpec, token: AccessToken) -> tuple[str, ...]:
    extra = [word for word in token.scope if word not in spec.scope] if spec.scope else []
    return (f"has more scope than asked for: {_listed(extra)}",) if extra else ()


def _lifetime(spec: TokenSpec, token: AccessToken, now: float) -> tuple[str, ...]:
    if token.expires_at is None:
        return (
            ("nobody said when it expires, so it is obtained in every run",)
            if spec.min_lifetime is not None
            else ()
        )
    if spec.min_lifetime is not None and token.expires_at - now < spec.min_lifetime:
        lives, wanted = duration(token.expires_at - now), duration(spec.min_lifetime)
        return (f"lives only {lives}, less than the {wanted} of min_lifetime",)
    return ()


def _listed(words: list[str]) -> str:
    shown = " ".join(outside(word, limit=80) for word in words[:_LISTED])
    return shown + (f" and {len(words) - _LISTED} more" if len(words) > _LISTED else "")
