"""Every source there is. Where an account's options would fit several, the first in this order is taken."""

from __future__ import annotations

from osg_token_renewer.sources import client_credentials, oidc_agent
from osg_token_renewer.sources.base import Source

SOURCES: dict[str, Source] = {
    oidc_agent.NAME: oidc_agent,
    client_credentials.NAME: client_credentials,
}
