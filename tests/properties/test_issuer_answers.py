"""Any answer of an issuer is a token, or a failure with a harmless message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osg_token_renewer.errors import Failure
from osg_token_renewer.model import Account, Secret
from osg_token_renewer.net import metadata
from osg_token_renewer.net.https import MAX_ANSWER
from osg_token_renewer.sources.base import Context, Fetched
from osg_token_renewer.sources.client_credentials import ClientCredentials
from osg_token_renewer.sources.token_endpoint import TokenEndpoint
from tests.listener import Listener
from tests.properties import cases
from tests.specs import file_token

SECRET = 'correct-horse "battery" & staple%'
FORMS = (SECRET, "correct-horse+", "correct-horse%20", "correct-horse \\&quot;", "correct-horse &quot;")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Listener]:
    with closing(Listener()) as listener:
        yield listener


ERRORS = st.sampled_from(
    ["invalid_client", "invalid_request", "invalid_scope", "temporarily_unavailable", "slow_down"]
)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "access_token": st.one_of(cases.JSON, st.just("opaque-token")),
    "expires_in": st.one_of(cases.JSON, st.integers(), st.sampled_from(["3600", "1e999", "nan", 10**400])),
    "error": st.one_of(ERRORS, cases.JSON),
    "error_description": st.one_of(
        cases.TEXT, cases.TEXT.map(lambda text: f"{text} you sent {SECRET}"), cases.JSON
    ),
    "token_endpoint": st.one_of(cases.JSON, st.just("https://localhost:1/token")),
}
OBJECTS = st.fixed_dictionaries({}, optional=MEMBERS)
BODIES = st.one_of(
    OBJECTS.map(lambda content: json.dumps(content).encode()),
    cases.JSON.map(lambda content: json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=300),
    st.sampled_from([b"[" * 100_000, b"x" * (MAX_ANSWER + 1), f"<html>{SECRET}</html>".encode()]),
)
STATUSES = st.one_of(
    st.sampled_from([200, 200, 200, 204, 302, 400, 401, 403, 429, 500, 503]), st.integers(-1, 1000)
)
NAMES = st.sampled_from(
    [
        "Content-Type",
        "Content-Encoding",
        "Content-Length",
        "Transfer-Encoding",
        "Location",
        "Retry-After",
        "Date",
        "Set-Cookie",
        "X",
    ]
)
PLAIN = [
    "application/json",
    "text/html",
    "gzip",
    "deflate",
    "chunked",
    "0",
    "5",
    "-1",
    "99999999999999999999",
    "Thu, 01 Jan 1970 00:00:00 GMT",
]
HEADERS = st.lists(st.tuples(NAMES, st.one_of(st.sampled_from(PLAIN), cases.TEXT)), max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer that resembles HTTP/1.1."""
    reason = draw(st.sampled_from(["OK", "", "\x1b[31m"]))
    headers = "".join(f"{name}: {value}\r\n" for name, value in draw(HEADERS)).encode(
        "utf-8", "surrogatepass"
    )
    body = draw(BODIES)
    length = draw(st.sampled_from([b"", b"Content-Length: %d\r\n" % len(body)]))
    return f"HTTP/1.1 {draw(STATUSES)} {reason}\r\n".encode() + headers + length + b"\r\n" + body


def fetch(issuer: Listener, **settings: str) -> Fetched:
    account = Account(
        "probe",
        ClientCredentials.NAME,
        TokenEndpoint(f"{issuer.url}/token", "probe", Secret(SECRET), **settings),
        timeout=60,
    )
    with ClientCredentials().session(account, Context()) as fetch_one:
        return fetch_one(file_token("t", "probe", "/nowhere"))


def harmless(failure: Failure) -> bool:
    said = cases.said(failure)
    return cases.harmless(said) and not any(form in said for form in FORMS)


@given(answer=st.one_of(answers(), st.binary(max_size=200)), way=st.sampled_from(["auto", "post"]))
@example(answer=b"", way="auto")
@example(answer=b"HTTP/1.1 302 OK\r\nLocation: \xed\xa0\x80\r\n\r\n", way="auto")
@example(
    answer=b"HTTP/1.1 200 OK\r\n\r\n"
    b'{"error": "invalid_client", "error_description": "<3>\\u001b[2J\\u202e\\n"}',
    way="auto",
)
@example(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nno colon\r\nX: 1\r\n\r\n{}", way="post")
def test_any_answer_to_a_token_request_is_a_token_or_a_failure(
    issuer: Listener, answer: bytes, way: str
) -> None:
    issuer.answer = answer
    result = cases.answer(lambda: fetch(issuer, client_auth=way), Failure)
    assert isinstance(result, Fetched) or harmless(result)


@given(answer=answers())
@example(answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET.encode())
@example(answer=SECRET.encode())
@example(answer=b"HTTP/1.1 " + SECRET.encode() + b"\r\n\r\n")
@example(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + SECRET.encode() + b"\r\n\r\n")
@example(answer=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + SECRET.encode())
def test_any_metadata_of_an_issuer_is_read_or_a_failure(issuer: Listener, answer: bytes) -> None:
    issuer.answer = answer
    result = cases.answer(lambda: metadata.discover(issuer.url, None, 60), Failure)
    assert isinstance(result, dict) or harmless(result)
