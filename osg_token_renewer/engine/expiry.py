"""The removal of expired tokens that could not be renewed: `on_expiry = remove`."""

from __future__ import annotations

import time

from osg_token_renewer.engine import outcomes
from osg_token_renewer.errors import Local
from osg_token_renewer.model import Outcome, Planned, State
from osg_token_renewer.sinks.registry import SINKS


def is_removable(planned: Planned, now: float) -> bool:
    """Whether the published token has expired, and the configuration wants it removed then."""
    return planned.spec.remove_expired and planned.expires_at is not None and planned.expires_at <= now


def remove_expired(outcome: Outcome, planned: Planned) -> Outcome:
    """Removes the published token if it failed and is removable; adds what that means for its readers.

    Only the very token that was read for the plan is removed, never one that somebody published since.
    """
    if outcome.state is not State.FAILED:
        return outcome
    now = time.time()
    consequence = outcomes.consequence(planned, now)
    if is_removable(planned, now):
        try:
            SINKS[planned.spec.sink].remove(planned.spec, planned.published)
            return outcome._replace(consequence="the expired token was removed", expires_at=None)
        except Local as error:
            consequence += f" and stays: {error.message}"
    return outcome._replace(consequence=consequence, expires_at=planned.expires_at)
