"""The words of outcomes: what became of a token, and what that means for its readers. Pure."""

from __future__ import annotations

from typing import Optional

from osg_token_renewer.errors import DeadGrant, Failure
from osg_token_renewer.model import AccessToken, Found, Outcome, Planned, Rest, State, TokenSpec
from osg_token_renewer.text import duration
from osg_token_renewer.tokens import jwt


def of_fresh(planned: Planned) -> Outcome:
    why = planned.decision
    return Outcome(planned.spec, State.FRESH, why.why.value, why.text, expires_at=planned.expires_at)


def of_renewal(spec: TokenSpec, token: AccessToken, notes: tuple[str, ...], now: float) -> Outcome:
    message = "renewed"
    if token.expires_at is not None:
        message += f", valid for {duration(token.expires_at - now)}"
    if token.opaque and (spec.audience or spec.scope):
        message += ", not checkable because it is opaque"
    return Outcome(
        spec,
        State.RENEWED,
        "renewed",
        message,
        expires_at=token.expires_at,
        notes=notes,
        token=token,
        fingerprint=jwt.fingerprint(token.text.reveal()),
    )


def of_failure(spec: TokenSpec, failure: Failure, grant: Optional[str] = None) -> Outcome:
    """`grant`: the account's grant when it was opened (`Source.grant`)."""
    hint = failure.hint or failure.advice
    dead = grant if failure.kills_grant else None
    return Outcome(spec, State.FAILED, failure.reason, failure.message, hint, dead_grant=dead)


def of_rest(planned: Planned, rest: Rest, now: float) -> Outcome:
    """The failure of a token whose account is paused."""
    message = f"account {rest.account} was not asked again, {duration(now - rest.since)} after {rest.message}"
    login = f"run: osg-token-renewer-setup --reauthenticate {rest.account}"
    hint = f"{login}; to ask all the same: osg-token-renewer renew --force"
    return Outcome(planned.spec, State.FAILED, DeadGrant.reason, message, hint)


def consequence(planned: Planned, now: float) -> str:
    """What a failure means for the readers of the published token."""
    if planned.published.found is Found.UNREADABLE:
        return "the published token cannot be read"
    if planned.published.token is None:
        return "no token is published"
    if planned.expires_at is None:
        return "the published token stays"
    if planned.expires_at > now:
        return f"the published token is valid for {duration(planned.expires_at - now)} more"
    return f"the published token expired {duration(now - planned.expires_at)} ago"
