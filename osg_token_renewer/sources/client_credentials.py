"""The client credentials grant (RFC 6749 section 4.4): a client obtains tokens with its own id and secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

from osg_token_renewer import options
from osg_token_renewer.model import Account
from osg_token_renewer.options import Option
from osg_token_renewer.sources import token_endpoint
from osg_token_renewer.sources.base import Context, Fetch, Source
from osg_token_renewer.sources.token_endpoint import TokenEndpoint


class ClientCredentials(Source):
    """Accounts whose settings are a TokenEndpoint."""

    NAME = "client-credentials"
    MARKER = "token_request_url"
    OPTIONS = (Option("token_request_url", options.endpoint, required=True), *token_endpoint.OPTIONS)

    def settings(self, values: Mapping[str, Any]) -> TokenEndpoint:
        return token_endpoint.read_options(values)

    def issuer(self, account: Account, known: Optional[str]) -> str:  # noqa: ARG002
        """Without the option, the token endpoint: the tokens may name an issuer on another host."""
        url: str = account.issuer or account.settings.url
        return url

    @contextmanager
    def session(self, account: Account, context: Context) -> Iterator[Fetch]:
        with token_endpoint.connect(account, account.settings, context) as request:
            yield lambda spec: request(spec, {"grant_type": "client_credentials"})
