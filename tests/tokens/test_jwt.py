"""Reading tokens, hostile ones too: whatever they say, a run goes on."""

from __future__ import annotations

import base64
import json
from typing import Any, Union

import pytest

from osg_token_renewer.tokens import jwt


def base64url(content: Union[bytes, str]) -> str:
    return (
        base64.urlsafe_b64encode(content.encode() if isinstance(content, str) else content)
        .decode()
        .rstrip("=")
    )


def jws(
    payload: Union[dict[str, Any], bytes, str], header: Union[dict[str, Any], bytes, str] = '{"alg":"RS256"}'
) -> str:
    """A JWS in compact form with a made-up signature; texts are used unchanged."""
    parts = (json.dumps(part) if isinstance(part, dict) else part for part in (header, payload))
    return ".".join([*(base64url(part) for part in parts), base64url(b"signature")])


def test_a_tokens_claims_are_read() -> None:
    token = jwt.parse(jws({"iss": "https://i", "exp": 1000, "aud": ["a", "b"], "scope": "x y"}))
    assert (token.opaque, token.expires_at, token.issuer) == (False, 1000.0, "https://i")
    assert (token.audience, token.scope) == (("a", "b"), ("x", "y"))


def test_the_tokens_own_claims_count_more_than_the_answers() -> None:
    token = jwt.parse(jws({"iss": "own", "exp": 1000}), expires_at=2000.0, issuer="other")
    assert (token.expires_at, token.issuer) == (1000.0, "own")


def test_the_answers_values_stand_in_for_missing_claims() -> None:
    for text in (jws({}), "opaque"):
        token = jwt.parse(text, expires_at=2000.0, issuer="other")
        assert (token.expires_at, token.issuer) == (2000.0, "other")


@pytest.mark.parametrize(
    ("claim", "audience"),
    [
        ("one", ("one",)),
        ("one two", ("one two",)),
        (["one", "two"], ("one", "two")),
        (["one", 2, None, ["three"]], ("one",)),
        (None, ()),
        (7, ()),
        ({"one": 1}, ()),
    ],
)
def test_an_audience_is_a_string_or_a_list(claim: object, audience: tuple[str, ...]) -> None:
    assert jwt.parse(jws({"aud": claim})).audience == audience


@pytest.mark.parametrize(
    ("claims", "scope"),
    [
        ({"scope": "x  y"}, ("x", "y")),
        ({"scope": ["x", "y"]}, ("x", "y")),
        ({"scp": "x y"}, ("x", "y")),
        ({"scp": ["x", "y"]}, ("x", "y")),
        ({"scope": "x", "scp": "y"}, ("x",)),
        ({"scope": 1}, ()),
        ({}, ()),
    ],
)
def test_the_scope_is_in_scope_or_scp(claims: dict[str, Any], scope: tuple[str, ...]) -> None:
    assert jwt.parse(jws(claims)).scope == scope


@pytest.mark.parametrize(
    "exp",
    [
        "true",
        "false",
        "null",
        '"1000"',
        "[1000]",
        "NaN",
        "Infinity",
        "-Infinity",
        "-1",
        "1e400",
        "1e12",
        "253402300800",
        "9" * 400,
    ],
)
def test_an_expiry_that_is_not_a_date_is_ignored(exp: str) -> None:
    token = jwt.parse(jws(f'{{"exp": {exp}}}'))
    assert (token.opaque, token.expires_at) == (False, None)


@pytest.mark.parametrize(
    ("exp", "seconds"), [("1000.5", 1000.5), ("0", 0.0), ("1e3", 1000.0), ("253402300799", 253402300799.0)]
)
def test_an_expiry_is_any_number_that_is_a_date(exp: str, seconds: float) -> None:
    assert jwt.parse(jws(f'{{"exp": {exp}}}')).expires_at == seconds


@pytest.mark.parametrize(
    "text",
    [
        "opaque",
        "two.parts",
        "a.b.c",
        "..",
        "five.parts.are.a.JWE",
        jws("[]"),
        jws('"text"'),
        jws("null"),
        jws("{} trailing"),
        jws('{"exp": '),
        jws(b'{"aud": "caf\xe9"}'),
        jws(b"\xff\xfe\x00"),
        jws({"exp": 1}, header="[]"),
        jws({"exp": 1}, header=b"\xff"),
        jws({"exp": 1}, header=""),
        jws("[" * 20000),
        jws('{"a":' * 5000),
        "A." + base64url('{"exp": 1}') + ".c",
    ],
    ids=lambda text: text[:12],
)
def test_a_text_that_is_not_a_jws_is_an_opaque_token(text: str) -> None:
    token = jwt.parse(text)
    assert (token.opaque, token.expires_at, token.audience, token.scope) == (True, None, (), ())
    assert token.text.reveal() == text


def test_a_number_with_thousands_of_digits_is_ignored() -> None:
    # Newer Pythons refuse to parse it, older ones to convert it to a float.
    assert jwt.parse(jws('{"exp": ' + "9" * 20000 + "}")).expires_at is None


@pytest.mark.parametrize("issuer", [7, None, ["https://i"], "\ud800", "a\nb", "a\x1b[31m"])
def test_an_issuer_that_is_not_printable_text_is_ignored(issuer: object) -> None:
    assert jwt.parse(jws({"iss": issuer}), issuer="other").issuer == "other"


def test_white_space_around_a_token_is_removed() -> None:
    assert jwt.parse(" \r\n\tabc\n\n").text.reveal() == "abc"
    assert jwt.fingerprint(" abc\n") == jwt.fingerprint("abc") != jwt.fingerprint("abd")


@pytest.mark.parametrize("text", ["abc", "A-z.0_9~+/", "abc==", "a" * jwt.MAX_LENGTH])
def test_a_bearer_token_is_read_unchanged(text: str) -> None:
    assert jwt.parse(text).text.reveal() == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("hunter2\nhunter3", "more than one line or word"),
        ("hunter2 hunter3", "more than one line or word"),
        ("hunter2" * 10000, "longer than 65536 characters"),
        ("hunter2=x", "characters"),
        ("=", "characters"),
        ("hunter2,", "characters"),
        ('"hunter2"', "characters"),
        ("<html>", "characters"),
        ("hunter2\0", "characters"),
        ("hunter2é", "characters"),
        ("hunter2\udce9", "characters"),
        ("hunter2%20", "characters"),
    ],
    ids=lambda text: text[:12],
)
def test_a_text_that_rfc_6750_forbids_is_refused_and_not_shown(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        jwt.parse(text)
    assert "hunter" not in str(caught.value)


def test_a_fingerprint_does_not_reveal_the_token() -> None:
    text = jws({"exp": 1})
    assert len(jwt.fingerprint(text)) == 16
    assert jwt.fingerprint(text) not in text


def test_repr_does_not_show_a_token() -> None:
    text = jws({"sub": "someone"})
    shown = repr(jwt.parse(text))
    assert text not in shown
    assert "someone" not in shown
