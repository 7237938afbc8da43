"""An issuer's metadata: where its endpoints are."""

from __future__ import annotations

from typing import Any, Optional

from osg_token_renewer.errors import Unavailable


def discover(issuer: str, ca_file: Optional[str], timeout: float) -> dict[str, Any]:
    """The metadata of the issuer (OpenID Connect Discovery 1.0 section 4, else RFC 8414 section 3).

    `timeout` is in seconds for each request. Raises Unavailable, or Local without a CA bundle.
    """
    from osg_token_renewer.net.https import Client, host

    with Client(ca_file, timeout) as client:
        for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
            answer = client.get(issuer.rstrip("/") + path)
            if answer.status == 200 and (content := answer.read_object()) is not None:
                return content
    why = f"{host(issuer)} has no metadata of an issuer (HTTP status {answer.status})"
    raise Unavailable(why, "check the issuer's URL")
