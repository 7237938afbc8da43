"""Every source. If an account has the markers of several, the first in this order counts."""

from __future__ import annotations

from osg_token_renewer.sources.base import Source
from osg_token_renewer.sources.client_credentials import ClientCredentials
from osg_token_renewer.sources.oidc_agent.source import OidcAgent

SOURCES: dict[str, Source] = {
    source.NAME: source
    for source in (
        OidcAgent(),
        ClientCredentials(),
    )
}
