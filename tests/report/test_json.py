"""`status --json` is an interface: each key, each type."""

from __future__ import annotations

import json
import re
from typing import Any, Union

import pytest

from osg_token_renewer.model import Published, TokenRecord
from osg_token_renewer.report import json as report
from tests.report.samples import EMPTY, NO_FILE, NOW, failed, planned, published, states

KEYS: dict[str, Union[type, tuple[type, ...]]] = {
    "name": str,
    "account": str,
    "state": str,
    "reason": str,
    "path": str,
    "mode": (str, type(None)),
    "issuer": (str, type(None)),
    "audience": (list, type(None)),
    "scope": (list, type(None)),
    "expires_at": (str, type(None)),
    "seconds_left": (int, type(None)),
    "last_renewed_at": (str, type(None)),
    "last_failure": (dict, type(None)),
    "failures_in_row": int,
    "next_attempt_at": (str, type(None)),
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

EVERY = [
    planned(published(), failed(0, obtained_at=NOW - 60)),
    planned(published(), failed(2)),
    planned(published(left=60)),
    planned(published(left=-60)),
    planned(published(), min_lifetime=None),
    planned(published("opaque-token")),
    planned(published(aud=["one", "two"], iss=7, scope=None)),
    planned(NO_FILE, failed()),
    planned(NO_FILE),
    planned(EMPTY),
]


def rendered(*plans: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(report.render(states(plans), NOW))
    return content


def test_the_document_has_a_version_a_time_and_the_tokens() -> None:
    content = rendered(*EVERY)
    assert list(content) == ["schema_version", "generated_at", "tokens"]
    assert (content["schema_version"], content["generated_at"]) == (1, "2026-11-22T12:00:00Z")
    assert len(content["tokens"]) == len(EVERY)
    assert rendered()["tokens"] == []


@pytest.mark.parametrize("number", range(len(EVERY)))
def test_each_token_has_all_keys_with_the_types_of_the_schema(number: int) -> None:
    (token,) = rendered(EVERY[number])["tokens"]
    assert list(token) == list(KEYS)
    for key, kind in KEYS.items():
        assert isinstance(token[key], kind), key
        assert not isinstance(token[key], bool), key
    assert token["state"] in ("fresh", "due", "expiring", "expired", "failed", "missing")
    for key in ("expires_at", "last_renewed_at", "next_attempt_at"):
        assert token[key] is None or TIME.fullmatch(token[key])
    if token["last_failure"] is not None:
        assert list(token["last_failure"]) == ["at", "reason", "message"]
        assert TIME.fullmatch(token["last_failure"]["at"])


def test_a_renewed_token_shows_all_that_is_known() -> None:
    (token,) = rendered(planned(published(aud=["one", "two"]), failed(0, obtained_at=NOW - 60, ago=7200)))[
        "tokens"
    ]
    assert token == {
        "name": "x",
        "account": "robot",
        "state": "fresh",
        "reason": "1 h left",
        "path": "/tokens/x",
        "mode": "0600",
        "issuer": "https://issuer.example.org",
        "audience": ["one", "two"],
        "scope": ["compute.read", "compute.create"],
        "expires_at": "2026-11-22T13:00:00Z",
        "seconds_left": 3600,
        "last_renewed_at": "2026-11-22T11:59:00Z",
        "last_failure": {
            "at": "2026-11-22T10:00:00Z",
            "reason": "refused",
            "message": "the issuer refused the refresh token (invalid_grant)",
        },
        "failures_in_row": 0,
        "next_attempt_at": None,
    }


def test_unknown_values_are_null() -> None:
    (token,) = rendered(planned(NO_FILE))["tokens"]
    unknown = {key for key, value in token.items() if value is None}
    assert unknown == set(KEYS) - {"name", "account", "state", "reason", "path", "failures_in_row"}


def test_audience_and_scope_are_null_for_an_opaque_token_and_empty_for_a_token_without_claims() -> None:
    opaque = published("opaque-token")
    record = TokenRecord(
        "x", issuer="https://issuer.example.org", fingerprint=opaque.fingerprint, expires_at=NOW + 1
    )
    (first, second) = rendered(planned(opaque, record), planned(published(aud=None, scope=None)))["tokens"]
    assert (first["audience"], first["scope"], first["issuer"]) == (None, None, "https://issuer.example.org")
    assert first["expires_at"] == "2026-11-22T12:00:01Z"
    assert (second["audience"], second["scope"]) == ([], [])


def test_the_document_does_not_hold_the_token() -> None:
    found: Published = published("very-opaque-token")
    assert "very-opaque" not in report.render(states([planned(found)]), NOW)


def test_a_path_that_is_not_utf_8_and_odd_claims_are_still_json() -> None:
    text = report.render(states([planned(published(scope="a\x1b[31m"), path="/tokens/\udcff")]), NOW)
    assert text.isascii()
    (token,) = json.loads(text)["tokens"]
    assert (token["path"], token["scope"]) == ("/tokens/\udcff", ["a\x1b[31m"])
