"""Keep-alive connections that end each request at its deadline."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NoResult
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Optional
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from osg_token_renewer.errors import TimedOut
from osg_token_renewer.net.ca_bundle import load_context
from osg_token_renewer.net.resolver import find_addresses
from osg_token_renewer.text import outside, seconds

# To how many issuers a thread keeps its connections: there may be many threads, and a process has a limit of
# open files.
MOST_KEPT = 10


class Connections:
    """Keep-alive connections of one thread, for its Clients one after the other.

    They belong to no account: what makes an account (credentials) is sent with each request. Who trusts other
    authorities has other ones."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Connection] = OrderedDict()

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        for each in self._kept.values():
            each.close()

    def to(self, url: str, bundle: str) -> Connection:
        scheme, server = urlsplit(url)[:2]
        key = bundle, scheme, server
        if key not in self._kept:
            self._kept[key] = Connection(bundle)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)[1].close()
        return self._kept[key]


class Connection(requests.adapters.HTTPAdapter):
    """To one issuer, for one request at a time. It cuts that at its deadline: requests' own limits are for
    each read, and a peer can drip for ever; and the resolver knows none."""

    def __init__(self, bundle: str) -> None:
        self._bundle = bundle
        self._deadline, self._timeout = 0.0, 0.0
        self._open: list[weakref.ref[Any]] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self._have_made(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **settings: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **settings)
        if not known:
            # A proxy of SOCKS may be the one to resolve names.
            self._have_made(manager, resolve=not proxy.lower().startswith("socks"))
        return manager

    @contextmanager
    def until(self, deadline: float, timeout: float) -> Iterator[None]:
        """For one request at a time, which has `timeout` seconds; raises ReadTimeout for one that was cut
        off."""
        self._deadline, self._timeout = deadline, timeout
        done = threading.Event()

        def cut() -> None:
            left = deadline - time.monotonic()
            while not done.wait(max(0.0, left)):
                left = 1.0  # it may have been connecting, and have a connection now
                for connected in tuple(self._open):
                    # OSError: closed; TypeError: gone, or TLS within a proxy's TLS, which is no socket.
                    with suppress(OSError, TypeError):
                        socket.socket.shutdown(connected(), socket.SHUT_RDWR)  # type: ignore[arg-type]

        watch = threading.Thread(target=cut, daemon=True)
        watch.start()
        try:
            yield
        except requests.exceptions.ConnectTimeout:
            raise
        except requests.exceptions.RequestException as error:
            if time.monotonic() > deadline:
                raise requests.exceptions.ReadTimeout from error
            raise
        finally:
            done.set()
            watch.join()

    def _addresses(self, name: str, port: int) -> list[str]:
        try:
            return find_addresses(name, port, self._deadline)
        except NoResult:
            message = f"the name {outside(name)} was not resolved after {seconds(self._timeout)}"
            raise TimedOut(message, "see that this host's name servers answer: /etc/resolv.conf") from None

    def _have_made(self, manager: Any, *, resolve: bool = True) -> None:
        """Has urllib3 make connections that do not load the CA bundle each for itself, that have resolved
        their name by the deadline, and whose sockets are known here: an answer keeps its socket when the
        connection has let go of it."""
        known, bundle, request = self._open, self._bundle, self

        def knowing(scheme: str, pool: Any) -> Any:
            class Made(pool.ConnectionCls):  # type: ignore[misc]
                _dns_host: str
                timeout: float

                def connect(self) -> None:
                    # The bundle is also for a proxy that speaks TLS, and then left to urllib3.
                    if scheme == "https" and getattr(self.proxy, "scheme", None) != "https":
                        self.ssl_context, self.ca_certs, self.ca_cert_dir = load_context(bundle), None, None
                    super().connect()
                    known.append(weakref.ref(self.sock))

                def _new_conn(self) -> Any:
                    if not resolve:
                        return super()._new_conn()
                    name, last = self._dns_host, None
                    try:
                        for address in request._addresses(name, self.port):
                            self._dns_host = address
                            self.timeout = max(0.01, min(self.timeout, request._deadline - time.monotonic()))
                            try:
                                return super()._new_conn()
                            except urllib3.exceptions.HTTPError as error:
                                last = error
                    finally:
                        self._dns_host = name
                    raise last or OSError("a name without an address")

            return type(pool.__name__, (pool,), {"ConnectionCls": Made})

        manager.pool_classes_by_scheme = {
            scheme: knowing(scheme, pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }
