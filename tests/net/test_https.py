"""Requests to an issuer that misbehaves: a real server with TLS from a CA of the tests' own, on loopback."""

from __future__ import annotations

import datetime
import email.utils
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Optional

import pytest
import trustme

from osg_token_renewer.errors import Local, TimedOut, Unavailable
from osg_token_renewer.net import connection, https
from tests.faults import apart
from tests.host import closed_port, until

Behaviour = Callable[[socket.socket], None]

# The clients' time limit where it is to be met, and the one that is not: what has ended before has not been
# waited for.
LIMIT = 0.4
BOUND = 60.0


class Server:
    """Serves each connection with the `behaviour` of that moment, after TLS; keeps what it was sent."""

    def __init__(self, certificate: Optional[trustme.LeafCert]) -> None:
        self.behaviour: Behaviour = self.answer(b"{}")
        self.connections = 0
        # How many of them were served, and closed.
        self.closed = 0
        self.requests: list[str] = []
        self.ended = threading.Event()
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"{'https' if certificate else 'http'}://localhost:{self.port}/token"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.ended.set()
        # Closing alone would not wake the thread that accepts.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            # A connection has a limit, too.
            thread.join(2 * BOUND)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection = self._listening.accept()[0]
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(BOUND)
            if self._context is None:
                self.behaviour(connection)
            else:
                with self._context.wrap_socket(connection, server_side=True) as secured:
                    self.behaviour(secured)
        self.closed += 1

    def request(self, connection: socket.socket) -> str:
        """Reads one request, a form included; empty when the client has hung up."""
        text = b""
        while b"\r\n\r\n" not in text:
            piece = connection.recv(4096)
            if not piece:
                return ""
            text += piece
        head, _, body = text.partition(b"\r\n\r\n")
        wanted = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        while len(body) < wanted:
            piece = connection.recv(4096)
            if not piece:
                return ""
            body += piece
        self.requests.append((head + b"\r\n\r\n" + body).decode())
        return self.requests[-1]

    def answer(self, body: bytes, status: str = "200 OK", *headers: str) -> Behaviour:
        """One answer, and the end of the connection."""
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            "Connection: close",
            *headers,
        ]

        def behave(connection: socket.socket) -> None:
            self.request(connection)
            connection.sendall("\r\n".join((*lines, "", "")).encode() + body)

        return behave

    def wait(self, _connection: socket.socket) -> None:
        """A behaviour: nothing at all."""
        self.ended.wait(BOUND)

    def hang_up(self, connection: socket.socket) -> None:
        """A behaviour: hears what is asked, and goes."""
        self.request(connection)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost")


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def serving() -> Iterator[Callable[[Optional[trustme.LeafCert]], Server]]:
    servers: list[Server] = []

    def start(certificate: Optional[trustme.LeafCert]) -> Server:
        servers.append(Server(certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(serving: Callable[[Optional[trustme.LeafCert]], Server], certificate: trustme.LeafCert) -> Server:
    return serving(certificate)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


def post(server: Server, ca_file: Optional[str], timeout: float = BOUND) -> https.Answer:
    with https.Client(ca_file, timeout) as client:
        return client.post(server.url, {"grant_type": b"client_credentials"}, {})


def test_an_answer_comes_as_it_is_with_its_status_and_type(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b'{"error": "invalid_client"}', "401 Unauthorized")

    got = post(server, ca_file)

    assert (got.status, got.content_type, json.loads(got.body)) == (
        401,
        "application/json",
        {"error": "invalid_client"},
    )


# Time limits


def stalled(server: Server) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        server.request(connection)
        server.ended.wait(BOUND)

    return behave


def stalled_after_the_headers(server: Server) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        server.ended.wait(BOUND)

    return behave


def dripping(beginning: bytes, drop: bytes) -> Callable[[Server], Behaviour]:
    """Each drop comes well within a limit for one read; for ever, as far as a client can tell."""

    def make(server: Server) -> Behaviour:
        def behave(connection: socket.socket) -> None:
            server.request(connection)
            connection.sendall(beginning)
            until = time.monotonic() + 2 * BOUND
            while time.monotonic() < until and not server.ended.wait(LIMIT / 5):
                connection.sendall(drop)

        return behave

    return make


DRIPPED_HEADERS = dripping(b"HTTP/1.1 200 OK\r\nX-Padding: ", b"x")
DRIPPED_BODY = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ")
DRIPPED_BODY_OF_UNKNOWN_LENGTH = dripping(b"HTTP/1.1 200 OK\r\n\r\n", b" ")
DRIPPED_CHUNKS = dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")
ENDLESS = {
    "never answers": stalled,
    "stalls after the headers": stalled_after_the_headers,
    "drips headers": DRIPPED_HEADERS,
    "drips the body": DRIPPED_BODY,
    "drips a body of unknown length": DRIPPED_BODY_OF_UNKNOWN_LENGTH,
    "drips chunks": DRIPPED_CHUNKS,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_time_limit_holds_for_an_issuer_that(server: Server, ca_file: str, kind: str) -> None:
    server.behaviour = ENDLESS[kind](server)
    began = time.monotonic()

    with pytest.raises(TimedOut, match=rf"^localhost:{server.port} had not answered after 0.4 s$"):
        post(server, ca_file, LIMIT)

    assert time.monotonic() - began < BOUND


def test_the_time_limit_holds_for_a_handshake_that_never_ends(
    serving: Callable[[Optional[trustme.LeafCert]], Server], ca_file: str
) -> None:
    server = serving(None)
    server.behaviour = server.wait
    began = time.monotonic()

    with https.Client(ca_file, LIMIT) as client, pytest.raises(TimedOut):
        client.post(server.url.replace("http:", "https:"), {}, {})

    assert time.monotonic() - began < BOUND


def test_the_time_limit_holds_without_tls_too(
    serving: Callable[[Optional[trustme.LeafCert]], Server], ca_file: str
) -> None:
    server = serving(None)
    server.behaviour = DRIPPED_HEADERS(server)
    began = time.monotonic()

    with pytest.raises(TimedOut):
        post(server, ca_file, LIMIT)

    assert time.monotonic() - began < BOUND


def test_the_time_limit_holds_through_a_proxy(
    serving: Callable[[Optional[trustme.LeafCert]], Server], ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serving(None)
    proxy.behaviour = DRIPPED_HEADERS(proxy)
    monkeypatch.setenv("http_proxy", f"http://localhost:{proxy.port}")
    began = time.monotonic()

    with https.Client(ca_file, LIMIT) as client:
        for _ in range(2):
            # Without the proxy there would be nobody of that name to wait for.
            with pytest.raises(TimedOut):
                client.post("http://issuer.invalid/token", {}, {})

    assert time.monotonic() - began < BOUND
    until(lambda: proxy.connections > 0)
    assert all(request.startswith("POST http://issuer.invalid/token ") for request in proxy.requests)


def test_an_answer_after_one_that_was_cut_off_is_read(server: Server, ca_file: str) -> None:
    server.behaviour = DRIPPED_BODY(server)
    with https.Client(ca_file, BOUND) as client:
        with pytest.raises(TimedOut):
            client.post(server.url, {}, {}, LIMIT)
        server.behaviour = server.answer(b'{"second": true}')
        assert client.post(server.url, {}, {}).body == b'{"second": true}'


# The resolver would wait for more than that.
RESOLVER = 60.0


def test_the_time_limit_holds_for_a_name_server_that_never_answers_which_all_wait_for_together(
    ca_file: str,
) -> None:
    def body() -> None:
        said = []

        def ask() -> None:
            with https.Client(ca_file, LIMIT) as client, pytest.raises(TimedOut) as failure:
                client.post("https://issuer.example.org/token", {}, {})
            said.append((failure.value.message, failure.value.hint))

        began = time.monotonic()
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        hint = "see that this host's name servers answer: /etc/resolv.conf"
        assert said == [("the name issuer.example.org was not resolved after 0.4 s", hint)] * 5
        assert [thread.name for thread in threading.enumerate() if thread.daemon] == [
            "look up issuer.example.org"
        ]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("https_proxy", "http://proxy.example.org:3128")
            with (
                https.Client(ca_file, LIMIT) as client,
                pytest.raises(TimedOut, match=r"^the name proxy\.example\.org was not resolved"),
            ):
                client.post("https://issuer.example.org/token", {}, {})
        assert time.monotonic() - began < RESOLVER

    apart(body, silent_names=True)


def test_each_address_of_a_name_is_tried(
    server: Server, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of localhost, where nobody listens at the first one. A name is asked for anew each time."""
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(name: str, *arguments: object, **options: object) -> object:
        if name == "localhost" and not options:
            asked.append(name)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, server.port))
                for address in ("127.0.0.9", "127.0.0.1")
            ]
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert [post(server, ca_file).status for _ in range(2)] == [200, 200]
    assert asked == ["localhost", "localhost"]


# Answers that are not taken


@pytest.mark.parametrize("framing", ["Content-Length: 2097152", "X-Length: unknown"])
def test_a_huge_answer_is_not_read_to_its_end(server: Server, ca_file: str, framing: str) -> None:
    sent = []

    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        for _ in range(32):
            connection.sendall(b" " * 64 * 1024)
            sent.append(64)

    server.behaviour = behave
    with pytest.raises(Unavailable, match="sent more than 1024 KiB instead of a token"):
        post(server, ca_file)
    assert len(sent) >= 16


def test_an_answer_of_just_the_limit_is_read(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b"x" * https.MAX_ANSWER)
    assert len(post(server, ca_file).body) == https.MAX_ANSWER


def test_an_issuer_that_hangs_up_is_unavailable(server: Server, ca_file: str) -> None:
    server.behaviour = server.hang_up

    with pytest.raises(Unavailable, match=f"^localhost:{server.port} cannot be reached: ") as failure:
        post(server, ca_file)

    assert not isinstance(failure.value, TimedOut)


def test_what_is_not_http_is_unavailable(server: Server, ca_file: str) -> None:
    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"220 mail.example.org ESMTP\r\n\x1b[31m\r\n")

    server.behaviour = behave
    with pytest.raises(Unavailable, match=f"localhost:{server.port}") as failure:
        post(server, ca_file)
    assert failure.value.message.isprintable()


def test_a_redirect_is_returned_and_not_followed(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b"", "302 Found", f"Location: {server.url}/elsewhere")

    got = post(server, ca_file)

    assert (got.status, got.location) == (302, f"{server.url}/elsewhere")
    assert server.connections == 1


def test_a_refused_connection_names_its_reason(ca_file: str) -> None:
    with closed_port() as port, https.Client(ca_file, BOUND) as client, pytest.raises(Unavailable) as failure:
        client.post(f"https://user:password@localhost:{port}/token?secret", {}, {})
    assert failure.value.message == f"localhost:{port} cannot be reached: Connection refused"


def test_a_name_that_does_not_exist_is_unavailable(ca_file: str) -> None:
    with (
        https.Client(ca_file, BOUND) as client,
        pytest.raises(Unavailable, match=r"^issuer\.invalid cannot be reached: "),
    ):
        client.post("https://issuer.invalid/token", {}, {})


# Trust

NOT_VERIFIED = "certificate verify failed: "


def test_a_certificate_of_another_authority_is_not_accepted(server: Server, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(
        Unavailable, match=f"^no TLS connection to localhost:{server.port}: {NOT_VERIFIED}"
    ) as failure:
        post(server, str(tmp_path / "other.pem"))
    # Only the reason itself, without the exceptions around it.
    assert re.fullmatch(
        r"no TLS connection to [\w:]+: certificate verify failed: [\w -]+", failure.value.message
    )
    assert failure.value.hint is not None
    assert "ca_file in the account's section" in failure.value.hint
    assert server.requests == []


@pytest.mark.parametrize("names", [["issuer.example.org"], ["127.0.0.1"]])
def test_a_certificate_for_another_name_is_not_accepted(
    serving: Callable[[Optional[trustme.LeafCert]], Server],
    authority: trustme.CA,
    ca_file: str,
    names: list[str],
) -> None:
    server = serving(authority.issue_cert(*names))
    with pytest.raises(Unavailable, match=f"{NOT_VERIFIED}.*localhost"):
        post(server, ca_file)
    assert server.requests == []


def test_an_expired_certificate_is_not_accepted(
    serving: Callable[[Optional[trustme.LeafCert]], Server], authority: trustme.CA, ca_file: str
) -> None:
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    server = serving(
        authority.issue_cert(
            "localhost", not_before=yesterday - datetime.timedelta(days=1), not_after=yesterday
        )
    )
    with pytest.raises(Unavailable, match=f"{NOT_VERIFIED}certificate has expired$") as failure:
        post(server, ca_file)
    assert (
        failure.value.hint
        == "see that this host's clock is right: timedatectl; if it is, tell the issuer's operators"
    )
    assert server.requests == []


def test_ca_file_comes_before_ssl_cert_file_before_requests_ca_bundle_before_the_system(
    server: Server, ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(str(wrong))
    tried = []
    for given, ssl_cert_file, requests_ca_bundle in (
        (ca_file, wrong, wrong),
        (None, ca_file, wrong),
        (None, "", ca_file),
        (None, wrong, ca_file),
        (None, "", ""),
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(ssl_cert_file))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(requests_ca_bundle))
        try:
            tried.append(post(server, given).status)
        except Unavailable as failure:
            tried.append(NOT_VERIFIED in failure.message)
    assert tried == [200, 200, 200, True, True]


def test_a_ca_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Local, match=f"^the CA bundle {tmp_path}/none.pem cannot be read"):
        https.Client(f"{tmp_path}/none.pem", BOUND)


@pytest.mark.parametrize(
    "content", ["", "no certificate\n", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_bundle_without_a_certificate_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "garbage.pem").write_text(content)
    with pytest.raises(
        Local, match=f"^the CA bundle {tmp_path}/garbage.pem holds no certificate that can be read$"
    ):
        https.Client(f"{tmp_path}/garbage.pem", BOUND)


def test_a_server_that_speaks_no_tls_is_unavailable(
    serving: Callable[[Optional[trustme.LeafCert]], Server], ca_file: str
) -> None:
    server = serving(None)
    server.behaviour = lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with https.Client(ca_file, BOUND) as client, pytest.raises(Unavailable) as failure:
        client.post(server.url.replace("http:", "https:"), {}, {})
    assert failure.value.message.startswith(f"no TLS connection to localhost:{server.port}: ")
    assert "Max retries" not in failure.value.message


# What the environment must not add, and connections


def test_credentials_of_a_netrc_file_are_not_sent(
    server: Server, ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine localhost login somebody password netrc-password\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))

    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server.behaviour = behave
    post(server, ca_file)

    assert len(server.requests) == 1
    assert "authorization" not in server.requests[0].lower()


def test_several_requests_share_one_connection_that_ends_with_the_session(
    server: Server, ca_file: str
) -> None:
    hung_up = threading.Event()

    def behave(connection: socket.socket) -> None:
        while server.request(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        hung_up.set()

    server.behaviour = behave
    with https.Client(ca_file, BOUND) as client:
        for number in range(3):
            assert (
                client.post(server.url, {"number": str(number).encode()}, {"X-Own": "header"}).body == b"{}"
            )

        assert not hung_up.is_set()
    assert hung_up.wait(BOUND)
    assert server.connections == 1
    assert [request.splitlines()[-1] for request in server.requests] == ["number=0", "number=1", "number=2"]
    assert all("x-own: header" in request.lower() for request in server.requests)


def test_a_connection_that_the_issuer_closed_meanwhile_is_replaced(server: Server, ca_file: str) -> None:
    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server.behaviour = behave
    with https.Client(ca_file, BOUND) as client:
        for number in (1, 2):
            assert client.post(server.url, {}, {}).status == 200
            until(lambda number=number: server.closed == number)  # type: ignore[misc]
    assert server.connections == 2


def answers_on_and_on(server: Server, *headers: str) -> Behaviour:
    """As long as the client stays."""
    lines = ["HTTP/1.1 200 OK", "Content-Length: 2", *headers, "", "{}"]

    def behave(connection: socket.socket) -> None:
        while server.request(connection):
            connection.sendall("\r\n".join(lines).encode())

    return behave


def test_clients_share_connections_and_nothing_else(server: Server, ca_file: str) -> None:
    server.behaviour = answers_on_and_on(server, "Set-Cookie: balancer=7; Path=/")
    with connection.Connections() as connections:
        for name in ("one", "two"):
            with https.Client(ca_file, BOUND, connections) as client:
                client.post(server.url, {"from": name.encode()}, {"Authorization": f"Basic {name}"})
                client.post(server.url, {"from": name.encode()}, {})
        assert server.closed == 0
    until(lambda: server.closed == 1)
    assert server.connections == 1
    assert ["authorization: basic one" in request.lower() for request in server.requests] == [
        True,
        False,
        False,
        False,
    ]
    assert ["authorization: basic two" in request.lower() for request in server.requests] == [
        False,
        False,
        True,
        False,
    ]
    assert not any("cookie" in request.lower() for request in server.requests)


def test_a_connection_is_shared_only_by_who_trusts_the_same_authorities(
    server: Server, ca_file: str, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    server.behaviour = answers_on_and_on(server)
    with connection.Connections() as connections:
        with https.Client(ca_file, BOUND, connections) as client:
            client.post(server.url, {}, {})
        with (
            https.Client(str(tmp_path / "other.pem"), BOUND, connections) as client,
            pytest.raises(Unavailable, match=NOT_VERIFIED),
        ):
            client.post(server.url, {}, {})
    assert len(server.requests) == 1


def test_connections_to_too_many_issuers_are_not_kept(
    serving: Callable[[Optional[trustme.LeafCert]], Server], ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_KEPT", 2)
    servers = [serving(None) for _ in range(3)]
    with connection.Connections() as connections:
        for server in (*servers, servers[2], servers[1]):
            server.behaviour = answers_on_and_on(server)
            with https.Client(ca_file, BOUND, connections) as client:
                client.post(server.url, {}, {})
        until(lambda: servers[0].closed == 1)
        assert [server.closed for server in servers] == [1, 0, 0]
    assert [server.connections for server in servers] == [1, 1, 1]


def test_a_ca_bundle_is_read_once(server: Server, ca_file: str) -> None:
    """A system's bundle costs more to read than all the rest of a request."""
    assert post(server, ca_file).status == 200
    trustme.CA().cert_pem.write_to_path(ca_file)
    assert post(server, ca_file).status == 200
    assert server.connections == 2


# What an answer says of time


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Retry-After: 7", 7),
        ("Retry-After: 0", 0),
        # A date is on the clock of the issuer, which may be wrong, as is this one here.
        ("Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", 30),
        ("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Retry-After: soon", None),
        ("Retry-After: -1", None),
        ("Retry-After: 9999999999", https.LONGEST_PAUSE),
        ("Retry-After: " + "9" * 5000, https.LONGEST_PAUSE),
        ("X-Nothing: 1", None),
    ],
)
def test_when_an_issuer_wants_to_be_asked_again_is_read_in_both_forms(
    server: Server, ca_file: str, said: str, seconds: Optional[float]
) -> None:
    server.behaviour = server.answer(b"", "503 Service Unavailable", *said.split("\r\n"))
    assert post(server, ca_file).retry_after == seconds


@pytest.mark.parametrize("ahead", [3600, -3600, 0])
def test_the_issuers_clock_is_compared_with_this_one(server: Server, ca_file: str, ahead: int) -> None:
    def behave(connection: socket.socket) -> None:
        # Between the question and the answer, or it would be another clock than it says.
        date = email.utils.formatdate(time.time() + ahead, usegmt=True)
        server.answer(b"", "200 OK", f"Date: {date}")(connection)

    server.behaviour = behave
    found = post(server, ca_file).clock_ahead
    assert found is not None
    # As far as the time that the answer took leaves no doubt.
    assert abs(found) <= abs(ahead)
    assert abs(found - ahead) < BOUND


@pytest.mark.parametrize(
    "said", ["X-Nothing: 1", "Date: yesterday", "Date: Sun, 99 Nov 1994 08:49:37 GMT", "Date: "]
)
def test_an_answer_without_a_date_says_nothing_of_the_clock(server: Server, ca_file: str, said: str) -> None:
    server.behaviour = server.answer(b"", "200 OK", said)
    assert post(server, ca_file).clock_ahead is None


def test_a_request_may_have_less_time_than_its_client(server: Server, ca_file: str) -> None:
    server.behaviour = stalled(server)
    with (
        https.Client(ca_file, BOUND) as client,
        pytest.raises(TimedOut, match=r"had not answered after 0\.4 s"),
    ):
        client.post(server.url, {}, {}, LIMIT)
