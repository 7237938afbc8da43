"""Lanes, with real sources, a real issuer and real files."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from osg_token_renewer import jwt, runner
from osg_token_renewer.model import STOPPED, Account, Outcome, Secret, State, TokenSpec
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources import client_credentials, oidc_agent
from osg_token_renewer.sources.base import Directories
from osg_token_renewer.stop import Stop
from testbed import Issuer


class Lanes:
    """Accounts and tokens to run. Accounts get a client each."""

    def __init__(self, issuer: Issuer, tokens: Path) -> None:
        self.issuer = issuer
        self.tokens = tokens
        self.accounts: dict[str, Account] = {}
        self.clients: dict[str, str] = {}
        self.stop = Stop()

    def account(self, name: str, secret: Optional[str] = None) -> None:
        client = self.issuer.add_client()
        assert client.client_secret is not None
        settings = client_credentials.Settings(
            f"{self.issuer.url}/token", client.client_id, Secret(secret or client.client_secret), ca_file=str(self.issuer.ca_file)
        )
        self.accounts[name] = Account(name, client_credentials.NAME, settings)
        self.clients[name] = client.client_id

    def token(self, account: str, number: int = 1, **settings: Any) -> TokenSpec:
        name = f"{account}{number}"
        settings.setdefault("audience", (name,))
        return TokenSpec(name, account, settings.pop("path", str(self.tokens / name)), **settings)

    def start(self, specs: Sequence[TokenSpec], workers: Optional[int] = None) -> Iterator[Outcome]:
        return runner.run(
            specs, self.accounts, where=Directories(str(self.tokens), str(self.tokens)), configured_workers=workers, stop=self.stop
        )

    def run(self, specs: Sequence[TokenSpec], workers: Optional[int] = None) -> dict[str, str]:
        """What became of each token: its reason, by its name, in the order in which they came."""
        outcomes = list(self.start(specs, workers))
        assert len(outcomes) == len(specs)
        return {outcome.spec.name: outcome.reason for outcome in outcomes}


@pytest.fixture
def lanes(issuer: Issuer, tmp_path: Path) -> Lanes:
    made = Lanes(issuer, tmp_path)
    for name in "abc":
        made.account(name)
    return made


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.mark.parametrize(("workers", "at_once"), [(None, 3), (10, 3), (2, 2), (1, 1)])
def test_accounts_are_asked_for_beside_each_other_as_many_as_there_are_workers(lanes: Lanes, workers: Optional[int], at_once: int) -> None:
    # None of the first is answered before there are so many; another one would have the time to come.
    lanes.issuer.settings(latency_ms=250)
    lanes.issuer.fault(endpoint="token", gather=at_once, times=at_once)
    assert set(lanes.run([lanes.token(name) for name in "abc"], workers).values()) == {"renewed"}
    assert lanes.issuer.counts().max_in_flight == at_once


def test_the_tokens_of_an_account_are_asked_for_one_after_the_other_in_their_order(lanes: Lanes) -> None:
    lanes.issuer.settings(latency_ms=50)
    assert list(lanes.run([lanes.token("a", number) for number in range(4)], workers=1)) == ["a0", "a1", "a2", "a3"]
    counts = lanes.issuer.counts()
    assert (counts.token, counts.max_in_flight, counts.connections) == (4, 1, 1)


def test_where_nothing_rotates_the_tokens_of_an_account_are_asked_for_beside_each_other(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", gather=3)
    assert set(lanes.run([lanes.token("a", number) for number in range(6)], workers=3).values()) == {"renewed"}
    counts = lanes.issuer.counts()
    assert (counts.token, counts.max_in_flight, counts.connections) == (6, 3, 3)


def test_tokens_that_ask_for_the_same_are_served_by_one_request(lanes: Lanes) -> None:
    specs = [lanes.token("a", number, audience=("x", "y")) for number in (1, 2)]
    specs += [lanes.token("a", 3, audience=("y", "x")), lanes.token("a", 4, audience=("z",)), lanes.token("b", audience=("x", "y"))]
    assert set(lanes.run(specs).values()) == {"renewed"}
    assert lanes.issuer.counts().token == 3
    one, two, three, four = ((lanes.tokens / f"a{number}").read_text() for number in (1, 2, 3, 4))
    assert one == two == three != four


def test_one_of_those_that_cannot_be_published_does_not_keep_the_others_from_it(lanes: Lanes) -> None:
    (lanes.tokens / "a1").mkdir()
    assert lanes.run([lanes.token("a", number, audience=("x",)) for number in (1, 2)]) == {"a1": "local", "a2": "renewed"}
    assert lanes.issuer.counts().token == 1


def test_outcomes_come_as_they_are_and_not_in_the_order_of_the_accounts(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", client_id=lanes.clients["a"], hold=True)
    outcomes = lanes.start([lanes.token("a"), lanes.token("b", 1), lanes.token("b", 2)], workers=2)
    assert [next(outcomes).spec.name for _ in range(2)] == ["b1", "b2"]
    lanes.issuer.clear_faults()
    assert [outcome.spec.name for outcome in outcomes] == ["a1"]


def test_a_failed_account_does_not_stop_the_others(lanes: Lanes) -> None:
    lanes.account("wrong", secret="not-its-secret")
    specs = [lanes.token(name, number) for number in (1, 2) for name in ("wrong", "a", "b")]
    reasons = lanes.run(specs, workers=1)
    assert reasons == {"wrong1": "refused", "wrong2": "refused", "a1": "renewed", "a2": "renewed", "b1": "renewed", "b2": "renewed"}
    assert sorted(path.name for path in lanes.tokens.iterdir()) == ["a1", "a2", "b1", "b2"]


def test_a_failed_token_does_not_stop_the_next_one_of_its_account(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", times=1, status=500)
    assert lanes.run([lanes.token("a", 1), lanes.token("a", 2)], workers=1) == {"a1": "unavailable", "a2": "renewed"}


def test_an_account_whose_issuer_does_not_answer_is_asked_once_and_no_more(lanes: Lanes) -> None:
    lanes.accounts["a"] = replace(lanes.accounts["a"], timeout=0.4)
    lanes.issuer.fault(endpoint="token", client_id=lanes.clients["a"], hang=True)
    specs = [*(lanes.token("a", number) for number in (1, 2, 3)), lanes.token("b")]
    outcomes = {one.spec.name: one for one in lanes.start(specs, workers=2)}
    assert outcomes.pop("b1").state is State.RENEWED
    assert list(outcomes) == ["a1", "a2", "a3"]
    assert {(one.reason, one.message) for one in outcomes.values()} == {
        ("unavailable", f"{lanes.issuer.url[8:]} had not answered after 0.4 s")
    }
    # With that of the other account; fewer, if it had not even come when its time was over.
    assert lanes.issuer.counts().token <= 2


def test_a_failure_that_may_pass_says_that_it_is_tried_again(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", status=500)
    (outcome,) = lanes.start([lanes.token("a")])
    assert outcome.hint == "the next run tries again; if this lasts, check the network and ask the issuer's operators"


def test_an_account_that_cannot_be_opened_fails_each_of_its_tokens_with_the_same_cause(lanes: Lanes) -> None:
    settings = oidc_agent.Settings(SecretFile("/nonexistent/robot.pw"))
    lanes.accounts["robot"] = Account("robot", oidc_agent.NAME, settings)
    outcomes = {one.spec.name: one for one in lanes.start([lanes.token("robot", 1), lanes.token("robot", 2), lanes.token("a")])}
    assert outcomes["a1"].state is State.RENEWED
    assert {outcomes[name].message for name in ("robot1", "robot2")} == {
        "the password file /nonexistent/robot.pw cannot be read: No such file or directory"
    }


def test_the_issuer_is_not_asked_for_a_token_that_could_not_be_published(lanes: Lanes) -> None:
    (lanes.tokens / "a2").mkdir()
    assert lanes.run([lanes.token("a", 1), lanes.token("a", 2)]) == {"a2": "local", "a1": "renewed"}
    assert lanes.issuer.counts().token == 1
    lanes.issuer.reset_counts()
    assert lanes.run([lanes.token("a", 1, path="/nonexistent/a")]) == {"a1": "local"}
    assert lanes.issuer.counts().total == 0


def test_a_bug_in_one_lane_is_its_tokens_outcome_and_tells_no_secret(lanes: Lanes, caplog: pytest.LogCaptureFixture) -> None:
    # Settings of another kind than the source's own, as no loader would make them.
    lanes.accounts["odd"] = Account("odd", client_credentials.NAME, {"client_secret": "s3cret"})
    logger = logging.getLogger("osg_token_renewer")
    before, logger.propagate = logger.propagate, True
    try:
        reasons = lanes.run([lanes.token("odd", 1), lanes.token("odd", 2), lanes.token("a")])
    finally:
        logger.propagate = before
    assert reasons == {"odd1": "bug", "odd2": "bug", "a1": "renewed"}
    assert "account odd: a bug in this program: AttributeError" in caplog.text
    assert "client_credentials.py" in caplog.text
    assert "s3cret" not in caplog.text


def test_what_is_under_way_when_the_run_is_stopped_is_published_and_the_rest_is_not_begun(lanes: Lanes) -> None:
    specs = [lanes.token(name, number) for number in (1, 2, 3) for name in ("a", "b")]
    lanes.issuer.fault(endpoint="token", gather=2, times=2)
    lanes.issuer.fault(endpoint="token", hold=True)
    outcomes = lanes.start(specs, workers=2)
    seen = [next(outcomes)]
    lanes.stop.signal = 15
    lanes.issuer.clear_faults()
    seen += outcomes
    asked = lanes.issuer.counts().token
    renewed = {outcome.spec.name for outcome in seen if outcome.state is State.RENEWED}
    stopped = {outcome.spec.name: outcome.message for outcome in seen if outcome.reason == STOPPED}
    assert len(renewed) == asked < 6
    assert {"a1", "b1"} <= renewed
    assert set(stopped.values()) == {"the run was stopped before its turn came"}
    assert renewed | set(stopped) == {spec.name for spec in specs}
    assert {path.name for path in lanes.tokens.iterdir()} == renewed


def test_an_opaque_token_is_said_to_be_one_where_there_was_something_to_check(lanes: Lanes) -> None:
    lanes.issuer.settings(opaque_audiences=["*"], access_token_ttl=3630)
    outcomes = [
        *lanes.start(
            [lanes.token("a", audience=("x",)), lanes.token("b", audience=(), scope=("compute.read",)), lanes.token("c", audience=())]
        )
    ]
    assert {one.spec.name: (one.message, one.notes) for one in outcomes} == {
        "a1": ("renewed, valid for 1 h, not checkable because it is opaque", ()),
        "b1": ("renewed, valid for 1 h, not checkable because it is opaque", ()),
        "c1": ("renewed, valid for 1 h", ()),
    }


def test_a_run_that_is_stopped_before_it_begins_asks_for_nothing(lanes: Lanes) -> None:
    lanes.stop.signal = 2
    assert lanes.run([lanes.token("a"), lanes.token("b")]) == {"a1": "stopped", "b1": "stopped"}
    assert lanes.issuer.counts().total == 0


def test_a_run_that_nobody_follows_to_its_end_leaves_no_lane_behind(lanes: Lanes) -> None:
    # All of them would take half a minute.
    lanes.issuer.settings(latency_ms=150)
    outcomes = lanes.start([lanes.token("a", number) for number in range(200)], workers=1)
    assert next(outcomes).state is State.RENEWED
    assert lane_threads() != []
    outcomes.close()  # type: ignore[attr-defined]
    assert lane_threads() == []
    published = sorted(path.name for path in lanes.tokens.iterdir())
    assert len(published) == lanes.issuer.counts().token < 200
    assert not any(name.endswith(".tmp") for name in published)


def names_in(due: Sequence[TokenSpec], accounts: dict[str, Account], at_once: int) -> list[list[list[str]]]:
    return [[[spec.name for spec in batch] for batch in batches] for _account, batches in runner.lanes(due, accounts, at_once)]


def test_an_account_whose_refresh_token_may_rotate_is_one_lane_in_file_order(lanes: Lanes) -> None:
    robot = Account("robot", oidc_agent.NAME, oidc_agent.Settings(SecretFile("/nonexistent")))
    due = [lanes.token("robot", number) for number in range(3)]
    assert names_in(due, {"robot": robot}, 32) == [[["robot0"], ["robot1"], ["robot2"]]]


def test_other_accounts_share_the_lanes_there_are_room_for(lanes: Lanes) -> None:
    due = [lanes.token(name, number) for name in "ab" for number in range(3)]
    assert names_in(due, lanes.accounts, 1) == [[["a0"], ["a1"], ["a2"]], [["b0"], ["b1"], ["b2"]]]
    assert names_in(due, lanes.accounts, 4) == [[["a0"], ["a2"]], [["a1"]], [["b0"], ["b2"]], [["b1"]]]
    assert len(names_in(due, lanes.accounts, 100)) == 6


def test_what_became_of_a_token_is_told_with_its_lifetime_and_fingerprint(lanes: Lanes) -> None:
    lanes.issuer.settings(access_token_ttl=7230)
    (outcome,) = lanes.start([lanes.token("a", min_lifetime=8000, audience=("x",))])
    assert outcome.message == "renewed, valid for 2 h"
    assert outcome.notes == ("lives only 2 h, less than the 2 h 13 min of min_lifetime",)
    assert outcome.token is not None
    assert outcome.expires_at == lanes.issuer.verify((lanes.tokens / "a1").read_text().strip())["exp"]
    assert outcome.fingerprint == jwt.fingerprint((lanes.tokens / "a1").read_text())
    assert outcome.token.text.reveal() not in repr(outcome)
