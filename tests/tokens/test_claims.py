"""A token is compared with what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from osg_token_renewer.errors import Unsuitable
from osg_token_renewer.model import AccessToken, TokenSpec
from osg_token_renewer.tokens import claims, jwt
from tests.specs import file_token
from tests.tokens.test_jwt import jws

NOW = 1_000_000.0
GRANTED = {"exp": NOW + 3600, "aud": ["ce", "se"], "scope": "read write"}


def spec(enforce: bool = False, **changes: Any) -> TokenSpec:
    given: dict[str, Any] = {
        "audience": ("ce", "se"),
        "scope": ("read", "write"),
        "min_lifetime": 600,
        **changes,
    }
    return file_token("x", "robot", "/x", enforce_claims=enforce, **given)


def token(**changes: Any) -> AccessToken:
    """A JWT with these claims; None leaves one out."""
    return jwt.parse(
        jws({name: value for name, value in {**GRANTED, **changes}.items() if value is not None})
    )


def notes(wanted: TokenSpec, came: AccessToken) -> tuple[str, ...]:
    return claims.check(wanted, came, NOW)


def refused(wanted: TokenSpec, came: AccessToken) -> Unsuitable:
    with pytest.raises(Unsuitable) as caught:
        claims.check(wanted, came, NOW)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("enforce", [False, True])
def test_a_token_that_is_what_was_asked_for_has_no_notes(enforce: bool) -> None:
    assert notes(spec(enforce), token()) == ()
    assert notes(spec(enforce), token(scope="write read", aud=["se", "more", "ce"])) == ()
    assert notes(spec(enforce, audience=(), scope=()), token(aud=None, scope="whatever")) == ()


@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize(("left", "ago"), [(0, "0 s"), (-1, "1 s"), (-7200, "2 h")])
def test_an_expired_token_is_never_published(enforce: bool, left: float, ago: str) -> None:
    opaque = jwt.parse("opaque", expires_at=NOW + left)
    for came in (token(exp=NOW + left), opaque):
        assert refused(spec(enforce), came).message == f"the token that came expired {ago} ago"


@pytest.mark.parametrize("enforce", [False, True])
def test_a_token_is_published_at_most_a_minute_before_it_becomes_valid(enforce: bool) -> None:
    for within in (-100, 0, 5):
        assert notes(spec(enforce), token(nbf=NOW + within)) == ()
    for within in (6, 60):
        assert notes(spec(enforce), token(nbf=NOW + within)) == (f"is not valid for another {within} s",)
    assert (
        refused(spec(enforce), token(nbf=NOW + 61)).message
        == "the token that came is not valid for 1 min yet"
    )
    assert (
        refused(spec(enforce), token(nbf=NOW + 7200)).message
        == "the token that came is not valid for 2 h yet"
    )


@pytest.mark.parametrize("nbf", ["soon", True, [1], float("nan"), -1])
def test_a_not_before_time_that_is_not_a_date_is_ignored(nbf: object) -> None:
    assert notes(spec(), token(nbf=nbf)) == ()


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"aud": "ce"}, ["audience se"]),
        ({"aud": None}, ["audience ce se"]),
        # A string is one audience, even with a blank in it.
        ({"aud": "ce se"}, ["audience ce se"]),
        ({"scope": "read"}, ["scope write"]),
        ({"scope": None}, ["scope read write"]),
        ({"aud": "se", "scope": "write"}, ["audience ce", "scope read"]),
    ],
)
def test_a_missing_audience_or_scope_is_a_note_or_if_enforced_a_failure(
    changes: dict[str, Any], missing: list[str]
) -> None:
    assert notes(spec(), token(**changes)) == tuple(f"lacks {what}" for what in missing)
    assert (
        refused(spec(enforce=True), token(**changes)).message
        == f"the token that came lacks {' and '.join(missing)}"
    )


@pytest.mark.parametrize("enforce", [False, True])
def test_more_scope_than_asked_for_is_a_note(enforce: bool) -> None:
    assert notes(spec(enforce), token(scope="read admin write")) == ("has more scope than asked for: admin",)


@pytest.mark.parametrize("enforce", [False, True])
def test_a_lifetime_shorter_than_min_lifetime_is_a_note(enforce: bool) -> None:
    assert notes(spec(enforce), token(exp=NOW + 600)) == ()
    said = notes(spec(enforce), token(exp=NOW + 300))
    assert said == ("lives only 5 min, less than the 10 min of min_lifetime",)
    assert notes(spec(enforce, min_lifetime=None), token(exp=NOW + 1)) == ()


@pytest.mark.parametrize("came", [token(exp=None), jwt.parse("opaque")])
def test_an_unknown_expiry_is_a_note_if_there_is_a_min_lifetime(came: AccessToken) -> None:
    wanted: dict[str, Any] = {"audience": (), "scope": ()}
    assert notes(spec(**wanted), came) == ("nobody said when it expires, so it is obtained in every run",)
    assert notes(spec(**wanted, min_lifetime=None), came) == ()


@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize("expires_at", [NOW + 3600, NOW + 300])
def test_only_the_lifetime_of_an_opaque_token_is_checked(enforce: bool, expires_at: float) -> None:
    short = ("lives only 5 min, less than the 10 min of min_lifetime",)
    assert notes(spec(enforce), jwt.parse("opaque", expires_at=expires_at)) == (
        short if expires_at == NOW + 300 else ()
    )


def test_a_token_has_no_notes_if_nothing_was_asked_for() -> None:
    assert notes(spec(audience=(), scope=()), jwt.parse("opaque", expires_at=NOW + 3600)) == ()


def test_a_token_may_have_several_notes() -> None:
    said = notes(spec(), token(aud="ce", scope="read admin", exp=NOW + 60))
    assert [note.split()[0] for note in said] == ["lacks", "lacks", "lives", "has"]


def test_notes_show_claims_in_one_short_line() -> None:
    hostile = token(
        scope=["read", "write", "a\nb\x1b[31m", "\u202e", "\ud800", "y" * 5000, *(str(n) for n in range(100))]
    )
    (said,) = notes(spec(), hostile)
    assert said.isprintable()
    assert len(said) < 500
    assert said.endswith("and 99 more")
