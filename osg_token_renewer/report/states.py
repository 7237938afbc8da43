"""The state of each published token, in the words of `status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from osg_token_renewer.model import Planned, Why

FRESH, DUE, EXPIRING, EXPIRED, FAILED, MISSING = "fresh", "due", "expiring", "expired", "failed", "missing"

# A consumer of the token would notice these now or soon. Every token is `due` or `expiring` before a renewal.
NOT_WELL = frozenset((EXPIRED, FAILED, MISSING))

_STATES = {
    Why.MISSING: MISSING,
    Why.EXPIRED: EXPIRED,
    Why.UNREADABLE: FAILED,
    Why.NOT_A_TOKEN: FAILED,
    Why.NOT_A_FILE: FAILED,
}


class TokenState(NamedTuple):
    """One token of `status`. `expires_at` is in seconds since 1970; `seconds_left` may be negative; None is
    unknown."""

    planned: Planned
    state: str
    reason: str
    expires_at: Optional[float]
    seconds_left: Optional[float]

    @property
    def well(self) -> bool:
        return self.state not in NOT_WELL


def states(planned: Sequence[Planned], now: float) -> list[TokenState]:
    return [_state(each, now) for each in planned]


def _state(each: Planned, now: float) -> TokenState:
    left = None if each.expires_at is None else each.expires_at - now
    why, reason, record = each.decision.why, each.decision.text, each.record
    state = _STATES.get(why)
    if state is None and record is not None and record.failures_in_row:
        state, reason = FAILED, record.failure_message or "the last renewal failed"
    elif state is None:
        state = {Why.FRESH: FRESH, Why.EXPIRING: EXPIRING}.get(why, DUE)
    return TokenState(each, state, reason, each.expires_at, left)
