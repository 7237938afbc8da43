"""HTTPS to an issuer: trust, limits, and the translation of what requests raises.

Only what must talk to an issuer imports this module: requests costs a tenth of a second.
"""

from __future__ import annotations

import email.utils
import functools
import math
import os
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import RemoteDisconnected
from types import TracebackType
from typing import Any, Optional
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from osg_token_renewer import __version__
from osg_token_renewer.errors import Local, TimedOut, Unavailable, Unreachable
from osg_token_renewer.text import outside, seconds

# No token answer is larger; what is larger is not read.
MAX_ANSWER = 1024 * 1024
# The three-way handshake and TLS of a reachable issuer take far less.
CONNECT_TIMEOUT = 10.0

# Where distributions keep the system's store, when OpenSSL was built to look elsewhere.
_SYSTEM_STORES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    location: Optional[str] = None
    # RFC 9110 section 10.2.3, in seconds from now.
    retry_after: Optional[float] = None
    # By how many seconds the issuer's clock (RFC 9110 section 6.6.1) is ahead of this host's, at the least; 0 where it may be the same.
    clock_ahead: Optional[float] = None


class Client:
    """One keep-alive connection pool to one issuer. Redirects are never followed: they would carry credentials elsewhere."""

    def __init__(self, ca_file: Optional[str], timeout: float) -> None:
        self._trust = trust(ca_file)
        self._timeout = timeout
        self._session = _Session()
        self._connections = _Connections()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, self._connections)
        # The environment could otherwise add credentials (netrc) and replace the CA bundle.
        self._session.trust_env = False
        self._session.headers["User-Agent"] = f"osg-token-renewer/{__version__}"
        self._session.headers["Accept"] = "application/json"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self._session.close()

    def post(self, url: str, form: Mapping[str, bytes], headers: Mapping[str, str], within: float = math.inf) -> Answer:
        """Posts a form; `within` seconds, where that is less than the client's own limit.

        Raises Unavailable, Unreachable, TimedOut or Local; an HTTP error status is an answer like any other.
        """
        return self._request("POST", url, form, headers, min(self._timeout, within))

    def get(self, url: str) -> Answer:
        return self._request("GET", url, None, {}, self._timeout)

    def _request(self, method: str, url: str, form: Optional[Mapping[str, bytes]], headers: Mapping[str, str], timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        asked_at = time.time()
        with (
            _translated(url, timeout),
            self._connections.until(deadline),
            self._session.request(
                method,
                url,
                data=form,
                headers=dict(headers),
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                verify=self._trust,
                allow_redirects=False,
                stream=True,
                proxies=requests.utils.get_environ_proxies(url),
            ) as response,
        ):
            answered_at = time.time()
            body = bytearray()
            for piece in response.iter_content(16 * 1024):
                body += piece
                if len(body) > MAX_ANSWER:
                    raise Unavailable(f"{host(url)} sent more than {MAX_ANSWER // 1024} KiB instead of a token")
            if time.monotonic() > deadline:
                # Cut off, which some versions of requests take for the end of the answer.
                raise requests.exceptions.ReadTimeout
            return Answer(
                response.status_code,
                response.headers.get("Content-Type", ""),
                bytes(body),
                response.headers.get("Location"),
                _retry_after(response.headers, answered_at),
                _clock_ahead(response.headers, asked_at, answered_at),
            )


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> Optional[str]:  # noqa: ARG002  (requests calls it so)
        """None: requests would resolve a redirect even where it must not follow it, and fail on a Location that makes no sense."""
        return None


class _Connections(requests.adapters.HTTPAdapter):
    """Cuts its connections at a request's deadline: the time limits of requests are for each read, and a peer can drip for ever."""

    def __init__(self) -> None:
        self._open: list[weakref.ref[Any]] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self._remember(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **settings: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **settings)
        if not known:
            self._remember(manager)
        return manager

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """For one request at a time; raises ReadTimeout for one that was cut off."""
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

    def _remember(self, manager: Any) -> None:
        """Has urllib3 make connections whose sockets are known here: an answer keeps its socket when the connection has let go of it."""
        known = self._open

        def knowing(pool: Any) -> Any:
            class Connection(pool.ConnectionCls):  # type: ignore[misc]
                def connect(self) -> None:
                    super().connect()
                    known.append(weakref.ref(self.sock))

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        manager.pool_classes_by_scheme = {scheme: knowing(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}


def _retry_after(headers: Mapping[str, str], now: float) -> Optional[float]:
    """Seconds, or a date: that is on the issuer's clock, which its answer shows as well."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", given):
        return float(given)
    date = _date(given)
    return None if date is None else max(0.0, date - (_date(headers.get("Date", "")) or now))


def _clock_ahead(headers: Mapping[str, str], asked_at: float, answered_at: float) -> Optional[float]:
    date = _date(headers.get("Date", ""))
    if date is None:
        return None
    # It is cut to the second, and was written at some time between question and answer.
    return max(0.0, date - answered_at) + min(0.0, date + 1 - asked_at)


def _date(text: str) -> Optional[float]:
    """An HTTP date (RFC 9110 section 5.6.7) in seconds since 1970; None if it is none."""
    try:
        parsed = email.utils.parsedate_tz(text)
        return None if parsed is None else datetime(*parsed[:6], tzinfo=timezone.utc).timestamp() - (parsed[9] or 0)
    except (ValueError, OverflowError, IndexError, TypeError):
        # The last two come from Python's parser, before 3.10.
        return None


def trust(ca_file: Optional[str]) -> str:
    """The CA bundle (file or directory): `ca_file`, else the environment's, else the system's store, never a Python package's."""
    for candidate in (ca_file, os.environ.get("SSL_CERT_FILE"), os.environ.get("REQUESTS_CA_BUNDLE")):
        if candidate:
            return _usable(candidate)
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, *_SYSTEM_STORES, paths.capath):
        if candidate and os.path.exists(candidate):
            return candidate
    raise Local("no system CA bundle was found", "set ca_file in the account's section")


@functools.cache
def _usable(bundle: str) -> str:
    if not os.access(bundle, os.R_OK):
        raise Local(f"the CA bundle {bundle} cannot be read", "let this user read it, or name another one: ca_file")
    if os.path.isfile(bundle):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
        except ssl.SSLError as error:
            raise Local(f"the CA bundle {bundle} holds no certificate that can be read", "name another one: ca_file") from error
    return bundle


def host(url: str) -> str:
    """Host and port of a URL, for messages: a URL may hold more than a log should."""
    return urlsplit(url).netloc.rpartition("@")[2]


@contextmanager
def _translated(url: str, timeout: float) -> Iterator[None]:
    """The one place where exceptions of requests become ours; the most special come first."""
    where = host(url)
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise Unavailable(
            f"no TLS connection to {where}: {_tls_reason(error)}",
            "if the issuer has a CA of its own, name its bundle: ca_file in the account's section, --ca-file for the setup program",
        ) from error
    except requests.exceptions.ProxyError as error:
        raise Unreachable(f"the proxy for {where} failed: {outside(str(error))}", retry_after=0.0) from error
    except requests.exceptions.ConnectTimeout as error:
        raise TimedOut(f"{where} did not accept a connection within {seconds(min(CONNECT_TIMEOUT, timeout))}") from error
    except requests.exceptions.Timeout as error:
        raise TimedOut(f"{where} had not answered after {seconds(timeout)}") from error
    except requests.exceptions.ConnectionError as error:
        # requests reports a read that times out within the body as a ConnectionError.
        if "timed out" in str(error).lower():
            raise TimedOut(f"{where} had not answered after {seconds(timeout)}") from error
        raise Unreachable(f"{where} cannot be reached: {_innermost(error)}", retry_after=0.0) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        # requests lets some exceptions of urllib3 through: LocationParseError, for a host name with an empty label.
        raise Unavailable(f"the request to {where} failed: {_innermost(error)}") from error


def _tls_reason(error: BaseException) -> str:
    """'certificate verify failed: self-signed certificate' rather than the wrappers around it."""
    text = str(error)
    found = re.search(r"\] ([a-z][^()\[\]]*)", text, re.IGNORECASE)
    # What urllib3 before 2.0 finds by itself when OpenSSL has accepted the certificate: another host's name.
    other_name = re.search(r"CertificateError\(\"(.*?)\"\)", text)
    if other_name:
        return outside(f"certificate verify failed: {other_name[1]}")
    return outside(found[1]) if found else _innermost(error)


def _innermost(error: Optional[BaseException]) -> str:
    """'Connection refused' rather than the three wrappers around it."""
    last, seen = error, error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror and not isinstance(seen, requests.exceptions.RequestException):
            return outside(seen.strerror)
        last = seen
        reason = getattr(seen, "reason", None) or next((inner for inner in seen.args if isinstance(inner, BaseException)), None)
        seen = reason if isinstance(reason, BaseException) else (seen.__cause__ or seen.__context__)
    # What others say may quote the answer, and the answer what was sent.
    return str(last) if isinstance(last, RemoteDisconnected) else type(last).__name__
