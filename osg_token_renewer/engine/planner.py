"""Decides whether a token is due. Pure: it knows what it is given, the time included."""

from __future__ import annotations

import hashlib
import json
from typing import Optional

from osg_token_renewer.model import AccessToken, Decision, Found, Published, Rest, TokenRecord, TokenSpec, Why
from osg_token_renewer.text import duration
from osg_token_renewer.tokens.jwt import numeric_date

# A renewal is brought forward only if the token lives, beyond its min_lifetime, for so many times the spread.
# So a token is obtained at most a seventh more often. One that lives for only a few intervals of the timer is
# left alone: that would cost requests and spread nothing.
ENOUGH = 4

_UNUSABLE = {
    Found.NOTHING: Why.MISSING,
    Found.UNREADABLE: Why.UNREADABLE,
    Found.NOT_A_TOKEN: Why.NOT_A_TOKEN,
    Found.NOT_A_FILE: Why.NOT_A_FILE,
}


def decide(
    spec: TokenSpec,
    published: Published,
    record: Optional[TokenRecord],
    now: float,
    force: bool = False,
    spread: float = 0,
) -> Decision:
    """Whether the token is due at `now` (seconds since 1970), up to `spread` seconds before its min_lifetime
    says so. `record` is what the history knows of this token, None if nothing."""
    token = published.token
    if token is None:
        why = _UNUSABLE[published.found]
        return Decision(why, (published.problem or why.value) + _removal(spec, why, record, now))
    expires_at = expiry(published, record)
    if expires_at is not None and expires_at <= now:
        fate = ", to be removed if it cannot be renewed" if spec.remove_expired else ""
        return Decision(Why.EXPIRED, f"expired {duration(now - expires_at)} ago{fate}")
    if force:
        return Decision(Why.FORCED, "forced")
    known = record if _is_about(record, published) else None
    if difference := published.difference or _difference(spec, token, known):
        return Decision(Why.CHANGED, difference)
    if spec.min_lifetime is None:
        return Decision(Why.EVERY_RUN, "no min_lifetime is set, so it is obtained in every run")
    if expires_at is None:
        return Decision(Why.UNKNOWN_EXPIRY, "nobody said when it expires")
    left, least = expires_at - now, duration(spec.min_lifetime)
    life = f"{duration(left)} left"
    if left < spec.min_lifetime:
        return Decision(Why.EXPIRING, f"{life}, less than the {least} of min_lifetime")
    forward = bring_forward(spec.account, known, expires_at - spec.min_lifetime, spread)
    if left < spec.min_lifetime + forward:
        moved = f"moved {duration(forward)} ahead of the {least} of min_lifetime by spread"
        return Decision(Why.SPREAD, f"{life}, {moved}")
    return Decision(Why.FRESH, life)


def bring_forward(account: str, record: Optional[TokenRecord], latest: float, spread: float) -> float:
    """By how many seconds, less than `spread`, a token is due before `latest` (seconds since 1970).

    Each run finds the same number for all tokens that one run obtained from the account: they still need only
    one session. Hosts differ, and so do two renewals, so that accounts that met part again.
    """
    obtained_at = record.obtained_at if record else None
    if not spread or obtained_at is None or latest - obtained_at < ENOUGH * spread:
        return 0.0
    digest = hashlib.sha256(f"{account} {obtained_at}".encode()).digest()
    return spread * int.from_bytes(digest[:4], "big") / 2**32


def is_resting(rest: Rest, grant: Optional[str], now: float) -> bool:
    """Whether an account is still paused: until somebody gives it another grant, or a day has passed."""
    return rest.grant == grant and rest.since <= now < rest.until


def expiry(published: Published, record: Optional[TokenRecord]) -> Optional[float]:
    """When the published token expires: its own `exp`, else what was said when the run obtained it."""
    token = published.token
    if token is None:
        return None
    if token.claims is not None and numeric_date(token.claims, "exp") is not None:
        return token.expires_at
    return record.expires_at if record and _is_about(record, published) else None


def _removal(spec: TokenSpec, why: Why, record: Optional[TokenRecord], now: float) -> str:
    """Why a file is missing, if a run removed it."""
    known = record.expires_at if record is not None and spec.remove_expired and why is Why.MISSING else None
    if known is None or known > now:
        return ""
    return f": the last token expired {duration(now - known)} ago, and on_expiry is remove"


def _difference(spec: TokenSpec, token: AccessToken, record: Optional[TokenRecord]) -> Optional[str]:
    """How the request has changed since it brought the token (whose record this is); None if it has not."""
    if record is not None and record.asked is not None:
        return None if record.asked == spec.asked else _changed_options(record.asked, spec)
    # Without a record, the token itself is the only witness.
    if token.opaque:
        return None
    if not set(spec.audience) <= set(token.audience):
        return "audience is not what is asked for"
    return None if set(spec.scope) <= set(token.scope) else "scope is not what is asked for"


def _is_about(record: Optional[TokenRecord], published: Published) -> bool:
    """Whether the record is about the published token, not about one that somebody replaced."""
    known = record.fingerprint if record else None
    return known is not None and known == published.fingerprint


def _changed_options(before: str, spec: TokenSpec) -> str:
    pairs = zip(("account", "audience", "scope"), json.loads(before), json.loads(spec.asked))
    changed = [name for name, old, new in pairs if old != new]
    return f"{' and '.join(changed)} changed since it was published"
