"""Tokens in each state, as the planner sees them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from osg_token_renewer.model import Found, Planned, Published, TokenRecord, TokenSpec
from osg_token_renewer.report.states import TokenState, find_state
from osg_token_renewer.tokens import jwt
from tests.specs import file_token, plan

# 2026-11-22T12:00:00Z
NOW = 1795348800.0


def spec(name: str = "x", **options: Any) -> TokenSpec:
    return file_token(
        **{"name": name, "account": "robot", "path": f"/tokens/{name}", "min_lifetime": 600, **options}
    )


def encoded(claims: Mapping[str, Any]) -> str:
    """A JWT that nobody signed: the program verifies no signature."""
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join((*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "sig"))


def published(text: Optional[str] = None, left: float = 3600, **claims: Any) -> Published:
    """A published token: this text, or a JWT with these claims and so many seconds left."""
    given = {
        "iss": "https://issuer.example.org",
        "exp": NOW + left,
        "aud": "ce",
        "scope": "compute.read compute.create",
        **claims,
    }
    token = jwt.parse(encoded(given) if text is None else text)
    return Published(Found.TOKEN, "", token, jwt.fingerprint(token.text.reveal()), 0o600)


NO_FILE = Published(Found.NOTHING, "no file")
EMPTY = Published(Found.NOT_A_TOKEN, "not a token: it is empty", mode=0o640)


def failed(count: int = 1, ago: float = 180, **known: Any) -> TokenRecord:
    message = "the issuer refused the refresh token (invalid_grant)"
    values = {
        "failed_at": NOW - ago,
        "failure_reason": "refused",
        "failure_message": message,
        "failures_in_row": count,
        **known,
    }
    return TokenRecord("x", **values)


def planned(found: Published, record: Optional[TokenRecord] = None, **options: Any) -> Planned:
    return plan(spec(**options), found, record, NOW)


def states(plans: Iterable[Planned]) -> list[TokenState]:
    return [find_state(each, NOW) for each in plans]
