"""An issuer's metadata: where its endpoints are."""

from __future__ import annotations

import json
from typing import Any, Optional

from osg_token_renewer.errors import Unavailable


def discover(issuer: str, ca_file: Optional[str], timeout: float) -> dict[str, Any]:
    """The issuer's metadata (OpenID Connect Discovery 1.0 section 4, else RFC 8414 section 3); raises
    Unavailable."""
    from osg_token_renewer.net.https import Client as HttpClient
    from osg_token_renewer.net.https import host

    base = issuer.rstrip("/")
    status = 0
    with HttpClient(ca_file, timeout) as http:
        for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
            answer = http.get(base + path)
            status = answer.status
            try:
                content = json.loads(answer.body) if status == 200 else None
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict):
                return content
    raise Unavailable(
        f"{host(issuer)} has no metadata of an issuer (HTTP status {status})", "check the issuer's URL"
    )
