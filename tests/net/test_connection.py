"""Connections: each request ends at its deadline, and a connection is used again."""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from osg_token_renewer.errors import TimedOut, Unavailable
from osg_token_renewer.net import connection, https
from tests.host import until
from tests.net.server import (
    BOUND,
    DRIPPED_BODY,
    DRIPPED_HEADERS,
    ENDLESS,
    LIMIT,
    Behaviour,
    Server,
    Start,
    answering_all,
    dripping,
    post,
    stalled,
)


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_time_limit_holds_for_an_issuer_that(server: Server, ca_file: str, kind: str) -> None:
    server.behaviour = ENDLESS[kind](server)
    began = time.monotonic()

    with pytest.raises(TimedOut, match=rf"^localhost:{server.port} had not answered after 0.4 s$"):
        post(server, ca_file, LIMIT)

    assert time.monotonic() - began < BOUND


def test_the_time_limit_holds_for_a_handshake_that_never_ends(serving: Start, ca_file: str) -> None:
    server = serving(None)
    server.behaviour = server.wait
    began = time.monotonic()

    with https.Client(ca_file, LIMIT) as client, pytest.raises(TimedOut):
        client.post(server.url.replace("http:", "https:"), {}, {})

    assert time.monotonic() - began < BOUND


def test_the_time_limit_holds_without_tls(serving: Start, ca_file: str) -> None:
    server = serving(None)
    server.behaviour = DRIPPED_HEADERS(server)
    began = time.monotonic()

    with pytest.raises(TimedOut):
        post(server, ca_file, LIMIT)

    assert time.monotonic() - began < BOUND


def test_the_time_limit_holds_through_a_proxy(
    serving: Start, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serving(None)
    proxy.behaviour = DRIPPED_HEADERS(proxy)
    monkeypatch.setenv("http_proxy", f"http://localhost:{proxy.port}")
    began = time.monotonic()

    with https.Client(ca_file, LIMIT) as client:
        for _ in range(2):
            # Only the proxy can be waited for: the name does not exist.
            with pytest.raises(TimedOut):
                client.post("http://issuer.invalid/token", {}, {})

    assert time.monotonic() - began < BOUND
    until(lambda: proxy.connections > 0)
    assert all(request.startswith("POST http://issuer.invalid/token ") for request in proxy.requests)


def test_the_time_limit_holds_for_a_proxy_that_drips_before_tls(
    serving: Start, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serving(None)
    proxy.behaviour = dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")(proxy)
    monkeypatch.setenv("https_proxy", f"http://localhost:{proxy.port}")
    began = time.monotonic()

    with https.Client(ca_file, LIMIT) as client, pytest.raises(TimedOut):
        client.post("https://issuer.invalid/token", {}, {})

    assert time.monotonic() - began < BOUND
    assert re.match(r"CONNECT issuer\.invalid:443 ", proxy.requests[0])


def test_a_proxy_that_speaks_tls_is_verified_with_the_same_bundle(
    serving: Start,
    certificate: trustme.LeafCert,
    server: Server,
    ca_file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = serving(certificate)
    proxy.behaviour = tunnel(proxy, server)
    monkeypatch.setenv("https_proxy", f"https://localhost:{proxy.port}")
    assert post(server, ca_file).body == b"{}"

    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        post(server, str(tmp_path / "other.pem"))
    assert (len(proxy.requests), len(server.requests)) == (1, 1)


def tunnel(proxy: Server, server: Server) -> Behaviour:
    """Passes bytes on between the client and the server (RFC 9110 section 9.3.6)."""

    def behave(client: socket.socket) -> None:
        proxy.request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(("127.0.0.1", server.port), BOUND) as onward:
            # In one thread: OpenSSL does not allow two to use a connection at the same time.
            ends = {client: onward, onward: client}
            with suppress(OSError):
                while True:
                    buffered = isinstance(client, ssl.SSLSocket) and client.pending()
                    ready = [client] if buffered else select.select(list(ends), [], [], BOUND)[0]
                    for end in ready:
                        piece = end.recv(4096)
                        if not piece:
                            return
                        ends[end].sendall(piece)

    return behave


def test_an_answer_after_one_that_was_cut_off_is_read(server: Server, ca_file: str) -> None:
    server.behaviour = DRIPPED_BODY(server)
    with https.Client(ca_file, BOUND) as client:
        with pytest.raises(TimedOut):
            client.post(server.url, {}, {}, LIMIT)
        server.behaviour = server.answer(b'{"second": true}')
        assert client.post(server.url, {}, {}).body == b'{"second": true}'


def test_a_request_may_have_a_shorter_limit_than_its_client(server: Server, ca_file: str) -> None:
    server.behaviour = stalled(server)
    with (
        https.Client(ca_file, BOUND) as client,
        pytest.raises(TimedOut, match=r"had not answered after 0\.4 s"),
    ):
        client.post(server.url, {}, {}, LIMIT)


# Connections that are kept


def test_several_requests_share_one_connection_that_ends_with_the_client(
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


def test_a_connection_that_the_issuer_closed_is_replaced(server: Server, ca_file: str) -> None:
    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server.behaviour = behave
    with https.Client(ca_file, BOUND) as client:
        for number in (1, 2):
            assert client.post(server.url, {}, {}).status == 200
            until(lambda number=number: server.closed == number)  # type: ignore[misc]
    assert server.connections == 2


def test_clients_share_connections_and_nothing_else(server: Server, ca_file: str) -> None:
    server.behaviour = answering_all(server, "Set-Cookie: balancer=7; Path=/")
    with connection.ConnectionPool() as connections:
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


def test_clients_that_trust_different_authorities_have_different_connections(
    server: Server, ca_file: str, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    server.behaviour = answering_all(server)
    with connection.ConnectionPool() as connections:
        with https.Client(ca_file, BOUND, connections) as client:
            client.post(server.url, {}, {})
        with (
            https.Client(str(tmp_path / "other.pem"), BOUND, connections) as client,
            pytest.raises(Unavailable, match="certificate verify failed: "),
        ):
            client.post(server.url, {}, {})
    assert len(server.requests) == 1


def test_only_the_latest_connections_are_kept(
    serving: Start, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_KEPT", 2)
    servers = [serving(None) for _ in range(3)]
    with connection.ConnectionPool() as connections:
        for server in (*servers, servers[2], servers[1]):
            server.behaviour = answering_all(server)
            with https.Client(ca_file, BOUND, connections) as client:
                client.post(server.url, {}, {})
        until(lambda: servers[0].closed == 1)
        assert [server.closed for server in servers] == [1, 0, 0]
    assert [server.connections for server in servers] == [1, 1, 1]
