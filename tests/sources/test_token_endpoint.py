"""Requests to a token endpoint, made by client credentials: to the testbed's issuer, and to a plain server on
loopback that answers what the issuer never would."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import parse_qs

import pytest

from osg_token_renewer.engine import workers
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.errors import Failure, Local, Refused, TimedOut, Unavailable, Unreachable, Unsuitable
from osg_token_renewer.model import Account, Outcome, Secret, State, TokenSpec
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources import token_endpoint
from osg_token_renewer.sources.base import Context, Fetched
from osg_token_renewer.sources.client_credentials import ClientCredentials
from osg_token_renewer.sources.token_endpoint import TokenEndpoint
from osg_token_renewer.system.signals import Stop
from testbed import Client, Issuer
from tests.specs import file_token

# Form encoding or decoding changes each of these characters.
ODD = "p%40+s s:w&r=d/;"
SOURCE = ClientCredentials()


def account_of(
    issuer: Issuer, client: Client, *, auth: str = "auto", secret: Optional[str] = None, timeout: float = 60.0
) -> Account:
    assert client.client_secret is not None
    given = Secret(client.client_secret if secret is None else secret)
    settings = TokenEndpoint(f"{issuer.url}/token", client.client_id, given, auth, str(issuer.ca_file))
    return Account("probe", SOURCE.NAME, settings, timeout)


def spec_of(path: str = "/nowhere/token", **asked: Any) -> TokenSpec:
    return file_token("t", "probe", path, **asked)


def fetch(account: Account, spec: Optional[TokenSpec] = None) -> Fetched:
    with SOURCE.session(account, Context()) as fetch_one:
        return fetch_one(spec or spec_of())


def renew(account: Account, spec: TokenSpec) -> Outcome:
    """What a run does with this one token: it obtains, checks and publishes it."""
    (outcome,) = workers.run_lanes(
        [spec], {"probe": account}, context=Context(), limits=Limits(600.0, Stop().requested)
    )
    return outcome


@pytest.fixture
def client(issuer: Issuer) -> Client:
    return issuer.add_client()


# connections and secrets


def test_many_tokens_take_one_connection(issuer: Issuer, client: Client) -> None:
    with SOURCE.session(account_of(issuer, client), Context()) as fetch_one:
        tokens = {fetch_one(spec_of(audience=(str(number),))).text.reveal() for number in range(6)}
    counts = issuer.counts()
    assert (len(tokens), counts.token, counts.connections) == (6, 6, 1)


def test_accounts_of_an_issuer_share_one_connection_for_each_worker(issuer: Issuer, tmp_path: Path) -> None:
    accounts = {f"a{number}": account_of(issuer, issuer.add_client()) for number in range(6)}
    named = {name: replace(account, name=name) for name, account in accounts.items()}
    specs = [file_token(name, name, str(tmp_path / name)) for name in named]
    outcomes = list(
        workers.run_lanes(specs, named, context=Context(), limits=Limits(600.0, Stop().requested), workers=2)
    )
    assert [outcome.state for outcome in outcomes] == [State.RENEWED] * 6
    whose = {name: issuer.verify((tmp_path / name).read_text().strip())["client_id"] for name in named}
    assert whose == {name: account.settings.client_id for name, account in named.items()}
    assert issuer.counts().connections <= 2


def test_the_client_secret_may_come_from_a_file(issuer: Issuer, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{client.client_secret}\nthe second line is a comment\n")
    settings = TokenEndpoint(
        f"{issuer.url}/token", client.client_id, SecretFile(str(file)), ca_file=str(issuer.ca_file)
    )
    account = Account("probe", SOURCE.NAME, settings)
    assert fetch(account).text.reveal()
    file.unlink()
    with pytest.raises(Local, match=f"client secret file {file} cannot be read: No such file"):
        fetch(account)


# client authentication


@pytest.mark.parametrize(
    ("auth", "raw_basic", "requests"),
    [
        ("auto", True, 1),  # the issuer takes them unencoded
        ("auto", False, 2),  # the issuer wants them encoded, as in RFC 6749
        ("basic", True, 1),
        ("basic-encoded", False, 1),
        ("post", False, 1),
        ("post", True, 1),
    ],
)
def test_the_issuer_understands_credentials_with_special_characters(
    issuer: Issuer, auth: str, raw_basic: bool, requests: int
) -> None:
    client = issuer.add_client(client_secret=ODD)
    issuer.settings(raw_basic=raw_basic)
    assert (
        issuer.verify(fetch(account_of(issuer, client, auth=auth)).text.reveal())["client_id"]
        == client.client_id
    )
    assert issuer.counts().token == requests


@pytest.mark.parametrize(("auth", "raw_basic"), [("basic", False), ("basic-encoded", True)])
def test_only_the_configured_client_auth_is_tried(issuer: Issuer, auth: str, raw_basic: bool) -> None:
    client = issuer.add_client(client_secret=ODD)
    issuer.settings(raw_basic=raw_basic)
    with pytest.raises(Refused):
        fetch(account_of(issuer, client, auth=auth))
    assert issuer.counts().token == 1


def test_encoded_credentials_are_tried_after_a_refusal_with_status_200(issuer: Issuer) -> None:
    client = issuer.add_client(client_secret=ODD)
    issuer.fault(endpoint="token", times=1, status=200, body='{"error": "invalid_client"}')
    assert issuer.verify(fetch(account_of(issuer, client)).text.reveal())["client_id"] == client.client_id


def test_encoded_credentials_are_tried_only_if_they_differ(issuer: Issuer, client: Client) -> None:
    with pytest.raises(Refused, match="invalid_client"):
        fetch(account_of(issuer, client, secret="wrong-but-plain_1.2"))
    assert issuer.counts().token == 1
    issuer.reset_counts()
    with pytest.raises(Refused, match="invalid_client"):
        fetch(account_of(issuer, client, secret="wrong and odd"))
    assert issuer.counts().token == 2


def test_encoded_credentials_are_not_tried_after_another_error(issuer: Issuer) -> None:
    client = issuer.add_client(client_secret="a+b", scope="compute.read")
    issuer.settings(raw_basic=True)
    with pytest.raises(Refused, match="invalid_scope"):
        fetch(account_of(issuer, client), spec_of(scope=("compute.modify",)))
    assert issuer.counts().token == 1


def test_later_tokens_use_the_client_auth_that_worked(issuer: Issuer) -> None:
    client = issuer.add_client(client_secret=ODD)
    with SOURCE.session(account_of(issuer, client), Context()) as fetch_one:
        for _ in range(3):
            fetch_one(spec_of())
    assert issuer.counts().token == 4


# the issuer's answer


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (1200, 1200),
        ("1200", 1200),
        (1200.5, 1200.5),
        (None, None),
        (True, None),
        (-1, None),
        ("tomorrow", None),
        ("", None),
        ("NaN", None),
        ("Infinity", None),
        (10**400, None),
        ([3600], None),
    ],
)
def test_expires_in_is_a_number_of_seconds_or_ignored(
    issuer: Issuer, client: Client, expires_in: object, seconds: Optional[float]
) -> None:
    issuer.fault(
        endpoint="token", status=200, body=json.dumps({"access_token": "opaque", "expires_in": expires_in})
    )
    before = time.time()
    expires_at = fetch(account_of(issuer, client)).expires_at
    if seconds is None:
        assert expires_at is None
    else:
        assert expires_at is not None
        assert before + seconds <= expires_at <= time.time() + seconds


def test_expires_in_is_optional(issuer: Issuer, client: Client) -> None:
    issuer.settings(omit_expires_in=True)
    assert fetch(account_of(issuer, client)).expires_at is None


ANSWERS: list[tuple[dict[str, Any], type[Failure], str]] = [
    ({"status": 200, "body": "\x00\xff garbage"}, Unavailable, "answer is not JSON"),
    (
        {"status": 200, "body": "<html>Welcome</html>", "headers": {"Content-Type": "text/html"}},
        Unavailable,
        r"is not JSON \(text/html\)",
    ),
    ({"status": 200, "body": ""}, Unavailable, "answer is not JSON"),
    ({"status": 200, "body": '["access_token"]'}, Unavailable, "answer is not JSON"),
    ({"status": 200, "body": "[" * 100_000}, Unavailable, "answer is not JSON"),
    ({"status": 200, "body": "{}"}, Unsuitable, "holds no access token"),
    ({"status": 200, "body": '{"access_token": ""}'}, Unsuitable, "holds no access token"),
    ({"status": 200, "body": '{"access_token": ["a"]}'}, Unsuitable, "holds no access token"),
    # Some issuers report an error with status 200.
    (
        {"status": 200, "body": '{"error": "invalid_scope", "error_description": "none"}'},
        Refused,
        "the request: invalid_scope: none",
    ),
    ({"status": 200, "body": '{"error": "slow_down"}'}, Unavailable, "HTTP status 200: slow_down"),
    ({"status": 200, "body": '{"error": null}'}, Unsuitable, "holds no access token"),
    (
        {"status": 302, "body": "", "headers": {"Location": "\u00e9"}},
        Unavailable,
        "redirect, which is not followed",
    ),
    ({"status": 200, "body": " " * (1024 * 1024 + 1)}, Unavailable, "more than 1024 KiB"),
    ({"status": 500, "body": "<h1>oops</h1>"}, Unavailable, "HTTP status 500$"),
    (
        {"status": 503, "body": '{"error": "temporarily_unavailable", "error_description": "back at noon"}'},
        Unreachable,
        "503: .*back at noon",
    ),
    # Nobody here can fix a broken server, whatever its answer says.
    ({"status": 500, "body": '{"error": "invalid_grant"}'}, Unavailable, "HTTP status 500: invalid_grant"),
    (
        {"status": 302, "body": "", "headers": {"Location": "https://localhost:1/"}},
        Unavailable,
        "redirect, which is not followed",
    ),
    (
        {"status": 400, "body": '{"error": "invalid_scope", "error_description": "no such scope"}'},
        Refused,
        "invalid_scope: no such scope",
    ),
    ({"status": 401, "body": '{"error": "invalid_client"}'}, Refused, "invalid_client"),
    ({"status": 404, "body": "<h1>Not here</h1>"}, Refused, "refused the request: HTTP status 404"),
    ({"status": 403, "body": '{"error": "insufficient_trust"}'}, Refused, "insufficient_trust"),
    ({"status": 429, "body": ""}, Unavailable, "HTTP status 429"),
    (
        {"status": 400, "body": '{"error": "temporarily_unavailable"}'},
        Unavailable,
        "HTTP status 400: temporarily_unavailable",
    ),
    ({"drop": True}, Unreachable, "cannot be reached"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "message"), ANSWERS, ids=[f"{a.get('status', 'drop')}-{m}" for a, _, m in ANSWERS]
)
def test_an_answer_without_a_token_is_a_failure_that_describes_it(
    issuer: Issuer, client: Client, answer: dict[str, Any], kind: type[Failure], message: str
) -> None:
    issuer.fault(endpoint="token", **answer)
    with pytest.raises(Failure, match=message) as raised:
        fetch(account_of(issuer, client))
    assert type(raised.value) is kind
    assert str(client.client_secret) not in str(raised.value)


def test_a_failure_that_a_person_must_fix_names_the_section(issuer: Issuer, client: Client) -> None:
    with pytest.raises(Refused) as refused:
        fetch(account_of(issuer, client, secret="wrong"))
    assert refused.value.hint == "check [account probe] against the client's registration at the issuer"
    issuer.fault(endpoint="token", status=307, headers={"Location": f"{issuer.url}/elsewhere"})
    with pytest.raises(Unavailable) as redirected:
        fetch(account_of(issuer, client))
    assert redirected.value.hint == "check token_request_url of [account probe]"


def test_a_request_ends_at_the_timeout_if_the_issuer_never_answers(issuer: Issuer, client: Client) -> None:
    issuer.fault(endpoint="token", hang=True)
    with pytest.raises(TimedOut, match=r"had not answered after 0.3 s"):
        fetch(account_of(issuer, client, timeout=0.3))


def test_an_issuer_that_is_down_is_unavailable(issuer: Issuer, client: Client) -> None:
    account = account_of(issuer, client)
    issuer.pause()
    try:
        with pytest.raises(Unavailable, match=r"localhost:[0-9]+ cannot be reached: Connection refused"):
            fetch(account)
    finally:
        issuer.resume()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("line one\nline two", "more than one line or word"),
        ("two words", "more than one line or word"),
        (" \n", "empty"),
        ("tökén", "characters that a bearer token must not have"),
        ("nul\0nul", "characters that a bearer token must not have"),
        ("inner=padding=x", "characters that a bearer token must not have"),
        ("a" * (64 * 1024 + 1), "longer than"),
    ],
)
def test_text_that_is_not_a_bearer_token_is_never_published(
    issuer: Issuer, client: Client, tmp_path: Path, text: str, why: str
) -> None:
    file = tmp_path / "token"
    file.write_text("the old one\n")
    issuer.fault(endpoint="token", status=200, body=json.dumps({"access_token": text, "expires_in": 3600}))

    outcome = renew(account_of(issuer, client), spec_of(str(file)))

    assert (outcome.state, outcome.reason) == (State.FAILED, "unsuitable")
    assert why in outcome.message
    assert text.strip("\n ") == "" or text not in outcome.message
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("token", "the old one\n")]


def test_white_space_around_a_token_is_not_published(issuer: Issuer, client: Client, tmp_path: Path) -> None:
    issuer.fault(endpoint="token", status=200, body=json.dumps({"access_token": " opaque-token\r\n"}))
    assert renew(account_of(issuer, client), spec_of(str(tmp_path / "token"))).state is State.RENEWED
    assert (tmp_path / "token").read_bytes() == b"opaque-token\n"


# the issuer's text is not trusted


def test_credentials_in_the_issuers_answer_are_masked(issuer: Issuer) -> None:
    client = issuer.add_client(client_secret=ODD)
    encoded = "p%2540%2Bs+s%3Aw%26r%3Dd%2F%3B"
    header = base64.b64encode(f"{client.client_id}:{encoded}".encode()).decode()
    said = f"bad credentials {ODD}, that is {encoded} or Basic {header}, sent by you"
    issuer.fault(
        endpoint="token", status=401, body=json.dumps({"error": "invalid_client", "error_description": said})
    )
    with pytest.raises(Refused) as raised:
        fetch(account_of(issuer, client))
    assert "bad credentials ***, that is *** or Basic ***, sent by you" in str(raised.value)


def test_an_error_description_cannot_control_the_terminal(
    issuer: Issuer, client: Client, tmp_path: Path
) -> None:
    said = "\x1b[2J\x1b]0;owned\x07 go\r\naway\u202e \u2028" + "x" * 5000
    issuer.fault(
        endpoint="token", status=400, body=json.dumps({"error": "invalid_request", "error_description": said})
    )
    message = renew(account_of(issuer, client), spec_of(str(tmp_path / "token"))).message
    assert message.isprintable()
    assert "go away" in message
    assert len(message) < 400


# a plain server, for what the testbed's issuer cannot show


def _fields(form: str) -> dict[str, list[str]]:
    return parse_qs(form, errors="surrogateescape")


class _Recorded(BaseHTTPRequestHandler):
    """Records each request, and answers with `server.answer`."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.received.append(
            (self.path, self.headers.get("Authorization"), _fields(self.rfile.read(length).decode()))
        )
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        # Sends a byte now and then, and never the promised length.
        while self.server.drips and not self.server.over.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                return

    def log_message(self, *_said: object) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Recorded)
        self.received: list[tuple[str, Optional[str], dict[str, list[str]]]] = []
        self.answer: tuple[int, dict[str, str], bytes] = (
            200,
            {"Content-Type": "application/json"},
            b'{"access_token": "t"}',
        )
        self.drips = False
        self.over = threading.Event()

    def account(
        self, auth: str, timeout: float = 60.0, secret: Union[Secret, SecretFile, None] = None
    ) -> Account:
        settings = TokenEndpoint(
            f"http://127.0.0.1:{self.server_address[1]}/token", "i d", secret or Secret("s+t"), auth
        )
        return Account("probe", SOURCE.NAME, settings, timeout)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    # This machine's proxy could not reach the server.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _running() as running:
        yield running


@contextmanager
def _running() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("auth", "header", "form"),
    [
        ("auto", "i d:s+t", {}),
        ("basic", "i d:s+t", {}),
        ("basic-encoded", "i+d:s%2Bt", {}),
        ("post", None, {"client_id": ["i d"], "client_secret": ["s+t"]}),
    ],
)
def test_the_request_on_the_wire(
    server: _Server, auth: str, header: Optional[str], form: dict[str, list[str]]
) -> None:
    fetch(server.account(auth), spec_of(audience=("a", "b"), scope=("c", "d")))
    ((path, authorization, sent),) = server.received
    assert path == "/token"
    assert authorization == (
        None if header is None else "Basic " + base64.b64encode(header.encode()).decode()
    )
    assert sent == {"grant_type": ["client_credentials"], "audience": ["a b"], "scope": ["c d"], **form}


@pytest.mark.parametrize(
    ("auth", "header", "sent"),
    [
        ("auto", b"i d:s\xe9", None),
        ("basic-encoded", b"i+d:s%E9", None),
        ("post", None, "client_id=i+d&client_secret=s%E9"),
    ],
)
def test_a_secret_that_is_not_utf_8_is_sent_byte_for_byte(
    server: _Server, tmp_path: Path, auth: str, header: Optional[bytes], sent: Optional[str]
) -> None:
    (tmp_path / "secret").write_bytes(b"s\xe9\n")
    fetch(server.account(auth, secret=SecretFile(str(tmp_path / "secret"))))
    ((_, authorization, form),) = server.received
    assert authorization == (None if header is None else "Basic " + base64.b64encode(header).decode())
    assert form == _fields("grant_type=client_credentials&" + (sent or ""))


def test_credentials_do_not_follow_a_redirect(server: _Server) -> None:
    with _running() as elsewhere:
        server.answer = 307, {"Location": f"http://127.0.0.1:{elsewhere.server_address[1]}/token"}, b""
        with pytest.raises(Unavailable, match="redirect"):
            fetch(server.account("post"))
        assert (len(server.received), elsewhere.received) == (1, [])


def test_a_request_ends_at_the_timeout_if_the_answer_never_ends(server: _Server) -> None:
    server.answer = 200, {"Content-Length": "1000000"}, b"{"
    server.drips = True
    with pytest.raises(TimedOut, match=r"had not answered after 0.4 s"):
        fetch(server.account("basic", timeout=0.4))


def test_a_form_may_hold_a_secret_which_messages_mask(server: _Server) -> None:
    said = {"error": "invalid_grant", "error_description": "no such token: a-subject-token"}
    server.answer = 400, {}, json.dumps(said).encode()
    account = server.account("basic")
    with (
        token_endpoint.connect(account, account.settings, Context()) as request,
        pytest.raises(Refused, match=r"invalid_grant: no such token: \*\*\*$"),
    ):
        request(spec_of(), {"grant_type": "x", "subject_token": Secret("a-subject-token"), "resource": ""})
    ((_, _, sent),) = server.received
    assert sent == {"grant_type": ["x"], "subject_token": ["a-subject-token"]}


def test_a_redirect_names_the_option_that_says_where_the_endpoint_is(server: _Server) -> None:
    server.answer = 302, {"Location": "http://127.0.0.1:1/"}, b""
    account = server.account("basic")
    endpoint = replace(account.settings, url_option="exchange_url")
    with (
        token_endpoint.connect(account, endpoint, Context()) as request,
        pytest.raises(Unavailable) as raised,
    ):
        request(spec_of(), {"grant_type": "x"})
    assert raised.value.hint == "check exchange_url of [account probe]"
