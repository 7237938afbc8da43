"""Lanes, with real sources, a real issuer and real files."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.engine.workers import deal, run_lanes
from osg_token_renewer.errors import Stopped
from osg_token_renewer.model import Account, Outcome, Secret, State, TokenSpec
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources import client_credentials, token_endpoint
from osg_token_renewer.sources.base import Context
from osg_token_renewer.sources.oidc_agent import source
from osg_token_renewer.system.signals import Stop
from osg_token_renewer.tokens import jwt
from testbed import Issuer
from tests.host import until
from tests.specs import file_token
from tests.tokens.test_jwt import jws


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
        settings = token_endpoint.TokenEndpoint(
            f"{self.issuer.url}/token",
            client.client_id,
            Secret(secret or client.client_secret),
            ca_file=str(self.issuer.ca_file),
        )
        self.accounts[name] = Account(name, client_credentials.ClientCredentials.NAME, settings)
        self.clients[name] = client.client_id

    def token(self, account: str, number: int = 1, **settings: Any) -> TokenSpec:
        name = f"{account}{number}"
        settings.setdefault("audience", (name,))
        return file_token(name, account, settings.pop("path", str(self.tokens / name)), **settings)

    def start(
        self, specs: Sequence[TokenSpec], workers: Optional[int] = None, run_timeout: float = 600
    ) -> Iterator[Outcome]:
        where = Context(str(self.tokens), str(self.tokens))
        return run_lanes(
            specs,
            self.accounts,
            context=where,
            limits=Limits(run_timeout, self.stop.requested),
            workers=workers,
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


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings and errors that are logged from here on."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.mark.parametrize(("workers", "at_once"), [(None, 3), (10, 3), (2, 2), (1, 1)])
def test_accounts_are_renewed_in_parallel_as_many_as_there_are_workers(
    lanes: Lanes, workers: Optional[int], at_once: int
) -> None:
    # None of the first is answered before there are so many; another one would have the time to come.
    lanes.issuer.settings(latency_ms=250)
    lanes.issuer.fault(endpoint="token", gather=at_once, times=at_once)
    assert set(lanes.run([lanes.token(name) for name in "abc"], workers).values()) == {"renewed"}
    assert lanes.issuer.counts().max_in_flight == at_once


def test_the_tokens_of_an_account_are_obtained_one_after_the_other_in_their_order(lanes: Lanes) -> None:
    lanes.issuer.settings(latency_ms=50)
    assert list(lanes.run([lanes.token("a", number) for number in range(4)], workers=1)) == [
        "a0",
        "a1",
        "a2",
        "a3",
    ]
    counts = lanes.issuer.counts()
    assert (counts.token, counts.max_in_flight, counts.connections) == (4, 1, 1)


def test_an_account_without_a_refresh_token_has_several_lanes(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", gather=3)
    assert set(lanes.run([lanes.token("a", number) for number in range(6)], workers=3).values()) == {
        "renewed"
    }
    counts = lanes.issuer.counts()
    assert (counts.token, counts.max_in_flight, counts.connections) == (6, 3, 3)


def test_tokens_that_ask_for_the_same_are_served_by_one_request(lanes: Lanes) -> None:
    specs = [lanes.token("a", number, audience=("x", "y")) for number in (1, 2)]
    specs += [lanes.token("a", 3, audience=("y", "x"), min_lifetime=60), lanes.token("a", 4, audience=("z",))]
    specs += [lanes.token("b", audience=("x", "y"))]
    assert set(lanes.run(specs).values()) == {"renewed"}
    assert lanes.issuer.counts().token == 3
    one, two, three, four = ((lanes.tokens / f"a{number}").read_text() for number in (1, 2, 3, 4))
    assert one == two == three != four


def test_a_token_that_cannot_be_published_does_not_stop_others_of_the_same_request(lanes: Lanes) -> None:
    (lanes.tokens / "a1").mkdir()
    assert lanes.run([lanes.token("a", number, audience=("x",)) for number in (1, 2)]) == {
        "a1": "local",
        "a2": "renewed",
    }
    assert lanes.issuer.counts().token == 1


def test_outcomes_come_as_they_happen_not_in_the_order_of_the_accounts(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", client_id=lanes.clients["a"], hold=True)
    outcomes = lanes.start([lanes.token("a"), lanes.token("b", 1), lanes.token("b", 2)], workers=2)
    assert [next(outcomes).spec.name for _ in range(2)] == ["b1", "b2"]
    lanes.issuer.clear_faults()
    assert [outcome.spec.name for outcome in outcomes] == ["a1"]


def test_a_failed_account_does_not_stop_the_others(lanes: Lanes) -> None:
    lanes.account("wrong", secret="not-its-secret")
    specs = [lanes.token(name, number) for number in (1, 2) for name in ("wrong", "a", "b")]
    reasons = lanes.run(specs, workers=1)
    assert reasons == {
        "wrong1": "refused",
        "wrong2": "refused",
        "a1": "renewed",
        "a2": "renewed",
        "b1": "renewed",
        "b2": "renewed",
    }
    assert sorted(path.name for path in lanes.tokens.iterdir()) == ["a1", "a2", "b1", "b2"]


def test_a_failed_token_does_not_stop_the_next_one_of_its_account(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", times=1, status=500)
    assert lanes.run([lanes.token("a", 1), lanes.token("a", 2)], workers=1) == {
        "a1": "unavailable",
        "a2": "renewed",
    }


def test_an_issuer_that_does_not_answer_is_asked_once_for_an_account(lanes: Lanes) -> None:
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


def test_a_passing_failure_says_that_the_next_run_tries_again(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", status=500)
    (outcome,) = lanes.start([lanes.token("a")])
    assert (
        outcome.hint
        == "the next run tries again; if this lasts, check the network and ask the issuer's operators"
    )


def test_an_account_that_cannot_be_opened_fails_each_of_its_tokens_with_the_same_cause(lanes: Lanes) -> None:
    settings = source.Settings(SecretFile("/nonexistent/robot.pw"))
    lanes.accounts["robot"] = Account("robot", source.OidcAgent.NAME, settings)
    outcomes = {
        one.spec.name: one
        for one in lanes.start([lanes.token("robot", 1), lanes.token("robot", 2), lanes.token("a")])
    }
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


def test_a_bug_in_one_lane_is_the_outcome_of_its_tokens_and_shows_no_secret(
    lanes: Lanes, warnings: Callable[[], list[str]]
) -> None:
    # Settings of another kind than the source's own, as no loader would make them.
    lanes.accounts["odd"] = Account(
        "odd", client_credentials.ClientCredentials.NAME, {"client_secret": "s3cret"}
    )
    reasons = lanes.run([lanes.token("odd", 1), lanes.token("odd", 2), lanes.token("a")])
    assert reasons == {"odd1": "bug", "odd2": "bug", "a1": "renewed"}
    for said in warnings():
        assert said.startswith("account odd: a bug in this program: AttributeError")
        assert "client_credentials.py" in said
        assert "s3cret" not in said
    assert len(warnings()) == 2


class Leaving:
    """Settings that end the thread that looks at them."""

    def __getattr__(self, name: str) -> object:
        raise SystemExit


def test_a_lane_that_dies_stops_neither_the_run_nor_the_lanes_behind_it(lanes: Lanes) -> None:
    lanes.accounts["odd"] = Account("odd", client_credentials.ClientCredentials.NAME, Leaving())
    assert lanes.run([lanes.token("odd"), lanes.token("a")], workers=1) == {"odd1": "bug", "a1": "renewed"}


def test_a_stopped_run_publishes_the_tokens_under_way_and_begins_no_others(
    lanes: Lanes,
) -> None:
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
    stopped = {outcome.spec.name: outcome.message for outcome in seen if outcome.reason == Stopped.reason}
    assert len(renewed) == asked < 6
    assert {"a1", "b1"} <= renewed
    assert set(stopped.values()) == {"the run was stopped before its turn came"}
    assert renewed | set(stopped) == {spec.name for spec in specs}
    assert {path.name for path in lanes.tokens.iterdir()} == renewed


def test_the_message_says_that_an_opaque_token_could_not_be_checked(lanes: Lanes) -> None:
    lanes.issuer.settings(opaque_audiences=["*"], access_token_ttl=3630)
    outcomes = [
        *lanes.start(
            [
                lanes.token("a", audience=("x",)),
                lanes.token("b", audience=(), scope=("compute.read",)),
                lanes.token("c", audience=()),
            ]
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


def test_a_run_that_is_closed_early_leaves_no_lane_behind(lanes: Lanes) -> None:
    # All of them would take minutes.
    lanes.issuer.settings(latency_ms=300)
    outcomes = lanes.start([lanes.token("a", number) for number in range(1000)], workers=1)
    assert next(outcomes).state is State.RENEWED
    assert lane_threads() != []
    outcomes.close()  # type: ignore[attr-defined]
    assert lane_threads() == []
    published = sorted(path.name for path in lanes.tokens.iterdir())
    assert len(published) == lanes.issuer.counts().token < 1000
    assert not any(name.endswith(".tmp") for name in published)


def names_in(due: Sequence[TokenSpec], accounts: dict[str, Account], at_once: int) -> list[list[list[str]]]:
    return [
        [[spec.name for spec in batch] for batch in batches]
        for _account, batches in deal(due, accounts, at_once)
    ]


def test_an_account_whose_refresh_token_may_rotate_is_one_lane_in_file_order(lanes: Lanes) -> None:
    robot = Account("robot", source.OidcAgent.NAME, source.Settings(SecretFile("/nonexistent")))
    due = [lanes.token("robot", number) for number in range(3)]
    assert names_in(due, {"robot": robot}, 32) == [[["robot0"], ["robot1"], ["robot2"]]]


def test_accounts_without_a_refresh_token_share_the_lanes(lanes: Lanes) -> None:
    due = [lanes.token(name, number) for name in "ab" for number in range(3)]
    assert names_in(due, lanes.accounts, 1) == [[["a0"], ["a1"], ["a2"]], [["b0"], ["b1"], ["b2"]]]
    assert names_in(due, lanes.accounts, 4) == [[["a0"], ["a2"]], [["a1"]], [["b0"], ["b2"]], [["b1"]]]
    assert len(names_in(due, lanes.accounts, 100)) == 6


def test_the_outcome_of_a_renewal_has_lifetime_and_fingerprint(lanes: Lanes) -> None:
    lanes.issuer.settings(access_token_ttl=7230)
    (outcome,) = lanes.start([lanes.token("a", min_lifetime=8000, audience=("x",))])
    assert outcome.message == "renewed, valid for 2 h"
    assert outcome.notes == ("lives only 2 h, less than the 2 h 13 min of min_lifetime",)
    assert outcome.token is not None
    assert outcome.expires_at == lanes.issuer.verify((lanes.tokens / "a1").read_text().strip())["exp"]
    assert outcome.fingerprint == jwt.fingerprint((lanes.tokens / "a1").read_text())
    assert outcome.token.text.reveal() not in repr(outcome)


# limits


# What must end does so long before this, on any machine; without its limit it would not.
BOUND = 60.0


@contextmanager
def silent() -> Iterator[str]:
    """The host of an issuer that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        yield f"localhost:{listening.getsockname()[1]}"


@contextmanager
def stopping_after(lanes: Lanes, requests: int) -> Iterator[None]:
    """Stops the run once it has made so many requests."""

    def stop() -> None:
        until(lambda: lanes.issuer.counts().token == requests)
        lanes.stop.signal = 15

    thread = threading.Thread(target=stop)
    thread.start()
    yield
    thread.join()


def bounded(began: float) -> bool:
    return time.monotonic() - began < BOUND


def test_a_request_that_failed_in_passing_is_repeated(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", client_id=lanes.clients["a"], times=1, status=502)
    lanes.issuer.fault(endpoint="token", client_id=lanes.clients["a"], times=1, status=504)
    assert lanes.run([lanes.token("a")]) == {"a1": "renewed"}
    assert lanes.issuer.counts().token == 3


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_request_that_keeps_failing_is_made_three_times(lanes: Lanes, status: int) -> None:
    lanes.issuer.fault(endpoint="token", status=status)
    (outcome,) = lanes.start([lanes.token("a")])
    assert (outcome.reason, outcome.message) == (
        "unavailable",
        f"the issuer answered with HTTP status {status} (3 times)",
    )
    assert lanes.issuer.counts().token == 3


@pytest.mark.parametrize("status", [500, 501, 302, 400, 401])
def test_a_request_that_would_fail_again_is_made_once(lanes: Lanes, status: int) -> None:
    lanes.issuer.fault(endpoint="token", status=status, body="")
    (outcome,) = lanes.start([lanes.token("a")])
    assert (outcome.state, lanes.issuer.counts().token) == (State.FAILED, 1)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://localhost:1/token", "Connection refused"),
        ("https://nowhere.invalid/token", "Name or service not known"),
    ],
)
def test_an_issuer_that_cannot_be_reached_is_tried_three_times(lanes: Lanes, url: str, why: str) -> None:
    lanes.accounts["a"] = replace(
        lanes.accounts["a"], settings=replace(lanes.accounts["a"].settings, url=url)
    )
    (outcome,) = lanes.start([lanes.token("a")])
    assert outcome.message.startswith(f"{url[8:-6]} cannot be reached: ")
    assert outcome.message.endswith(" (3 times)")
    assert why in outcome.message or "resolution" in outcome.message


def test_retry_after_is_honoured(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", times=1, status=503, headers={"Retry-After": "3"})
    began = time.monotonic()
    assert lanes.run([lanes.token("a")]) == {"a1": "renewed"}
    assert time.monotonic() - began > 3


def test_an_issuer_that_asks_for_an_hour_is_left_alone_in_this_run(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", status=429, headers={"Retry-After": "3600"})
    outcomes = list(lanes.start([lanes.token("a", number) for number in range(3)], workers=1))
    assert {one.message for one in outcomes} == {
        "the issuer answered with HTTP status 429, and asks for a pause of 1 h"
    }
    assert lanes.issuer.counts().token == 1


def test_the_request_to_stop_ends_the_waiting_for_another_try(lanes: Lanes) -> None:
    lanes.issuer.fault(endpoint="token", status=503, headers={"Retry-After": "25"})
    began = time.monotonic()
    with stopping_after(lanes, requests=1):
        assert lanes.run([lanes.token("a")]) == {"a1": "unavailable"}
    assert time.monotonic() - began < 25
    assert lanes.issuer.counts().token == 1


def test_200_accounts_of_a_dead_issuer_take_no_longer_than_two_timeouts(lanes: Lanes) -> None:
    names = [f"dead{number}" for number in range(200)]
    with silent() as host:
        for name in names:
            settings = replace(lanes.accounts["a"].settings, url=f"https://{host}/token")
            lanes.accounts[name] = Account(name, client_credentials.ClientCredentials.NAME, settings, 2.0)
        began = time.monotonic()
        outcomes = {
            one.spec.name: one.message
            for one in lanes.start([*map(lanes.token, names), lanes.token("a")], workers=1)
        }
        took = time.monotonic() - began
    assert outcomes.pop("a1").startswith("renewed")
    silence = f"{host} had not answered after 2 s"
    assert list(outcomes.values()).count(silence) == 2
    assert (
        list(outcomes.values()).count(f"{host} was not asked any more, after 2 failures in a row ({silence})")
        == 198
    )
    assert 4 <= took < BOUND


def test_200_accounts_behind_a_slow_gateway_take_no_longer_than_two_timeouts(
    lanes: Lanes,
) -> None:
    names = [f"dead{number}" for number in range(200)]
    for name in names:
        lanes.accounts[name] = replace(lanes.accounts["a"], name=name, timeout=3.0)
    # Another try could not begin before the timeout of the first is over.
    lanes.issuer.fault(endpoint="token", delay_ms=2600, status=504, body="")
    outcomes = [one.message for one in lanes.start([*map(lanes.token, names)], workers=1)]
    # Where a machine takes half a second for an answer, it has not come in time.
    assert [
        re.sub("the issuer answered with HTTP status 504$|.* had not answered after 3 s$", "", one)
        for one in outcomes[:2]
    ] == ["", ""]
    assert [" was not asked any more, after 2 failures in a row (" in one for one in outcomes[2:]] == [
        True
    ] * 198
    assert lanes.issuer.counts().token == 2


def test_an_issuer_that_fails_now_and_then_is_asked_for_all_accounts(lanes: Lanes) -> None:
    for name in "ac":
        lanes.accounts[name] = replace(lanes.accounts[name], timeout=1.0)
        lanes.issuer.fault(endpoint="token", client_id=lanes.clients[name], hang=True)
    lanes.account("d")
    reasons = lanes.run([lanes.token(name) for name in "abcd"], workers=1)
    assert reasons == {"a1": "unavailable", "b1": "renewed", "c1": "unavailable", "d1": "renewed"}


def test_a_refusal_between_two_failures_shows_that_the_issuer_is_there_but_a_local_failure_does_not(
    lanes: Lanes,
) -> None:
    for name in "ac":
        lanes.accounts[name] = replace(lanes.accounts[name], timeout=1.0)
        lanes.issuer.fault(endpoint="token", client_id=lanes.clients[name], hang=True)
    lanes.account("d")
    tokens = [lanes.token(name) for name in "abcd"]
    lanes.issuer.fault(
        endpoint="token", client_id=lanes.clients["b"], status=400, body='{"error": "invalid_scope"}'
    )
    assert lanes.run(tokens, workers=1) == {
        "a1": "unavailable",
        "b1": "refused",
        "c1": "unavailable",
        "d1": "renewed",
    }

    lanes.accounts["b"] = replace(
        lanes.accounts["b"], settings=replace(lanes.accounts["b"].settings, ca_file="/nowhere")
    )
    assert lanes.run(tokens, workers=1) == {
        "a1": "unavailable",
        "b1": "local",
        "c1": "unavailable",
        "d1": "unavailable",
    }


def test_a_run_ends_at_its_deadline_with_an_outcome_for_what_it_did_not_begin(lanes: Lanes) -> None:
    with silent() as one, silent() as other:
        for name, host in (("a", one), ("b", other)):
            settings = replace(lanes.accounts[name].settings, url=f"https://{host}/token")
            lanes.accounts[name] = replace(lanes.accounts[name], settings=settings, timeout=600.0)
        began = time.monotonic()
        outcomes = [
            *lanes.start(
                [lanes.token("a", 1), lanes.token("a", 2), lanes.token("b")], workers=1, run_timeout=6
            )
        ]
    assert bounded(began)
    assert {(outcome.state, outcome.reason) for outcome in outcomes} == {(State.FAILED, "unavailable")}
    assert outcomes[0].message.startswith(f"{one} had not answered after ")
    assert (outcomes[2].message, outcomes[2].hint) == (
        "the 6 s of the run were over before its turn came",
        "look at what takes so long, or raise run_timeout in [renewer]",
    )


def test_a_lane_that_is_stuck_keeps_no_other_waiting(lanes: Lanes) -> None:
    """To open a pipe blocks until somebody opens its other end, as on a file system whose server is gone."""
    pipe = lanes.tokens / "ca.pem"
    os.mkfifo(pipe)
    lanes.accounts["a"] = replace(
        lanes.accounts["a"], settings=replace(lanes.accounts["a"].settings, ca_file=str(pipe))
    )
    # Nor while the run has time: the others have as long as it takes.
    outcomes = lanes.start([lanes.token("a"), lanes.token("b")])
    other = next(outcomes)
    assert (other.spec.name, other.state) == ("b1", State.RENEWED)
    os.close(os.open(pipe, os.O_WRONLY))
    assert [outcome.state for outcome in outcomes] == [State.FAILED]

    began = time.monotonic()
    (stuck,) = lanes.start([lanes.token("a")], run_timeout=5)
    assert bounded(began)
    assert (stuck.reason, stuck.message) == (
        "unavailable",
        "its lane had not come back when the 5 s of the run were over",
    )
    os.close(os.open(pipe, os.O_WRONLY))
    until(lambda: lane_threads() == [])


# clocks


def old_token(lanes: Lanes, spec: TokenSpec, lifetime: int) -> str:
    """Publishes a token that is valid for so many seconds; returns its text."""
    lanes.issuer.settings(access_token_ttl=lifetime)
    assert lanes.run([spec]) == {spec.name: "renewed"}
    lanes.issuer.settings(access_token_ttl=3600)
    return Path(spec.path).read_text()


def test_a_token_that_is_not_valid_yet_is_published_when_it_is_and_other_lanes_go_on(lanes: Lanes) -> None:
    patient, other = lanes.token("a"), lanes.token("b")
    old = old_token(lanes, patient, 3600)
    # Both have their answers at the same time; the one has eight seconds to be published before the other.
    lanes.issuer.settings(nbf_offset=8)
    lanes.issuer.fault(endpoint="token", gather=2)
    outcomes = lanes.start([patient, other])
    # Where no token is, none is better than this.
    assert next(outcomes).spec is other
    assert Path(patient.path).read_text() == old
    assert [outcome.reason for outcome in outcomes] == ["renewed"]
    claims = lanes.issuer.verify(Path(patient.path).read_text().strip())
    assert Path(patient.path).stat().st_mtime >= claims["nbf"] > claims["iat"]


def test_a_token_that_is_not_valid_yet_is_published_when_the_old_one_expires(lanes: Lanes) -> None:
    expired, expiring = lanes.token("a"), lanes.token("b")
    ends = time.time() + 4
    for spec, expires_at in ((expired, ends - 60), (expiring, ends)):
        Path(spec.path).write_text(jws({"exp": expires_at}))
    lanes.issuer.settings(nbf_offset=55)
    outcomes = {one.spec.name: one for one in lanes.start([expired, expiring])}
    for outcome in outcomes.values():
        assert outcome.state is State.RENEWED
        assert re.fullmatch(r"is not valid for another \d\d s", outcome.notes[0])
    assert Path(expiring.path).stat().st_mtime >= ends


def test_the_request_to_stop_ends_the_waiting_and_the_old_token_stays(lanes: Lanes) -> None:
    spec = lanes.token("a")
    old = old_token(lanes, spec, 3600)
    lanes.issuer.settings(nbf_offset=55)
    began = time.monotonic()
    with stopping_after(lanes, requests=2):
        assert lanes.run([spec]) == {"a1": Stopped.reason}
    assert time.monotonic() - began < 50
    assert Path(spec.path).read_text() == old


def test_the_end_of_the_run_ends_the_waiting_and_the_old_token_stays(lanes: Lanes) -> None:
    spec = lanes.token("a")
    old = old_token(lanes, spec, 3600)
    lanes.issuer.settings(nbf_offset=58)
    (outcome,) = lanes.start([spec], run_timeout=10)
    assert (outcome.reason, outcome.message) == (
        "unavailable",
        "the run ended before the new token became valid (nbf); the next run obtains another",
    )
    assert Path(spec.path).read_text() == old


@pytest.mark.parametrize(("offset", "where"), [(300, "ahead of"), (-300, "behind")])
def test_an_issuers_clock_that_differs_is_named_in_seconds_once_in_a_run(
    lanes: Lanes, warnings: Callable[[], list[str]], offset: int, where: str
) -> None:
    lanes.issuer.settings(date_offset=offset)
    assert set(lanes.run([lanes.token(name, number) for name in "abc" for number in (1, 2)]).values()) == {
        "renewed"
    }
    (said,) = warnings()
    assert re.match(
        rf"{lanes.issuer.url[8:]}: the issuer's clock is (300|2[5-9]\d) s {where} this host's: ", said
    )


def test_a_token_from_the_future_shows_that_the_issuers_clock_is_wrong(
    lanes: Lanes, warnings: Callable[[], list[str]]
) -> None:
    lanes.issuer.settings(iat_offset=3000)
    assert lanes.run([lanes.token("a"), lanes.token("b")]) == {"a1": "renewed", "b1": "renewed"}
    (said,) = warnings()
    assert re.search(r"the issuer's clock is (3000|29\d\d) s ahead of this host's", said)


def test_clocks_that_agree_cause_no_message(lanes: Lanes, warnings: Callable[[], list[str]]) -> None:
    # What an issuer backdates, or gives out twice, says nothing where its answer has a date.
    lanes.issuer.settings(iat_offset=-300)
    assert lanes.run([lanes.token("a")]) == {"a1": "renewed"}
    assert warnings() == []
