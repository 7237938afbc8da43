"""The client credentials grant (RFC 6749 section 4.4): the account's own id and secret buy its tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

from osg_token_renewer import options
from osg_token_renewer.errors import Refused, Unavailable, Unreachable, Unsuitable
from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.sources.base import Begin, Context, Fetch, Fetched, Source
from osg_token_renewer.system.secret_files import read_secret
from osg_token_renewer.text import duration, outside
from osg_token_renewer.tokens import clock_skew

if TYPE_CHECKING:
    from osg_token_renewer.net.https import Answer, Client

# Statuses below 500 and errors (RFC 6749 section 4.1.2.1) that may pass; any other the same request will meet
# again until a person changes something.
_PASSING = (408, 425, 429)
_PASSING_ERRORS = ("temporarily_unavailable", "server_error", "slow_down")
# What passes soon, it is hoped: nothing is lost when the same is asked again. 429 is for this client, the
# others for everybody.
_TOO_MANY = 429
_GATEWAY = (502, 503, 504)

# A strict issuer calls an id or secret that it cannot decode invalid_request.
_WRONG_CREDENTIALS = ("invalid_client", "invalid_request")


@dataclass(frozen=True)
class Settings:
    token_request_url: str
    client_id: str
    client_secret: Union[Secret, SecretFile]
    client_auth: str = "auto"
    ca_file: Optional[str] = None


class ClientCredentials(Source):
    NAME = "client-credentials"
    MARKER = "token_request_url"
    OPTIONS = (
        Option("token_request_url", options.endpoint, required=True),
        Option("client_id", options.text, required=True),
        Option("client_secret", options.secret),
        Option("client_secret_file", options.secret_file),
        Option("client_auth", options.choice("auto", "basic", "basic-encoded", "post"), default="auto"),
        Option("ca_file", options.absolute_path),
    )

    def settings(self, values: Mapping[str, Any]) -> Settings:
        inline, file = values["client_secret"], values["client_secret_file"]
        if (inline is None) == (file is None):
            raise ValueError(
                "needs one of client_secret and client_secret_file" + (", not both" if inline else "")
            )
        return Settings(
            values["token_request_url"],
            values["client_id"],
            inline or file,
            values["client_auth"],
            values["ca_file"],
        )

    def issuer(self, account: Account, known: Optional[str]) -> str:  # noqa: ARG002
        """The token endpoint: a host may have several issuers."""
        url: str = account.settings.token_request_url
        return url

    @contextmanager
    def session(self, account: Account, context: Context) -> Iterator[Fetch]:
        from osg_token_renewer.net.ca_bundle import CaBundles
        from osg_token_renewer.net.connection import Connections
        from osg_token_renewer.net.https import Client

        connections, bundles = context.kept.get(Connections), context.shared.get(CaBundles)
        with Client(account.settings.ca_file, account.timeout, connections, bundles) as client:
            yield _Session(account, client, context.begin).fetch


class _Session:
    def __init__(self, account: Account, client: Client, begin: Begin) -> None:
        wanted: Settings = account.settings
        self._account = account
        self._client = client
        self._begin = begin
        self._url = wanted.token_request_url
        self._id = wanted.client_id
        given = wanted.client_secret
        self._secret = given.reveal() if isinstance(given, Secret) else read_secret(given, "client secret")
        # What is left to try: the first that the issuer takes stays for the rest of the session.
        self._ways = [wanted.client_auth]
        if wanted.client_auth == "auto":
            self._ways = ["basic"]
            if any(_encoded(part) != part for part in (self._id, self._secret)):
                self._ways.append("basic-encoded")

    def fetch(self, spec: TokenSpec) -> Fetched:
        form = {"grant_type": b"client_credentials"}
        if spec.audience:
            form["audience"] = _bytes(" ".join(spec.audience))
        if spec.scope:
            form["scope"] = _bytes(" ".join(spec.scope))
        asked_at = time.time()
        answer = self._post(form)
        while len(self._ways) > 1 and _error(answer)[0] in _WRONG_CREDENTIALS:
            self._ways.pop(0)
            answer = self._post(form)
        token = self._token(answer)
        self._ways = self._ways[:1]
        return Fetched(
            Secret(token["access_token"]),
            _expiry(token.get("expires_in"), asked_at),
            clock_ahead=clock_skew.ahead_by(answer.date, answer.asked_at, answer.answered_at),
        )

    def _post(self, form: Mapping[str, bytes]) -> Answer:
        """RFC 6749 section 2.3.1, and as most programs send it: Basic without the form encoding of id and
        secret."""
        way, headers = self._ways[0], {}
        if way == "post":
            form = {**form, "client_id": _bytes(self._id), "client_secret": _bytes(self._secret)}
        else:
            headers = {"Authorization": f"Basic {self._basic(way)}"}
        with self._begin(0.0) as within:
            return self._client.post(self._url, form, headers, within)

    def _basic(self, way: str) -> str:
        import base64

        parts = [self._id, self._secret]
        if way == "basic-encoded":
            parts = [_encoded(part) for part in parts]
        return base64.b64encode(_bytes(":".join(parts))).decode("ascii")

    def _secrets(self) -> tuple[str, ...]:
        """All that was sent and that an issuer may echo."""
        return self._secret, self._basic("basic"), self._basic("basic-encoded")

    def _token(self, answer: Answer) -> dict[str, Any]:
        if answer.status == 200:
            content = _json(answer)
            if content is None:
                raise Unavailable(
                    f"the issuer's answer is not JSON ({outside(answer.content_type, limit=60) or 'no type'})"
                )
            if _holds_token(content):
                return content
            if not _error(answer)[0]:
                raise Unsuitable("the issuer's answer holds no access token")
        code, description = _error(answer)
        said = outside(": ".join(filter(None, (code, description))), hide=self._secrets())
        if 300 <= answer.status < 400:
            raise Unavailable(
                "the issuer answered with a redirect, which is not followed because it would take the secret elsewhere",
                f"check token_request_url of [account {self._account.name}]",
            )
        # Some issuers report an error with status 200.
        lasting = answer.status == 200 or (400 <= answer.status < 500 and answer.status not in _PASSING)
        if lasting and code not in _PASSING_ERRORS:
            what = f"the issuer refused the request: {said or f'HTTP status {answer.status}'}"
            raise Refused(
                what, f"check [account {self._account.name}] against the client's registration at the issuer"
            )
        what = f"the issuer answered with HTTP status {answer.status}" + (f": {said}" if said else "")
        if answer.status != _TOO_MANY and answer.status not in _GATEWAY:
            raise Unavailable(what)
        kind = Unreachable if answer.status in _GATEWAY else Unavailable
        wait = answer.retry_after or 0.0
        raise kind(
            what + (f", and wants to be left alone for {duration(wait)}" if wait else ""), retry_after=wait
        )


def _bytes(text: str) -> bytes:
    """As it stands in the configuration or its file, also where that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _encoded(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_bytes(text))


def _json(answer: Answer) -> Optional[dict[str, Any]]:
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _error(answer: Answer) -> tuple[str, str]:
    """`error` and `error_description` of RFC 6749 section 5.2, empty where the answer has none, or a
    token."""
    content = _json(answer) or {}
    if answer.status == 200 and _holds_token(content):
        return "", ""
    code, description = content.get("error"), content.get("error_description")
    return code if isinstance(code, str) else "", description if isinstance(description, str) else ""


def _holds_token(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("access_token"), str) and bool(content["access_token"])


def _expiry(expires_in: object, asked_at: float) -> Optional[float]:
    """From `expires_in`, a number of seconds (RFC 6749 section 5.1); some issuers send it as a string."""
    try:
        number = isinstance(expires_in, (int, float, str)) and not isinstance(expires_in, bool)
        seconds = float(expires_in) if number else -1.0  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    # NaN is not between anything; what is longer than 300 years is a mistake.
    return asked_at + seconds if 0 <= seconds < 10**10 else None
