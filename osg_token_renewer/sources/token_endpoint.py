"""Requests to a token endpoint (RFC 6749 section 3.2): client authentication, and what the answer means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

from osg_token_renewer import options
from osg_token_renewer.errors import Failure, Refused, Unavailable, Unreachable, Unsuitable
from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.sources.base import Begin, Context, Fetched
from osg_token_renewer.system.secret_files import read_secret
from osg_token_renewer.text import duration, outside
from osg_token_renewer.tokens import clock_skew

if TYPE_CHECKING:
    from osg_token_renewer.net.https import Answer, Client

# The client's options, for the OPTIONS of a source.
OPTIONS = (
    Option("client_id", options.text, required=True),
    Option("client_secret", options.secret),
    Option("client_secret_file", options.secret_file),
    Option("client_auth", options.choice("auto", "basic", "basic-encoded", "post"), default="auto"),
    Option("ca_file", options.absolute_path),
)

# Statuses below 500, and errors (RFC 6749 section 4.1.2.1), that pass without anybody's help.
_PASSING = (408, 425, 429)
_PASSING_ERRORS = ("temporarily_unavailable", "server_error", "slow_down")
# The same request may succeed within the run. 429 is about this client, a gateway's status about everybody.
_GATEWAY = (502, 503, 504)
# A strict issuer answers invalid_request to an id or secret that it cannot decode.
_WRONG_CREDENTIALS = ("invalid_client", "invalid_request")

Form = Mapping[str, Union[str, Secret]]
# Obtains a token; the form's parameters are those that the grant needs besides `audience` and `scope`.
Request = Callable[[TokenSpec, Form], Fetched]


@dataclass(frozen=True)
class TokenEndpoint:
    """Where an account requests its tokens, and as which client."""

    url: str
    client_id: str
    client_secret: Union[Secret, SecretFile]
    client_auth: str = "auto"
    ca_file: Optional[str] = None
    # The option that says where the endpoint is.
    url_option: str = "token_request_url"


def read_options(values: Mapping[str, Any], url_option: str = "token_request_url") -> TokenEndpoint:
    """The endpoint at the URL of an option, for the client of the parsed OPTIONS; raises ValueError."""
    inline, file = values["client_secret"], values["client_secret_file"]
    if (inline is None) == (file is None):
        not_both = ", not both" if inline else ""
        raise ValueError(f"needs one of client_secret and client_secret_file{not_both}")
    client = values["client_id"], inline or file, values["client_auth"], values["ca_file"]
    return TokenEndpoint(values[url_option], *client, url_option)


@contextmanager
def connect(account: Account, endpoint: TokenEndpoint, context: Context) -> Iterator[Request]:
    """Yields a function that requests tokens; both raise a Failure.

    Each Secret of a form is masked in messages, as are the client's credentials: an issuer may echo them.
    """
    from osg_token_renewer.net.ca_bundle import CaBundleCache
    from osg_token_renewer.net.connection import ConnectionPool
    from osg_token_renewer.net.https import Client

    connections, bundles = context.kept.get(ConnectionPool), context.shared.get(CaBundleCache)
    with Client(endpoint.ca_file, account.timeout, connections, bundles) as client:
        yield _Requests(account, endpoint, client, context.begin).fetch


class _Requests:
    """The requests of one session. The first way to authenticate that the issuer accepts is kept."""

    def __init__(self, account: Account, endpoint: TokenEndpoint, client: Client, begin: Begin) -> None:
        self._account = account
        self._endpoint = endpoint
        self._client = client
        self._begin = begin
        given = endpoint.client_secret
        self._secret = given.reveal() if isinstance(given, Secret) else read_secret(given, "client secret")
        self._ways = [endpoint.client_auth]
        if endpoint.client_auth == "auto":
            differs = any(_encode(part) != part for part in (endpoint.client_id, self._secret))
            self._ways = ["basic", "basic-encoded"] if differs else ["basic"]

    def fetch(self, spec: TokenSpec, form: Form) -> Fetched:
        form = {**form, "audience": " ".join(spec.audience), "scope": " ".join(spec.scope)}
        answer = self._post(form)
        while len(self._ways) > 1 and _read_error(answer)[0] in _WRONG_CREDENTIALS:
            self._ways.pop(0)
            answer = self._post(form)
        token = _read_token(answer)
        if not token:
            raise self._explain(answer, form)
        self._ways = self._ways[:1]
        clock_ahead = clock_skew.ahead_by(answer.date, answer.asked_at, answer.answered_at)
        return Fetched(Secret(token), _read_expiry(answer), clock_ahead=clock_ahead)

    def _post(self, form: Form) -> Answer:
        """Authenticates by RFC 6749 section 2.3.1; `basic` omits its form encoding, as most programs do."""
        way, headers = self._ways[0], {}
        if way == "post":
            form = {**form, "client_id": self._endpoint.client_id, "client_secret": self._secret}
        else:
            headers = {"Authorization": f"Basic {self._credentials(way)}"}
        sent = {name: _bytes(value) for name, value in form.items() if value}
        with self._begin(0.0) as seconds:
            return self._client.post(self._endpoint.url, sent, headers, seconds)

    def _credentials(self, way: str) -> str:
        import base64

        parts = [self._endpoint.client_id, self._secret]
        if way == "basic-encoded":
            parts = [_encode(part) for part in parts]
        return base64.b64encode(_bytes(":".join(parts))).decode("ascii")

    def _explain(self, answer: Answer, form: Form) -> Failure:
        """Why the answer holds no token."""
        status, (code, description) = answer.status, _read_error(answer)
        if status == 200 and answer.read_object() is None:
            kind = outside(answer.content_type, limit=60) or "no type"
            return Unavailable(f"the issuer's answer is not JSON ({kind})")
        if status == 200 and not code:
            return Unsuitable("the issuer's answer holds no access token")
        section = f"[account {self._account.name}]"
        if 300 <= status < 400:
            return Unavailable(
                "the issuer answered with a redirect, which is not followed because it would take the secret "
                "elsewhere",
                f"check {self._endpoint.url_option} of {section}",
            )
        secrets = [self._secret, self._credentials("basic"), self._credentials("basic-encoded")]
        secrets += [value.reveal() for value in form.values() if isinstance(value, Secret)]
        said = outside(": ".join(filter(None, (code, description))), hide=secrets)
        # Some issuers report an error with status 200.
        lasting = status == 200 or (400 <= status < 500 and status not in _PASSING)
        if lasting and code not in _PASSING_ERRORS:
            return Refused(
                f"the issuer refused the request: {said or f'HTTP status {status}'}",
                f"check {section} against the client's registration at the issuer",
            )
        return _explain_pause(answer, said)


def _explain_pause(answer: Answer, said: str) -> Failure:
    """The failure of a request that may succeed later."""
    what = f"the issuer answered with HTTP status {answer.status}" + (f": {said}" if said else "")
    if answer.status not in (429, *_GATEWAY):
        return Unavailable(what)
    wait = answer.retry_after or 0.0
    if wait:
        what += f", and asks for a pause of {duration(wait)}"
    return (Unreachable if answer.status in _GATEWAY else Unavailable)(what, retry_after=wait)


def _bytes(value: Union[str, Secret]) -> bytes:
    """The bytes in the configuration or its file, even if they are not UTF-8."""
    text = value.reveal() if isinstance(value, Secret) else value
    return text.encode("utf-8", "surrogateescape")


def _encode(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_bytes(text))


def _read_token(answer: Answer) -> str:
    """The access token (RFC 6749 section 5.1); empty if there is none."""
    token = (answer.read_object() or {}).get("access_token") if answer.status == 200 else None
    return token if isinstance(token, str) else ""


def _read_error(answer: Answer) -> tuple[str, str]:
    """`error` and `error_description` (RFC 6749 section 5.2); empty if absent, or if there is a token."""
    content = {} if _read_token(answer) else answer.read_object() or {}
    code, description = content.get("error"), content.get("error_description")
    return code if isinstance(code, str) else "", description if isinstance(description, str) else ""


def _read_expiry(answer: Answer) -> Optional[float]:
    """`expires_in` (RFC 6749 section 5.1; some issuers send a string) as seconds since 1970."""
    try:
        # As a text, so that neither True nor null is a number.
        seconds = float(str((answer.read_object() or {}).get("expires_in")))
    except ValueError:
        return None
    # NaN compares false; more than 300 years is a mistake.
    return answer.asked_at + seconds if 0 <= seconds < 10**10 else None
