"""Decides whether a token is due. Pure: what it knows is what it is given, the time included."""

from __future__ import annotations

import json
from typing import Optional

from osg_token_renewer.model import (
    AccessToken,
    Decision,
    Found,
    Planned,
    Published,
    Rest,
    TokenRecord,
    TokenSpec,
    Why,
)
from osg_token_renewer.text import duration, remaining
from osg_token_renewer.tokens.jwt import numeric_date

# A token is moved ahead only if it lives, beyond its min_lifetime, for so many times the spread. So it is
# obtained at most a seventh more often; and one that lives for only a few intervals of the timer is left
# alone: moving it would cost requests, and part nothing.
ENOUGH = 4

_UNUSABLE = {
    Found.NOTHING: Why.MISSING,
    Found.UNREADABLE: Why.UNREADABLE,
    Found.NOT_A_TOKEN: Why.NOT_A_TOKEN,
    Found.NOT_A_FILE: Why.NOT_A_FILE,
}


def plan(
    spec: TokenSpec,
    published: Published,
    record: Optional[TokenRecord],
    now: float,
    force: bool = False,
    spread: float = 0,
) -> Planned:
    return Planned(
        spec,
        published,
        record,
        decide(spec, published, record, now, force, spread),
        expiry(published, record),
    )


def decide(
    spec: TokenSpec,
    published: Published,
    record: Optional[TokenRecord],
    now: float,
    force: bool = False,
    spread: float = 0,
) -> Decision:
    """`record` is what the history knows of this token, None if nothing; `now` is in seconds since 1970.

    A token that has enough life is due up to `spread` seconds earlier than its min_lifetime says.
    """
    token = published.token
    if token is None:
        why = _UNUSABLE[published.found]
        return Decision(why, (published.problem or why.value) + _removed(spec, why, record, now))
    expires_at = expiry(published, record)
    if expires_at is not None and expires_at <= now:
        fate = ", to be removed if it cannot be renewed" if spec.remove_expired else ""
        return Decision(Why.EXPIRED, f"expired {duration(now - expires_at)} ago{fate}")
    if force:
        return Decision(Why.FORCED, "forced")
    difference = _difference(spec, published, token, record)
    if difference:
        return Decision(Why.CHANGED, difference)
    if spec.min_lifetime is None:
        return Decision(Why.EVERY_RUN, "no min_lifetime is set, so it is obtained in every run")
    if expires_at is None:
        return Decision(Why.UNKNOWN_EXPIRY, "nobody said when it expires")
    left = expires_at - now
    if left < spec.min_lifetime:
        return Decision(
            Why.EXPIRING, f"{remaining(left)}, less than the {duration(spec.min_lifetime)} of min_lifetime"
        )
    if left < spec.min_lifetime + spread and record is not None and _about(record, published):
        ahead = _ahead(record, spec.account, expires_at - spec.min_lifetime, spread)
        if left < spec.min_lifetime + ahead:
            moved = f"moved {duration(ahead)} ahead of the {duration(spec.min_lifetime)} of min_lifetime by spread"
            return Decision(Why.SPREAD, f"{remaining(left)}, {moved}")
    return Decision(Why.FRESH, remaining(left))


def rests(rest: Optional[Rest], grant: Optional[str], now: float) -> bool:
    """Whether an account still rests: until somebody has given it another grant, or a day has passed."""
    return rest is not None and rest.grant == grant and rest.since <= now < rest.until


def expiry(published: Published, record: Optional[TokenRecord]) -> Optional[float]:
    """When the published token expires: its own `exp`, else what was said when this very token was
    obtained."""
    token = published.token
    if token is None:
        return None
    if token.claims is not None and numeric_date(token.claims, "exp") is not None:
        return token.expires_at
    return record.expires_at if _about(record, published) and record else None


def to_be_removed(planned: Planned, now: float) -> bool:
    """Whether the published token, which could not be renewed, is to be taken away: it has no life left, and
    is not to be kept then."""
    return planned.spec.remove_expired and planned.expires_at is not None and planned.expires_at <= now


def _ahead(record: TokenRecord, account: str, latest: float, spread: float) -> float:
    """By how many seconds, less than `spread`, a token is due before `latest`; 0 if it has not enough life.

    The same number in each run, and for all tokens of an account that one run obtained, so that they still
    need only one session. When that was, no two hosts agree upon; and as the next number is another one,
    accounts that fell together part again."""
    obtained_at = record.obtained_at
    if obtained_at is None or latest - obtained_at < ENOUGH * spread:
        return 0.0
    import hashlib

    digest = hashlib.sha256(f"{account} {obtained_at}".encode()).digest()
    return spread * int.from_bytes(digest[:4], "big") / 2**32


def _removed(spec: TokenSpec, why: Why, record: Optional[TokenRecord], now: float) -> str:
    """What a missing file may be missing for."""
    known = record.expires_at if record is not None and spec.remove_expired and why is Why.MISSING else None
    return (
        f": the last token expired {duration(now - known)} ago, and on_expiry is remove"
        if known is not None and known <= now
        else ""
    )


def _difference(
    spec: TokenSpec, published: Published, token: AccessToken, record: Optional[TokenRecord]
) -> Optional[str]:
    """How what is asked for now differs from what was asked for when the token was published; None if it does
    not."""
    if published.difference:
        return published.difference
    if record is not None and record.asked is not None and _about(record, published):
        return None if record.asked == spec.asked else _changed_options(record.asked, spec)
    # Without a record, the token itself is the only witness.
    if token.opaque:
        return None
    for what, asked, granted in (
        ("audience", spec.audience, token.audience),
        ("scope", spec.scope, token.scope),
    ):
        if not set(asked) <= set(granted):
            return f"{what} is not what is asked for"
    return None


def _about(record: Optional[TokenRecord], published: Published) -> bool:
    """Whether the record is about the token that is published, not about one that somebody replaced."""
    return (
        record is not None and record.fingerprint is not None and record.fingerprint == published.fingerprint
    )


def _changed_options(before: str, spec: TokenSpec) -> str:
    names = ("account", "audience", "scope")
    changed = [
        name for name, old, new in zip(names, json.loads(before), json.loads(spec.asked)) if old != new
    ]
    return f"{' and '.join(changed)} changed since it was published"
