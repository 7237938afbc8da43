"""HTTPS to an issuer: trust, limits, and the translation of what requests raises.

Only what must talk to an issuer imports this module: requests costs a tenth of a second.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Optional
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from osg_token_renewer import __version__
from osg_token_renewer.errors import TimedOut, Unavailable, Unreachable
from osg_token_renewer.net.ca_bundle import find_bundle
from osg_token_renewer.net.connection import Connections
from osg_token_renewer.text import outside, seconds

# No token answer is larger; what is larger is not read.
MAX_ANSWER = 1024 * 1024
# The three-way handshake and TLS of a reachable issuer take far less.
CONNECT_TIMEOUT = 10.0
# What an issuer means by more seconds than that is the same.
LONGEST_PAUSE = 365 * 86400.0

_OWN_CA = "if the issuer has a CA of its own, name its bundle: ca_file in the account's section, --ca-file for the setup program"
# What a certificate is found to be by a clock that is wrong, and then it is each issuer's.
_OUT_OF_TIME = "not yet valid|expired"
_WRONG_TIME = "see that this host's clock is right: timedatectl; if it is, tell the issuer's operators"


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    location: Optional[str] = None
    # RFC 9110 section 10.2.3, in seconds from now.
    retry_after: Optional[float] = None
    # By how many seconds the issuer's clock (RFC 9110 section 6.6.1) is ahead of this host's, at the least; 0
    # where it may be the same.
    clock_ahead: Optional[float] = None


class Client:
    """One account's requests, over `connections` or its own. Redirects are never followed: they would carry
    credentials elsewhere."""

    def __init__(
        self, ca_file: Optional[str], timeout: float, connections: Optional[Connections] = None
    ) -> None:
        self._trust = find_bundle(ca_file)
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

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._own is not None:
            self._own.close()

    def post(
        self, url: str, form: Mapping[str, bytes], headers: Mapping[str, str], within: float = math.inf
    ) -> Answer:
        """Posts a form; `within` seconds, where that is less than the client's own limit.

        Raises Unavailable, Unreachable, TimedOut or Local; an HTTP error status is an answer like any other.
        """
        return self._request("POST", url, form, headers, min(self._timeout, within))

    def get(self, url: str) -> Answer:
        return self._request("GET", url, None, {}, self._timeout)

    def _request(
        self,
        method: str,
        url: str,
        form: Optional[Mapping[str, bytes]],
        headers: Mapping[str, str],
        timeout: float,
    ) -> Answer:
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
                    raise Unavailable(
                        f"{host(url)} sent more than {MAX_ANSWER // 1024} KiB instead of a token"
                    )
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
    def get_redirect_target(self, resp: requests.Response) -> Optional[str]:  # noqa: ARG002
        """None: requests would resolve a redirect even where it must not follow it, and fail on a Location
        that makes no sense."""
        return None


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
        return (
            None
            if parsed is None
            else datetime(*parsed[:6], tzinfo=timezone.utc).timestamp() - (parsed[9] or 0)
        )
    except (ValueError, OverflowError, IndexError, TypeError):
        # The last two come from Python's parser, before 3.10.
        return None


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
        raise Unavailable(
            f"no TLS connection to {where}: {reason}",
            _WRONG_TIME if re.search(_OUT_OF_TIME, reason) else _OWN_CA,
        ) from error
    except requests.exceptions.ProxyError as error:
        raise Unreachable(f"the proxy for {where} failed: {outside(str(error))}", retry_after=0.0) from error
    except requests.exceptions.ConnectTimeout as error:
        raise TimedOut(
            f"{where} did not accept a connection within {seconds(min(CONNECT_TIMEOUT, timeout))}"
        ) from error
    except requests.exceptions.Timeout as error:
        raise TimedOut(f"{where} had not answered after {seconds(timeout)}") from error
    except requests.exceptions.ConnectionError as error:
        # requests reports a read that times out within the body as a ConnectionError.
        if "timed out" in str(error).lower():
            raise TimedOut(f"{where} had not answered after {seconds(timeout)}") from error
        raise Unreachable(f"{where} cannot be reached: {_innermost(error)}", retry_after=0.0) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        # requests lets some exceptions of urllib3 through: LocationParseError, for a host name with an empty
        # label.
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
        if (
            isinstance(seen, OSError)
            and seen.strerror
            and not isinstance(seen, requests.exceptions.RequestException)
        ):
            return outside(seen.strerror)
        last = seen
        reason = getattr(seen, "reason", None) or next(
            (inner for inner in seen.args if isinstance(inner, BaseException)), None
        )
        seen = reason if isinstance(reason, BaseException) else (seen.__cause__ or seen.__context__)
    # What others say may quote the answer, and the answer what was sent.
    return str(last) if isinstance(last, RemoteDisconnected) else type(last).__name__
