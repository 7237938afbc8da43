"""The removal of expired tokens that could not be renewed: `on_expiry = remove`."""

from __future__ import annotations

from osg_token_renewer.model import Planned
from osg_token_renewer.sinks.registry import SINKS


def is_removable(planned: Planned, now: float) -> bool:
    """Whether the published token has expired, and the configuration wants it removed then."""
    return planned.spec.remove_expired and planned.expires_at is not None and planned.expires_at <= now


def remove_expired(planned: Planned, now: float) -> bool:
    """Removes the published token if it is removable; returns whether it did. Raises Local if it cannot.

    Only the very token that was read for the plan is removed, never one that somebody published since.
    """
    removable = is_removable(planned, now)
    if removable:
        SINKS[planned.spec.sink].remove(planned.spec, planned.published)
    return removable
