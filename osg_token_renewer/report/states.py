"""The state of each published token, in the words of `status`."""

from __future__ import annotations

from typing import NamedTuple, Optional

from osg_token_renewer.model import Planned, Why

FRESH, DUE, EXPIRING, EXPIRED, FAILED, MISSING = "fresh", "due", "expiring", "expired", "failed", "missing"

# A consumer of the token would notice these now or soon. Every token is `due` or `expiring` before a renewal.
NOT_WELL = frozenset((EXPIRED, FAILED, MISSING))

# Any other reason is `due`.
_STATES = {
    Why.FRESH: FRESH,
    Why.EXPIRING: EXPIRING,
    Why.MISSING: MISSING,
    Why.EXPIRED: EXPIRED,
    Why.UNREADABLE: FAILED,
    Why.NOT_A_TOKEN: FAILED,
    Why.NOT_A_FILE: FAILED,
}


class TokenState(NamedTuple):
    """One token of `status`. `seconds_left` is negative after the expiry, None if that is unknown."""

    planned: Planned
    state: str
    reason: str
    seconds_left: Optional[float]

    @property
    def well(self) -> bool:
        return self.state not in NOT_WELL


def find_state(planned: Planned, now: float) -> TokenState:
    """A failed renewal counts unless the published token itself is not well."""
    left = None if planned.expires_at is None else planned.expires_at - now
    state, reason = _STATES.get(planned.decision.why, DUE), planned.decision.text
    record = planned.record
    if state not in NOT_WELL and record is not None and record.failures_in_row:
        state, reason = FAILED, record.failure_message or "the last renewal failed"
    return TokenState(planned, state, reason, left)
