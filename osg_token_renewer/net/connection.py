"""Keep-alive connections to issuers: each request on them ends at its deadline.

The limits of requests are not enough: they are for each read, so that a peer can drip for ever, and name
look-ups have none.
"""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.connection
import urllib3.exceptions

from osg_token_renewer.errors import TimedOut
from osg_token_renewer.net.ca_bundle import CaBundle
from osg_token_renewer.net.resolver import find_addresses
from osg_token_renewer.text import outside, seconds

# To how many issuers a thread keeps connections: threads may be many, and open files have a limit.
MOST_KEPT = 10


class ConnectionPool(AbstractContextManager["ConnectionPool"]):
    """The keep-alive connections of one thread. They belong to no account: requests carry credentials."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], Connection] = {}

    def __exit__(self, *error: object) -> None:
        for each in self._kept.values():
            each.close()
        self._kept.clear()

    def to(self, url: str, bundle: CaBundle) -> Connection:
        """The connection to the server of `url`, shared only by Clients that trust the same `bundle`."""
        scheme, server = urlsplit(url)[:2]
        key = bundle.path, scheme, server
        connection = self._kept.pop(key, None) or Connection(bundle)
        # The last key is the one that was used last.
        self._kept[key] = connection
        if len(self._kept) > MOST_KEPT:
            self._kept.pop(next(iter(self._kept))).close()
        return connection


class Connection(requests.adapters.HTTPAdapter):
    """A connection to one issuer, for one request at a time."""

    def __init__(self, bundle: CaBundle) -> None:
        self._bundle = bundle
        self._deadline, self._timeout = 0.0, 0.0
        # The newest socket. urllib3 may have handed it over to the answer, so it is kept here.
        self._socket: Any = None
        super().__init__()

    @contextmanager
    def cut_at(self, deadline: float, timeout: float) -> Iterator[None]:
        """Ends the request in this context at `deadline` (time.monotonic()); messages show `timeout` (s)."""
        self._deadline, self._timeout = deadline, timeout
        done = threading.Event()

        def cut() -> None:
            left = deadline - time.monotonic()
            while not done.wait(max(0.0, left)):
                left = 1.0  # A request that was still connecting may have a socket by then.
                # OSError: it is closed; TypeError: no socket, or TLS within a proxy's TLS.
                with suppress(OSError, TypeError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

        watch = threading.Thread(target=cut, name="deadline", daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """requests calls this with the pool of each request; the pool will make connections of our class."""
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
        if "ConnectionCls" not in vars(conn):
            conn.ConnectionCls = self._bounded(conn.ConnectionCls)

    def _bounded(self, kind: Any) -> Any:
        """A connection class of urllib3, that uses our name look-ups and trust, and shows us its sockets."""
        owner = self

        class Bounded(kind):  # type: ignore[misc]
            def connect(self) -> None:
                # A proxy that speaks TLS needs the bundle too: urllib3 then loads it for both.
                secure = isinstance(self, urllib3.connection.HTTPSConnection)
                if secure and getattr(self.proxy, "scheme", None) != "https":
                    self.ssl_context, self.ca_certs, self.ca_cert_dir = owner._bundle.context(), None, None
                super().connect()
                owner._socket = self.sock

            def _new_conn(self) -> Any:
                # A SOCKS proxy may be the one to resolve names.
                proxy_resolves, connect = hasattr(self, "_socks_options"), super()._new_conn
                owner._socket = connect() if proxy_resolves else owner._connect_to_any(self, connect)
                return owner._socket

        return Bounded

    def _connect_to_any(self, connection: Any, connect: Any) -> Any:
        """Has `connect` try each address of the connection's host; returns the socket."""
        name, failure = connection._dns_host, None
        try:
            addresses = find_addresses(name, connection.port, self._deadline - time.monotonic())
        except concurrent.futures.TimeoutError:
            message = f"the name {outside(name)} was not resolved after {seconds(self._timeout)}"
            raise TimedOut(message, "see that this host's name servers answer: /etc/resolv.conf") from None
        try:
            for address in addresses:
                connection._dns_host = address
                connection.timeout = max(0.01, min(connection.timeout, self._deadline - time.monotonic()))
                try:
                    return connect()
                except urllib3.exceptions.HTTPError as error:
                    failure = error
        finally:
            connection._dns_host = name
        raise failure or OSError("a name without an address")
