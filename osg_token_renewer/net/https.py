"""HTTPS to an issuer: the client, its answers, and the translation of what requests raises.

Only what must talk to an issuer imports this module: requests costs a tenth of a second.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timezone
from http.client import RemoteDisconnected
from typing import Any, Optional
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from osg_token_renewer import __version__
from osg_token_renewer.errors import Failure, TimedOut, Unavailable, Unreachable
from osg_token_renewer.net.ca_bundle import CaBundleCache
from osg_token_renewer.net.connection import ConnectionPool
from osg_token_renewer.text import outside, seconds

# No token answer is larger; what is larger is not read.
MAX_ANSWER = 1024 * 1024
# The three-way handshake and TLS of a reachable issuer take far less.
CONNECT_TIMEOUT = 10.0
LONGEST_PAUSE = 365 * 86400.0

_OWN_CA = (
    "if the issuer has a CA of its own, name its bundle: ca_file in the account's section, "
    "--ca-file for the setup program"
)
_WRONG_TIME = "see that this host's clock is right: timedatectl; if it is, tell the issuer's operators"
_HEADERS = {"User-Agent": f"osg-token-renewer/{__version__}", "Accept": "application/json"}


@dataclass(frozen=True)
class Answer:
    """An issuer's answer. `asked_at` and `answered_at` are this host's clock in seconds since 1970."""

    status: int
    content_type: str
    body: bytes
    asked_at: float
    answered_at: float
    location: Optional[str] = None
    # RFC 9110 section 10.2.3, in seconds from now.
    retry_after: Optional[float] = None
    # The issuer's clock (RFC 9110 section 6.6.1) in seconds since 1970, cut to the second.
    date: Optional[float] = None

    def read_object(self) -> Optional[dict[str, Any]]:
        """The body as a JSON object; None if it is none."""
        try:
            content = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None


class Client(AbstractContextManager["Client"]):
    """One account's requests, with the run's `connections` and `bundles` or its own. Raises Local."""

    def __init__(
        self,
        ca_file: Optional[str],
        timeout: float,
        connections: Optional[ConnectionPool] = None,
        bundles: Optional[CaBundleCache] = None,
    ) -> None:
        self._bundle = (bundles or CaBundleCache()).find(ca_file)
        self._timeout = timeout
        self._own = ExitStack()
        self._connections = connections or self._own.enter_context(ConnectionPool())

    def __exit__(self, *error: object) -> None:
        self._own.close()

    def post(
        self, url: str, form: Mapping[str, bytes], headers: Mapping[str, str], within: float = math.inf
    ) -> Answer:
        """Posts a form; `within` is a limit in seconds besides the client's own.

        Raises Unavailable, Unreachable, TimedOut or Local; an HTTP error status is an answer like any other.
        """
        request = requests.Request("POST", url, {**_HEADERS, **headers}, data=form)
        return self._send(request, min(self._timeout, within))

    def get(self, url: str) -> Answer:
        """Raises as `post` does."""
        return self._send(requests.Request("GET", url, _HEADERS), self._timeout)

    def _send(self, request: requests.Request, timeout: float) -> Answer:
        """Not through requests.Session: redirects, cookies and netrc files move credentials elsewhere."""
        deadline = time.monotonic() + timeout
        connection = self._connections.to(request.url, self._bundle)
        asked_at = time.time()
        with (
            _translated(request.url, timeout, deadline),
            connection.cut_at(deadline, timeout),
            connection.send(
                request.prepare(),
                stream=True,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                verify=self._bundle.path,
                proxies=requests.utils.get_environ_proxies(request.url),
            ) as response,
        ):
            answered_at = time.time()
            body = _read(response)
            if time.monotonic() > deadline:
                # The answer was cut off, which some versions of requests take for its end.
                raise requests.exceptions.ReadTimeout
            headers = response.headers
            return Answer(
                response.status_code,
                headers.get("Content-Type", ""),
                body,
                asked_at,
                answered_at,
                headers.get("Location"),
                _retry_after(headers, answered_at),
                _date(headers.get("Date", "")),
            )


def _read(response: requests.Response) -> bytes:
    body = bytearray()
    for piece in response.iter_content(16 * 1024):
        body += piece
        if len(body) > MAX_ANSWER:
            limit = f"{MAX_ANSWER // 1024} KiB"
            raise Unavailable(f"{host(response.url)} sent more than {limit} instead of a token")
    return bytes(body)


def _retry_after(headers: Mapping[str, str], now: float) -> Optional[float]:
    """The header is seconds, or a date on the issuer's clock, which the answer shows as well."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", given):
        return min(float(given), LONGEST_PAUSE)
    date = _date(given)
    return None if date is None else max(0.0, date - (_date(headers.get("Date", "")) or now))


def _date(text: str) -> Optional[float]:
    """An HTTP date (RFC 9110 section 5.6.7) in seconds since 1970; None if it is none."""
    try:
        parsed = email.utils.parsedate_to_datetime(text)
        return parsed.replace(tzinfo=parsed.tzinfo or timezone.utc).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        # The last two come from Python's parser, before 3.10.
        return None


def host(url: str) -> str:
    """Host and port of a URL, for messages: a URL may hold more than a log should."""
    return urlsplit(url).netloc.rpartition("@")[2]


@contextmanager
def _translated(url: str, timeout: float, deadline: float) -> Iterator[None]:
    """The one place where exceptions of requests become ours."""
    try:
        yield
    # requests lets some of urllib3's through: LocationParseError for a host name with an empty label.
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _counterpart(error, host(url), timeout, time.monotonic() > deadline) from error


def _counterpart(error: Exception, where: str, timeout: float, late: bool) -> Failure:
    """Our exception for one of requests. `late`: the deadline has passed, so the request was cut off."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        limit = seconds(min(CONNECT_TIMEOUT, timeout))
        return TimedOut(f"{where} did not accept a connection within {limit}")
    # requests reports a read that times out within the body as a ConnectionError.
    in_body = type(error) is requests.exceptions.ConnectionError and "timed out" in str(error).lower()
    if late or in_body or isinstance(error, requests.exceptions.Timeout):
        return TimedOut(f"{where} had not answered after {seconds(timeout)}")
    if isinstance(error, requests.exceptions.SSLError):
        reason = _tls_reason(error)
        # OpenSSL finds this in every issuer's certificate if this host's clock is wrong.
        hint = _WRONG_TIME if re.search("not yet valid|expired", reason) else _OWN_CA
        return Unavailable(f"no TLS connection to {where}: {reason}", hint)
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable(f"the proxy for {where} failed: {outside(str(error))}", retry_after=0.0)
    if isinstance(error, requests.exceptions.ConnectionError):
        return Unreachable(f"{where} cannot be reached: {_innermost(error)}", retry_after=0.0)
    return Unavailable(f"the request to {where} failed: {_innermost(error)}")


def _tls_reason(error: BaseException) -> str:
    """'certificate verify failed: self-signed certificate' rather than the wrappers around it."""
    text = str(error)
    # urllib3 before 2.0 compares the host's name by itself, after OpenSSL has accepted the certificate.
    if other_name := re.search(r"CertificateError\(\"(.*?)\"\)", text):
        return outside(f"certificate verify failed: {other_name[1]}")
    found = re.search(r"\] ([a-z][^()\[\]]*)", text, re.IGNORECASE)
    return outside(found[1]) if found else _innermost(error)


def _innermost(error: BaseException) -> str:
    """'Connection refused' rather than the three wrappers around it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
        if isinstance(error, OSError) and error.strerror:
            return outside(error.strerror)
    # The text of any other may quote the answer, and the answer what was sent.
    return str(error) if isinstance(error, RemoteDisconnected) else type(error).__name__
