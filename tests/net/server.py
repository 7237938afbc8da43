"""A real server on loopback that misbehaves as a test asks, with TLS by a CA of the tests' own."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Optional

import trustme

from osg_token_renewer.net import https

Behaviour = Callable[[socket.socket], None]

# A time limit in seconds that the server exceeds, and one that it does not.
LIMIT = 0.4
BOUND = 60.0


class Server:
    """After the TLS handshake, the current `behaviour` serves each connection; requests are recorded."""

    def __init__(self, certificate: Optional[trustme.LeafCert]) -> None:
        self.behaviour: Behaviour = self.answer(b"{}")
        self.connections = 0
        # How many of the connections are closed again.
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
            # Each connection has a time limit.
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
        """A behaviour: sends one answer and closes the connection."""
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
        """A behaviour: sends nothing."""
        self.ended.wait(BOUND)

    def hang_up(self, connection: socket.socket) -> None:
        """A behaviour: reads the request and closes the connection."""
        self.request(connection)


# Starts a server; without a certificate it speaks no TLS.
Start = Callable[[Optional[trustme.LeafCert]], Server]


def post(server: Server, ca_file: Optional[str], timeout: float = BOUND) -> https.Answer:
    with https.Client(ca_file, timeout) as client:
        return client.post(server.url, {"grant_type": b"client_credentials"}, {})


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
    """Sends drops without end, each well within the limit of one read."""

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


def answering_all(server: Server, *headers: str) -> Behaviour:
    """Answers each request of a connection until the client closes it."""
    lines = ["HTTP/1.1 200 OK", "Content-Length: 2", *headers, "", "{}"]

    def behave(connection: socket.socket) -> None:
        while server.request(connection):
            connection.sendall("\r\n".join(lines).encode())

    return behave
