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
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoResult
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, Optional
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from urllib3.util.connection import allowed_gai_family
from urllib3.util.ssl_ import create_urllib3_context

from osg_token_renewer import __version__
from osg_token_renewer.errors import Local, TimedOut, Unavailable, Unreachable
from osg_token_renewer.text import outside, seconds

# No token answer is larger; what is larger is not read.
MAX_ANSWER = 1024 * 1024
# The three-way handshake and TLS of a reachable issuer take far less.
CONNECT_TIMEOUT = 10.0
# What an issuer means by more seconds than that is the same.
LONGEST_PAUSE = 365 * 86400.0
# To how many issuers a thread keeps its connections: there may be many threads, and a process has a limit of open files.
MOST_KEPT = 10

# Where distributions keep the system's store, when OpenSSL was built to look elsewhere.
_SYSTEM_STORES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")

_OWN_CA = "if the issuer has a CA of its own, name its bundle: ca_file in the account's section, --ca-file for the setup program"
# What a certificate is found to be by a clock that is wrong, and then it is each issuer's.
_OUT_OF_TIME = "not yet valid|expired"
_WRONG_TIME = "see that this host's clock is right: timedatectl; if it is, tell the issuer's operators"

_loading: dict[str, threading.Lock] = {}

# What the resolver is being asked for, by name and port.
_lookups: dict[tuple[str, int], Future[list[str]]] = {}
_looking = threading.Lock()


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


class Connections:
    """Keep-alive connections of one thread, for its Clients one after the other.

    They belong to no account: what makes an account (credentials) is sent with each request. Who trusts other authorities has other ones.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], _Connection] = OrderedDict()

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()

    def close(self) -> None:
        for each in self._kept.values():
            each.close()

    def to(self, url: str, bundle: str) -> _Connection:
        scheme, server = urlsplit(url)[:2]
        key = bundle, scheme, server
        if key not in self._kept:
            self._kept[key] = _Connection(bundle)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)[1].close()
        return self._kept[key]


class Client:
    """One account's requests, over `connections` or its own. Redirects are never followed: they would carry credentials elsewhere."""

    def __init__(self, ca_file: Optional[str], timeout: float, connections: Optional[Connections] = None) -> None:
        self._trust = trust(ca_file)
        self._timeout = timeout
        self._connections = connections or Connections()
        self._own = None if connections else self._connections
        self._session = _Session()
        # The environment could otherwise add credentials (netrc) and replace the CA bundle.
        self._session.trust_env = False
        # No answer has anything to remember for the next request.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._session.headers["User-Agent"] = f"osg-token-renewer/{__version__}"
        self._session.headers["Accept"] = "application/json"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if self._own is not None:
            self._own.close()

    def post(self, url: str, form: Mapping[str, bytes], headers: Mapping[str, str], within: float = math.inf) -> Answer:
        """Posts a form; `within` seconds, where that is less than the client's own limit.

        Raises Unavailable, Unreachable, TimedOut or Local; an HTTP error status is an answer like any other.
        """
        return self._request("POST", url, form, headers, min(self._timeout, within))

    def get(self, url: str) -> Answer:
        return self._request("GET", url, None, {}, self._timeout)

    def _request(self, method: str, url: str, form: Optional[Mapping[str, bytes]], headers: Mapping[str, str], timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        connection = self._connections.to(url, self._trust)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, connection)
        asked_at = time.time()
        with (
            _translated(url, timeout),
            connection.until(deadline, timeout),
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


class _Connection(requests.adapters.HTTPAdapter):
    """To one issuer, for one request at a time. It cuts that at its deadline: requests' own limits are for each read, and a peer can drip
    for ever; and the resolver knows none."""

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
        """For one request at a time, which has `timeout` seconds; raises ReadTimeout for one that was cut off."""
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
            return _addresses(name, port, self._deadline)
        except NoResult:
            message = f"the name {outside(name)} was not resolved after {seconds(self._timeout)}"
            raise TimedOut(message, "see that this host's name servers answer: /etc/resolv.conf") from None

    def _have_made(self, manager: Any, *, resolve: bool = True) -> None:
        """Has urllib3 make connections that do not load the CA bundle each for itself, that have resolved their name by the deadline, and
        whose sockets are known here: an answer keeps its socket when the connection has let go of it."""
        known, bundle, request = self._open, self._bundle, self

        def knowing(scheme: str, pool: Any) -> Any:
            class Made(pool.ConnectionCls):  # type: ignore[misc]
                _dns_host: str
                timeout: float

                def connect(self) -> None:
                    # The bundle is also for a proxy that speaks TLS, and then left to urllib3.
                    if scheme == "https" and getattr(self.proxy, "scheme", None) != "https":
                        self.ssl_context, self.ca_certs, self.ca_cert_dir = _context(bundle), None, None
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

        manager.pool_classes_by_scheme = {scheme: knowing(scheme, pool) for scheme, pool in manager.pool_classes_by_scheme.items()}


def _addresses(name: str, port: int, deadline: float) -> list[str]:
    """Of the host of that name; raises OSError, or NoResult at the deadline.

    The resolver may wait for minutes, and cannot be told to end: it is asked in a thread that nobody waits for, and once for all who want
    to know.
    """
    try:
        socket.getaddrinfo(name.strip("[]"), port, flags=socket.AI_NUMERICHOST)
    except UnicodeError:
        # No name, as urllib3 will say.
        return [name]
    except OSError:
        with _looking:
            lookup = _lookups.get((name, port))
            if lookup is None:
                lookup = Future()
                threading.Thread(target=_look_up, args=(name, port, lookup), name=f"look up {name}", daemon=True).start()
                _lookups[name, port] = lookup
        return lookup.result(max(0.0, deadline - time.monotonic()))
    return [name]


def _look_up(name: str, port: int, lookup: Future[list[str]]) -> None:
    try:
        found = socket.getaddrinfo(name, port, allowed_gai_family(), socket.SOCK_STREAM)
        lookup.set_result(list(dict.fromkeys(str(address[0]) for *_, address in found)))
    except OSError as error:
        lookup.set_exception(error)
    finally:
        with _looking:
            del _lookups[name, port]


def _retry_after(headers: Mapping[str, str], now: float) -> Optional[float]:
    """Seconds, or a date: that is on the issuer's clock, which its answer shows as well."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", given):
        return min(float(given), LONGEST_PAUSE)
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


def _usable(bundle: str) -> str:
    if not os.access(bundle, os.R_OK):
        raise Local(f"the CA bundle {bundle} cannot be read", "let this user read it, or name another one: ca_file")
    try:
        _context(bundle)
    except ssl.SSLError as error:
        raise Local(f"the CA bundle {bundle} holds no certificate that can be read", "name another one: ca_file") from error
    except OSError as error:
        raise Local(
            f"the CA bundle {bundle} cannot be read: {error.strerror}", "see what is the matter there, or name another one: ca_file"
        ) from error
    return bundle


def _context(bundle: str) -> ssl.SSLContext:
    """urllib3's own settings, and trust in this bundle; the same one each time, for a system's bundle takes 75 ms of CPU time."""
    # One of each bundle: a file system that does not answer must keep nobody waiting whose bundle is elsewhere.
    with _loading.setdefault(bundle, threading.Lock()):
        return _loaded(bundle)


@functools.cache
def _loaded(bundle: str) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    # urllib3 does so for each connection, and OpenSSL does not allow for that while other threads connect with the same context.
    context.set_alpn_protocols(["http/1.1"])
    context.set_alpn_protocols = lambda _protocols: None  # type: ignore[assignment,method-assign]
    context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    return context


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
        reason = _tls_reason(error)
        raise Unavailable(f"no TLS connection to {where}: {reason}", _WRONG_TIME if re.search(_OUT_OF_TIME, reason) else _OWN_CA) from error
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
