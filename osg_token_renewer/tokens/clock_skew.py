"""How far the issuer's clock is from this host's: by the date of an answer, and by what a token says."""

from __future__ import annotations

from typing import Optional

from osg_token_renewer.model import AccessToken
from osg_token_renewer.tokens.jwt import numeric_date

# In seconds. Clocks that NTP sets differ by far less.
LIMIT = 30
_ADVICE = "see that both are set by NTP; on this host: timedatectl"


def ahead_by(date: Optional[float], asked_at: float, answered_at: float) -> Optional[float]:
    """Seconds by which the issuer's clock is at least ahead (negative: behind); None without a date.

    All three are in seconds since 1970. The issuer cuts the `date` of its answer to the second, and writes it
    at some time between the question and the answer, which are on this host's clock.
    """
    if date is None:
        return None
    return max(0.0, date - answered_at) + min(0.0, date + 1 - asked_at)


def find_skew(token: AccessToken, clock_ahead: Optional[float], now: float) -> Optional[str]:
    """What to say about the issuer's clock if it differs from this host's by more than LIMIT; else None.

    A token from the future (`iat`, `nbf`) is as good a witness as `clock_ahead` (see ahead_by). A token from
    the past counts only without that, because some issuers backdate tokens or return the same one again.
    """
    claims = token.claims or {}
    issued_at, valid_from = numeric_date(claims, "iat"), numeric_date(claims, "nbf")
    ahead = max(clock_ahead or 0.0, (issued_at or now) - now, (valid_from or now) - now)
    if ahead > LIMIT:
        return f"the issuer's clock is {ahead:.0f} s ahead of this host's: {_ADVICE}"
    if clock_ahead is not None and clock_ahead < -LIMIT:
        return f"the issuer's clock is {-clock_ahead:.0f} s behind this host's: {_ADVICE}"
    if clock_ahead is None and issued_at is not None and now - issued_at > LIMIT:
        behind = f"the issuer's clock is {now - issued_at:.0f} s behind this host's"
        return f"{behind}, or the issuer returned an earlier token again: {_ADVICE}"
    return None
