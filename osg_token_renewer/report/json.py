"""`status --json`. A schema version may get more keys; those that it has never change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional

from osg_token_renewer.model import TokenRecord
from osg_token_renewer.report.states import TokenState
from osg_token_renewer.text import instant

SCHEMA_VERSION = 1


def render(states: Sequence[TokenState], now: float) -> str:
    """The JSON text; `now` is in seconds since 1970."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "generated_at": instant(now),
        "tokens": [_token(state) for state in states],
    }
    return json.dumps(content, indent=2)


def _token(state: TokenState) -> dict[str, Any]:
    planned, record = state.planned, state.planned.record or TokenRecord(state.planned.spec.name)
    published, token = planned.published, planned.published.token
    return {
        "name": planned.spec.name,
        "account": planned.spec.account,
        "state": state.state,
        "reason": state.reason,
        "path": planned.spec.path,
        "mode": None if published.mode is None else f"{published.mode:04o}",
        "issuer": (token.issuer or record.issuer) if token else None,
        # What the token itself says; an opaque one says nothing.
        "audience": None if token is None or token.opaque else list(token.audience),
        "scope": None if token is None or token.opaque else list(token.scope),
        "expires_at": _time(planned.expires_at),
        "seconds_left": None if state.seconds_left is None else int(state.seconds_left),
        "last_renewed_at": _time(record.obtained_at),
        "last_failure": _failure(record),
        "failures_in_row": record.failures_in_row,
        "next_attempt_at": _time(planned.rest.until if planned.rest else None),
    }


def _failure(record: TokenRecord) -> Optional[dict[str, Any]]:
    if record.failed_at is None:
        return None
    reason, message = record.failure_reason, record.failure_message
    return {"at": _time(record.failed_at), "reason": reason, "message": message}


def _time(when: Optional[float]) -> Optional[str]:
    return None if when is None else instant(when)
