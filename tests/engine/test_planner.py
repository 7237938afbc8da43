"""Which tokens are due, and why."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from osg_token_renewer.engine.planner import decide, expiry
from osg_token_renewer.engine.run import plan_all
from osg_token_renewer.model import (
    Config,
    Decision,
    Found,
    Planned,
    Published,
    RenewerSettings,
    TokenRecord,
    TokenSpec,
    Why,
)
from osg_token_renewer.sinks.file import FileSettings, FileSink
from osg_token_renewer.tokens import jwt
from tests.specs import file_token
from tests.tokens.test_jwt import jws

NOW = 1_000_000.0
SPEC = file_token("x", "robot", "/x", ("aud1", "aud2"), ("read", "write"), min_lifetime=600)
GRANTED = {"aud": ["aud1", "aud2"], "scope": "read write"}


def spec(path: str = SPEC.path, mode: Optional[int] = None, **changes: Any) -> TokenSpec:
    return replace(SPEC, destination=FileSettings(path, mode), **changes)


def published(text: str, difference: Optional[str] = None) -> Published:
    return Published(Found.TOKEN, "", jwt.parse(text), jwt.fingerprint(text), 0o600, difference)


def signed(left: Optional[float] = 3600, **claims: Any) -> Published:
    """A published JWT with so many seconds left; None is one that does not say."""
    return published(jws({**GRANTED, **({} if left is None else {"exp": NOW + left}), **claims}))


def record(of: Published, asked: TokenSpec = SPEC, expires_at: Optional[float] = NOW + 3600) -> TokenRecord:
    return TokenRecord("x", of.fingerprint, asked.asked, expires_at=expires_at, obtained_at=NOW - 60)


OPAQUE = published("opaque-token")


# What stands at the path


def test_no_file_is_due(tmp_path: Path) -> None:
    wanted = spec(path=str(tmp_path / "x"))
    decision = decide(wanted, FileSink().read(wanted), None, NOW)
    assert (decision.due, decision.why, decision.text) == (True, Why.MISSING, "no file")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is empty"),
        ("one\ntwo", "more than one line or word"),
        ("<html>", "characters"),
        ("é", "characters"),
    ],
)
def test_a_file_that_holds_no_token_is_due(tmp_path: Path, content: str, problem: str) -> None:
    wanted = spec(path=str(tmp_path / "x"))
    Path(wanted.path).write_text(content, encoding="utf-8")
    decision = decide(wanted, FileSink().read(wanted), None, NOW)
    assert (decision.due, decision.why) == (True, Why.NOT_A_TOKEN)
    assert problem in decision.text


def test_something_that_is_no_file_is_due(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("token")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, text in (("link", "a symbolic link"), ("directory", "a directory"), ("pipe", "a named pipe")):
        wanted = spec(path=str(tmp_path / name))
        decision = decide(wanted, FileSink().read(wanted), None, NOW)
        assert (decision.due, decision.why, decision.text) == (True, Why.NOT_A_FILE, f"{text}, not a file")


def test_a_path_that_cannot_be_read_is_due(tmp_path: Path) -> None:
    # A file in the place of a directory: so that it fails for root too.
    (tmp_path / "file").write_text("")
    wanted = spec(path=str(tmp_path / "file" / "x"))
    decision = decide(wanted, FileSink().read(wanted), None, NOW)
    assert (decision.due, decision.why, decision.text) == (
        True,
        Why.UNREADABLE,
        "cannot be read: Not a directory",
    )
    (tmp_path / "circle").symlink_to("circle")
    wanted = spec(path=str(tmp_path / "circle" / "x"))
    assert decide(wanted, FileSink().read(wanted), None, NOW).why is Why.UNREADABLE


# Time


@pytest.mark.parametrize(
    ("left", "why", "text"),
    [
        (3600, Why.FRESH, "1 h left"),
        (600, Why.FRESH, "10 min left"),
        (599, Why.EXPIRING, "9 min left, less than the 10 min of min_lifetime"),
        (1, Why.EXPIRING, "1 s left, less than the 10 min of min_lifetime"),
        (0, Why.EXPIRED, "expired 0 s ago"),
        (-90, Why.EXPIRED, "expired 1 min ago"),
    ],
)
def test_a_token_is_due_when_it_has_less_than_min_lifetime_left(left: float, why: Why, text: str) -> None:
    for known in (None, record(signed(left))):
        decision = decide(SPEC, signed(left), known, NOW)
        assert (decision.why, decision.text, decision.due) == (why, text, why is not Why.FRESH)


def test_without_min_lifetime_a_token_is_due_in_every_run() -> None:
    assert decide(spec(min_lifetime=None), signed(), record(signed()), NOW).why is Why.EVERY_RUN
    assert decide(spec(min_lifetime=None), OPAQUE, record(OPAQUE), NOW).why is Why.EVERY_RUN


def test_a_min_lifetime_of_zero_counts() -> None:
    assert decide(spec(min_lifetime=0), signed(1), None, NOW).why is Why.FRESH


def test_the_tokens_own_expiry_comes_before_the_records() -> None:
    token = signed(3600)
    assert decide(SPEC, token, record(token, expires_at=NOW - 1), NOW).why is Why.FRESH
    assert expiry(token, record(token, expires_at=NOW - 1)) == NOW + 3600


@pytest.mark.parametrize(
    ("left", "why"), [(3600, Why.FRESH), (599, Why.EXPIRING), (0, Why.EXPIRED), (None, Why.UNKNOWN_EXPIRY)]
)
def test_the_record_knows_the_expiry_of_a_token_without_one(left: Optional[float], why: Why) -> None:
    for token in (OPAQUE, signed(None)):
        known = record(token, expires_at=None if left is None else NOW + left)
        assert decide(SPEC, token, known, NOW).why is why


def test_an_opaque_token_without_a_record_is_due() -> None:
    decision = decide(SPEC, OPAQUE, None, NOW)
    assert (decision.due, decision.why, decision.text) == (
        True,
        Why.UNKNOWN_EXPIRY,
        "nobody said when it expires",
    )


def test_an_opaque_token_that_somebody_put_there_is_due_whatever_the_record_says() -> None:
    assert decide(SPEC, OPAQUE, record(published("another-token")), NOW).why is Why.UNKNOWN_EXPIRY
    assert expiry(OPAQUE, record(published("another-token"))) is None


def test_a_record_of_failures_alone_says_nothing_of_the_token() -> None:
    known = TokenRecord("x", failed_at=NOW - 5, failure_reason="refused", failures_in_row=3)
    assert decide(SPEC, signed(), known, NOW).why is Why.FRESH
    assert decide(SPEC, OPAQUE, known, NOW).why is Why.UNKNOWN_EXPIRY


# Spread

SPREAD = 100
# Just enough to be moved.
LIFETIME = 600 + 4 * SPREAD


def when(
    left: float, run: float = 0, lifetime: float = LIFETIME, spread: float = SPREAD, **changes: Any
) -> Decision:
    """The decision about a token with so many seconds left. Each `run` obtained it at another time."""
    wanted, obtained_at = spec(**changes), NOW + run
    token = published(jws({**GRANTED, "exp": obtained_at + lifetime}))
    known = TokenRecord("x", token.fingerprint, wanted.asked, obtained_at=obtained_at)
    return decide(wanted, token, known, obtained_at + lifetime - left, spread=spread)


def ahead(run: float, **changes: Any) -> int:
    """The seconds by which the renewal is brought forward, rounded up."""
    return [when(600 + seconds, run, **changes).due for seconds in range(SPREAD + 1)].index(False)


def test_a_renewal_that_is_brought_forward_says_so() -> None:
    decision = when(600, run=1)
    assert (decision.due, decision.why) == (True, Why.SPREAD)
    assert decision.text == "10 min left, moved 38 s ahead of the 10 min of min_lifetime by spread"
    assert when(599, run=1) == when(599, run=1, spread=0)


def test_a_renewal_is_brought_forward_by_less_than_spread_and_never_delayed() -> None:
    for run in range(50):
        assert 0 <= ahead(run) <= SPREAD
        for left in (599, 1, 0, -1):
            assert when(left, run) == when(left, run, spread=0)
        assert not when(600 + SPREAD, run).due


def test_the_runs_of_many_hosts_are_spread_evenly() -> None:
    """Hosts that start together obtain their tokens within seconds, in the order of one configuration."""
    found = [ahead(0.37 * run) for run in range(400)]
    quarters = [
        sum(first < each <= first + SPREAD / 4 for each in found) for first in range(0, SPREAD, SPREAD // 4)
    ]
    assert all(75 <= quarter <= 125 for quarter in quarters)


def test_accounts_of_a_run_are_spread_evenly() -> None:
    found = [ahead(0, account=f"account{number}") for number in range(400)]
    quarters = [
        sum(first < each <= first + SPREAD / 4 for each in found) for first in range(0, SPREAD, SPREAD // 4)
    ]
    assert all(75 <= quarter <= 125 for quarter in quarters)


def test_tokens_of_an_account_that_were_obtained_together_stay_together() -> None:
    """Opening the account costs most."""
    assert (
        len({ahead(7, name=f"token{number}", path=f"/{number}", audience=("aud1",)) for number in range(20)})
        == 1
    )
    assert len({ahead(run) for run in range(20)}) > 10


@pytest.mark.parametrize("lifetime", [LIFETIME - 1, 700, 600, 60])
def test_the_renewal_of_a_short_lived_token_is_not_brought_forward(lifetime: float) -> None:
    """It would only be obtained more often, perhaps in every run."""
    for run in range(20):
        for left in (599, 600, 600 + SPREAD):
            assert when(left, run, lifetime) == when(left, run, lifetime, spread=0)
    assert not any(when(LIFETIME, run, spread=10**6).due for run in range(20))


def test_a_renewal_is_not_brought_forward_without_a_record_of_the_token() -> None:
    token, changes = signed(600), ({"min_lifetime": None}, {"min_lifetime": 0})
    enough: dict[str, Any] = {"expires_at": NOW + 600, "obtained_at": NOW - 10**6}
    others = TokenRecord("x", "another", SPEC.asked, **enough)
    undated = TokenRecord("x", token.fingerprint, SPEC.asked, expires_at=NOW + 600)
    for known in (None, others, undated):
        assert decide(SPEC, token, known, NOW, spread=10).why is Why.FRESH
    for change in changes:
        known = TokenRecord("x", token.fingerprint, spec(**change).asked, **enough)
        assert decide(spec(**change), token, known, NOW, spread=10) == decide(
            spec(**change), token, known, NOW
        )
    assert decide(SPEC, OPAQUE, record(OPAQUE, expires_at=None), NOW, spread=10).why is Why.UNKNOWN_EXPIRY


def test_the_renewal_of_an_opaque_token_is_brought_forward_too() -> None:
    known = TokenRecord("x", OPAQUE.fingerprint, SPEC.asked, expires_at=NOW + 600, obtained_at=NOW - 10**6)
    assert decide(SPEC, OPAQUE, known, NOW, spread=100_000).why is Why.SPREAD


# What becomes of an expired token


def test_the_reason_says_that_an_expired_token_will_be_removed() -> None:
    assert (
        decide(spec(remove_expired=True), signed(-90), None, NOW).text
        == "expired 1 min ago, to be removed if it cannot be renewed"
    )


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (-90, "no file: the last token expired 1 min ago, and on_expiry is remove"),
        (90, "no file"),
        (None, "no file"),
    ],
)
def test_the_reason_says_that_a_missing_token_was_removed(known: Optional[float], text: str) -> None:
    nothing, before = (
        Published(Found.NOTHING, "no file"),
        record(signed(), expires_at=None if known is None else NOW + known),
    )
    assert decide(spec(remove_expired=True), nothing, before, NOW).text == text
    assert decide(spec(), nothing, before, NOW).text == "no file"


# Asked for differently


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"account": "other"}, "account changed since it was published"),
        ({"audience": ("aud1",)}, "audience changed since it was published"),
        ({"audience": ()}, "audience changed since it was published"),
        ({"scope": ("read", "write", "more")}, "scope changed since it was published"),
        ({"scope": ("read",), "audience": ("aud3",)}, "audience and scope changed since it was published"),
    ],
)
def test_a_token_that_was_asked_for_differently_is_due(change: dict[str, Any], text: str) -> None:
    for token in (signed(), OPAQUE):
        decision = decide(spec(**change), token, record(token), NOW)
        assert (decision.due, decision.why, decision.text) == (True, Why.CHANGED, text)


@pytest.mark.parametrize(
    "change",
    [
        {"audience": ("aud2", "aud1"), "scope": ("write", "read")},
        {"audience": ("aud1", "aud1", "aud2")},
        {"path": "/elsewhere", "enforce_claims": True, "min_lifetime": 60},
    ],
)
def test_neither_the_order_of_words_nor_options_outside_the_request_make_a_token_due(
    change: dict[str, Any],
) -> None:
    for token in (signed(), OPAQUE):
        assert decide(spec(**change), token, record(token), NOW).why is Why.FRESH


def test_a_token_is_fresh_if_the_issuer_granted_less_and_the_request_is_the_same() -> None:
    # Asking again would bring the same token again.
    token = signed(aud="other", scope="read")
    assert decide(SPEC, token, record(token), NOW).why is Why.FRESH


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"aud": "aud1"}, "audience is not what is asked for"),
        ({"aud": None}, "audience is not what is asked for"),
        ({"scope": "read"}, "scope is not what is asked for"),
        ({"aud": "other", "scope": "other"}, "audience is not what is asked for"),
    ],
)
def test_without_a_record_a_token_that_grants_less_than_asked_for_is_due(
    claims: dict[str, Any], text: str
) -> None:
    token = signed(**claims)
    for known in (None, record(published("another-token"))):
        decision = decide(SPEC, token, known, NOW)
        assert (decision.due, decision.why, decision.text) == (True, Why.CHANGED, text)


def test_without_a_record_a_token_that_grants_what_is_asked_for_is_fresh() -> None:
    assert (
        decide(SPEC, signed(aud=["aud2", "aud0", "aud1"], scope="write more read"), None, NOW).why
        is Why.FRESH
    )
    assert decide(spec(audience=(), scope=()), signed(aud="any", scope="any"), None, NOW).why is Why.FRESH


def test_a_file_with_other_attributes_than_configured_is_due(tmp_path: Path) -> None:
    wanted = spec(path=str(tmp_path / "x"), mode=0o640)
    Path(wanted.path).write_text(jws({**GRANTED, "exp": NOW + 3600}))
    os.chmod(wanted.path, 0o600)
    decision = decide(wanted, FileSink().read(wanted), None, NOW)
    assert (decision.why, decision.text) == (Why.CHANGED, "its mode is 0600, not the configured 0640")
    os.chmod(wanted.path, 0o640)
    assert decide(wanted, FileSink().read(wanted), None, NOW).why is Why.FRESH


# Forced


def test_a_forced_token_is_due() -> None:
    decision = decide(SPEC, signed(), record(signed()), NOW, force=True)
    assert (decision.due, decision.why, decision.text) == (True, Why.FORCED, "forced")


def test_force_does_not_hide_the_state_of_the_published_token() -> None:
    assert decide(SPEC, Published(Found.NOTHING, "no file"), None, NOW, force=True).why is Why.MISSING
    assert decide(SPEC, signed(-1), None, NOW, force=True).why is Why.EXPIRED


def test_a_plan_holds_what_it_was_made_from(tmp_path: Path) -> None:
    wanted = spec(path=str(tmp_path / "x"))
    Path(wanted.path).write_text(jws({**GRANTED, "exp": NOW + 3600}))
    (planned,) = plan_all(Config({}, (wanted,), RenewerSettings(state_dir=str(tmp_path)), ()), NOW)
    found = FileSink().read(wanted)
    assert planned == Planned(wanted, found, None, decide(wanted, found, None, NOW), NOW + 3600)
