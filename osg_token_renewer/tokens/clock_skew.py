"""How far the issuer's clock is from this host's."""

from __future__ import annotations

from typing import Optional

from osg_token_renewer.model import AccessToken
from osg_token_renewer.tokens.jwt import numeric_date

# A clock that is set by NTP differs by far less.
SKEW = 30


def ahead_by(date: Optional[float], asked_at: float, answered_at: float) -> Optional[float]:
    """By how many seconds at least the issuer's clock is ahead of this host's (negative: behind), by the
    `date` of its answer; 0 if both may show the same, None without a date.

    All three are in seconds since 1970. The issuer cuts its date to the second, and writes it at some time
    between the question and the answer, which are on this host's clock.
    """
    if date is None:
        return None
    return max(0.0, date - answered_at) + min(0.0, date + 1 - asked_at)


def find_skew(token: AccessToken, clock_ahead: Optional[float], now: float) -> Optional[str]:
    """How the issuer's clock differs from this host's, when it is by more than SKEW seconds and can be seen.

    `clock_ahead` is by how many seconds it is ahead by the date of the issuer's answer, None if that is not
    known. A token that was made in the future is as good a witness; one from the past is only where there is
    no other, for some issuers give out a token twice."""
    made = [
        when
        for name in ("iat", "nbf")
        if token.claims is not None and (when := numeric_date(token.claims, name)) is not None
    ]
    ahead = max([clock_ahead or 0.0, *(when - now for when in made)])
    if ahead > SKEW:
        return f"the issuer's clock is {ahead:.0f} s ahead of this host's"
    if clock_ahead is not None and clock_ahead < -SKEW:
        return f"the issuer's clock is {-clock_ahead:.0f} s behind this host's"
    issued = None if token.claims is None else numeric_date(token.claims, "iat")
    if clock_ahead is None and issued is not None and now - issued > SKEW:
        return f"the issuer's clock is {now - issued:.0f} s behind this host's, or it gives out tokens that it has made before"
    return None
