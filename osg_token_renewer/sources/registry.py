"""Every source there is. If an account's options fit several, the first in this order is taken."""

from __future__ import annotations

from osg_token_renewer.sources.base import Source
from osg_token_renewer.sources.client_credentials import ClientCredentials
from osg_token_renewer.sources.oidc_agent.source import OidcAgent

SOURCES: dict[str, Source] = {source.NAME: source for source in (OidcAgent(), ClientCredentials())}
