"""How long and how often issuers are asked: the rules, by themselves. What lanes make of them is in
test_runner.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Optional

import pytest

from osg_token_renewer.engine import attempts
from osg_token_renewer.engine.attempts import LONGEST_WAIT, TRIES, Asking, Limits, wait_after
from osg_token_renewer.errors import NotAsked, Refused, Stopped, TimedOut, Unavailable, Unreachable
from osg_token_renewer.model import Account, Secret
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources import client_credentials, token_endpoint
from osg_token_renewer.sources.oidc_agent import source

# Far more than what is bounded takes, on any machine.
BOUND = 30.0


class Clock:
    """The time of this host, as far as limits go by it: it goes on when somebody waits, and at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(attempts, "time", made)
    return made


def limits(seconds: float = 600.0, stopped: Optional[threading.Event] = None, **known: str) -> Limits:
    return Limits(seconds, (stopped or threading.Event()).is_set, known)


def client(name: str, url: str = "https://issuer.example.org/token", timeout: float = 60.0) -> Account:
    return Account(
        name,
        client_credentials.ClientCredentials.NAME,
        token_endpoint.TokenEndpoint(url, "x", Secret("y")),
        timeout,
    )


def agent(name: str) -> Account:
    return Account(name, source.OidcAgent.NAME, source.Settings(SecretFile("/nonexistent")))


def begun(asking: Asking, wanted: float = 0.0) -> float:
    with asking.begin(wanted) as seconds:
        return seconds


# the next try


@pytest.mark.parametrize("retry_after", [0.0, 7.0, LONGEST_WAIT])
def test_waits_grow_and_are_never_shorter_than_the_issuer_wants(retry_after: float) -> None:
    for jitter in (0.5, 0.75, 1.0):
        waits = [wait_after(tries, retry_after, jitter) for tries in range(1, TRIES)]
        assert [wait is not None and wait > retry_after for wait in waits] == [True] * len(waits)
        assert waits == sorted(waits, key=lambda wait: wait or 0)
    assert wait_after(1, retry_after, 0.5) != wait_after(1, retry_after, 1.0)


def test_there_is_no_try_after_the_last_nor_where_it_may_harm_nor_when_the_issuer_wants_to_be_left_alone_for_long() -> (
    None
):
    assert wait_after(TRIES - 1, 0.0, 1.0) is not None
    assert wait_after(TRIES, 0.0, 1.0) is None
    assert wait_after(1, None, 1.0) is None
    assert wait_after(1, LONGEST_WAIT + 1, 1.0) is None


def failing(asking: Asking, failure: Unavailable) -> int:
    """How often it is asked for what always fails so."""
    asked = []

    def ask() -> None:
        with asking.begin(0.0):
            asked.append(time.monotonic())
            raise failure

    with pytest.raises(type(failure)) as raised:
        asking.persistently(ask)
    assert raised.value is failure
    return len(asked)


def test_what_must_not_be_repeated_is_asked_once() -> None:
    asking = Asking(limits(), client("a"))
    assert failing(asking, Unavailable("no")) == failing(asking, TimedOut("no")) == 1


def test_what_may_be_repeated_is_asked_a_few_times_and_says_how_often(clock: Clock) -> None:
    failure = Unreachable("out of reach", retry_after=0.0)
    assert failing(Asking(limits(), client("a")), failure) == TRIES
    assert failure.message == f"out of reach ({TRIES} times)"


def test_no_try_is_begun_that_could_not_begin_within_the_run() -> None:
    assert failing(Asking(limits(5.0), client("a")), Unavailable("no", retry_after=20.0)) == 1


def test_the_request_to_stop_ends_a_wait() -> None:
    stopped = threading.Event()
    failure = Unavailable("no", retry_after=LONGEST_WAIT)
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        raise failure

    def run() -> None:
        with pytest.raises(Unavailable):
            Asking(limits(stopped=stopped), client("a")).persistently(ask)

    began = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(BOUND)
    stopped.set()
    thread.join()
    assert time.monotonic() - began < LONGEST_WAIT


# the run's time


def test_a_request_has_what_is_left_of_the_run(clock: Clock) -> None:
    assert begun(Asking(limits(600.0), client("a"))) == 600


def test_nothing_is_begun_when_the_time_is_over_or_the_run_is_stopped(clock: Clock) -> None:
    over, stopped = limits(0.01), threading.Event()
    assert over.wait(BOUND) is False
    with pytest.raises(NotAsked, match="the 0 s of the run were over before its turn came"):
        begun(Asking(over, client("a")))
    stopped.set()
    with pytest.raises(Stopped) as raised:
        begun(Asking(limits(stopped=stopped), client("a")))
    assert raised.value.reason == "stopped"


def test_what_must_not_be_cut_off_is_not_begun_near_the_end(clock: Clock) -> None:
    run = limits(10.0)
    assert begun(Asking(run, agent("a")), 30.0) == 10, "a short run would otherwise ask for nothing"
    assert run.wait(5.7)
    with pytest.raises(NotAsked, match=r"only 4 s of the run were left"):
        begun(Asking(run, agent("a")), 30.0)
    assert begun(Asking(run, client("b"))) > 0


# issuers


def test_after_two_failures_in_a_row_an_issuer_is_not_asked_any_more_and_others_are() -> None:
    run = limits()
    first, second = Asking(run, client("a")), Asking(run, client("b"))
    other = Asking(run, client("c", "https://issuer.example.org/another/token"))
    failing(first, TimedOut("no answer"))
    begun(second)
    failing(second, TimedOut("no answer"))
    for asking in (first, second):
        with pytest.raises(
            NotAsked,
            match=r"issuer.example.org was not asked any more, after 2 failures in a row \(no answer\)",
        ):
            begun(asking)
    begun(other)


def test_a_timeout_counts_before_anybody_else_can_begin() -> None:
    asking = Asking(limits(), client("a"))
    for _ in range(2):
        with pytest.raises(TimedOut), asking.begin(0.0):
            raise TimedOut("no answer")
    with pytest.raises(NotAsked):
        begun(asking)


def test_a_program_of_this_host_that_hangs_is_not_the_issuers_fault() -> None:
    asking = Asking(limits(), client("a"))

    def hang() -> None:
        raise TimedOut("oidc-add had not answered")

    for _ in range(3):
        with pytest.raises(TimedOut):
            asking.persistently(hang)
    begun(asking)


def test_an_issuer_that_did_not_recover_within_all_tries_is_not_asked_any_more(clock: Clock) -> None:
    run = limits()
    failing(Asking(run, client("a")), Unreachable("out of reach", retry_after=0.0))
    with pytest.raises(NotAsked, match=rf"after {TRIES} failures in a row \(out of reach\)"):
        begun(Asking(run, client("b")))


@pytest.mark.parametrize("last", [Unreachable("out of order", retry_after=0.0), TimedOut("no answer")])
@pytest.mark.parametrize("timeout", [1.0, 3.0, 60.0])
def test_200_accounts_take_no_longer_than_two_timeouts_however_slowly_they_are_told_that_the_issuer_is_out_of_order(
    clock: Clock, timeout: float, last: Unavailable
) -> None:
    for part in range(11):
        run, began = limits(), clock.now

        def ask(asking: Asking, answers: Iterator[tuple[float, Unavailable]]) -> None:
            with asking.begin(0.0):
                after, failure = next(answers)
                clock.sleep(after)
                raise failure

        # Each time another part of the timeout, the silence of a whole one among them.
        for number in range(200):
            answers = chain(
                [(part / 10 * timeout, Unreachable("busy", retry_after=0.0))], repeat((timeout, last))
            )
            asking = Asking(run, client(str(number), timeout=timeout))
            with pytest.raises(Unavailable):
                asking.persistently(lambda asking=asking, answers=answers: ask(asking, answers))  # type: ignore[misc]
        assert clock.now - began <= 2 * timeout


def test_tries_of_one_lane_between_which_others_are_answered_are_one_failure(clock: Clock) -> None:
    run = limits()
    asking = Asking(run, client("a"))

    def ask() -> None:
        asking.issuer.answered()
        raise Unreachable("out of reach", retry_after=0.0)

    with pytest.raises(Unreachable):
        asking.persistently(ask)
    begun(Asking(run, client("b")))


def test_one_lane_asks_again_while_the_others_wait_for_what_becomes_of_it() -> None:
    run, lock, asked = limits(), threading.Lock(), dict.fromkeys("abcdefgh", 0)
    all_failed = threading.Barrier(len(asked))

    def lane(name: str) -> None:
        asking = Asking(run, client(name))

        def ask() -> None:
            with asking.begin(0.0), lock:
                asked[name] += 1
            if asked[name] == 1:
                all_failed.wait(BOUND)
            raise Unreachable("out of reach", retry_after=0.0)

        with pytest.raises(Unavailable):
            asking.persistently(ask)

    threads = [threading.Thread(target=lane, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked.values()) == [1] * (len(asked) - 1) + [TRIES]


def test_a_failure_with_a_success_behind_it_does_not_count() -> None:
    asking = Asking(limits(), client("a"))
    for _ in range(4):
        failing(asking, TimedOut("no answer"))
        asking.issuer.answered()
    begun(asking)


def test_what_is_not_the_issuers_absence_does_not_count() -> None:
    asking = Asking(limits(), client("a"))
    for _ in range(4):
        failing(asking, Unavailable("too many requests"))
        with pytest.raises(Refused):
            asking.persistently(refuse)
    begun(asking)


def refuse() -> None:
    raise Refused("no")


FIVE = b'[{"issuer":"https://one.example.org/","accounts":["a","b"]},{"issuer":"https://two.example.org/","accounts":["c"]},{"issuer":"x"}]'
FOUR = b"https://one.example.org/ a\nhttps://two.example.org/ c\nhttps://three.example.org/\n"


@pytest.mark.parametrize(
    ("config", "issuers"),
    [
        (FIVE, ["one.example.org", "one.example.org", "two.example.org", None]),
        # Only the first account of each.
        (FOUR, ["one.example.org", None, "two.example.org", None]),
        (b"https://one.example.org/ a\n", ["one.example.org"] * 4),
        (b"", [None] * 4),
        (b"[1, {}, {", [None] * 4),
        (b"https://one.example.org \xff\n", [None] * 4),
        (None, [None] * 4),
    ],
)
def test_the_issuer_of_an_oidc_agent_account_is_what_oidc_agent_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Optional[bytes], issuers: list[Optional[str]]
) -> None:
    monkeypatch.setenv("OIDC_CONFIG_DIR", str(tmp_path))
    if config is not None:
        (tmp_path / "issuer.config").write_bytes(config)
    run = limits()
    expected = [issuer or f"the issuer of account {name}" for name, issuer in zip("abcd", issuers)]
    assert [run.issuer(agent(name)).name for name in "abcd"] == expected


@pytest.mark.parametrize("odd", ["https://[", "no url", "", "https://user@/x"])
def test_a_token_whose_issuer_is_no_url_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setenv("OIDC_CONFIG_DIR", str(tmp_path))
    assert limits(a=odd).issuer(agent("a")).name == "the issuer of account a"


def test_else_it_is_the_one_of_its_last_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_CONFIG_DIR", str(tmp_path))
    (tmp_path / "issuer.config").write_bytes(FOUR)
    run = limits(a="https://other.example.org", b="https://two.example.org")
    assert [run.issuer(agent(name)).name for name in "ab"] == ["one.example.org", "two.example.org"]
    assert run.issuer(agent("b")) is run.issuer(agent("c"))


# accounts that no token has told of: whose they are is not known


def unknown(run: Limits, names: str) -> list[Asking]:
    return [Asking(run, agent(name)) for name in names]


@pytest.fixture
def no_issuers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_CONFIG_DIR", str(tmp_path))


@pytest.mark.usefixtures("no_issuers")
def test_issuers_that_are_not_known_are_given_up_together_and_known_ones_are_not() -> None:
    run = limits(d="https://issuer.example.org")
    a, b, c, d = unknown(run, "abcd")
    failing(a, TimedOut("no answer"))
    begun(b)
    failing(b, TimedOut("no answer at all"))
    with pytest.raises(NotAsked) as raised:
        begun(c)
    assert raised.value.message == (
        "the issuer of account c is not known yet, and was not asked after 2 failures in a row (no answer at all) of such issuers"
    )
    begun(d)
    begun(Asking(run, client("e")))


@pytest.mark.usefixtures("no_issuers")
def test_one_answer_says_that_they_are_not_all_dead_and_who_answered_is_asked_on() -> None:
    run = limits()
    a, b, c, d, e = unknown(run, "abcde")
    failing(a, TimedOut("no answer"))
    b.issuer.answered()
    failing(c, TimedOut("no answer"))
    begun(e)
    failing(d, TimedOut("no answer"))
    begun(b)
    with pytest.raises(NotAsked):
        begun(e)


@pytest.mark.usefixtures("no_issuers")
def test_one_account_that_cannot_reach_its_issuer_is_no_reason_not_to_ask_another_one(clock: Clock) -> None:
    a, b = unknown(limits(), "ab")
    assert failing(a, Unreachable("out of reach", retry_after=0.0)) == TRIES
    begun(b)


def test_accounts_whose_issuer_is_not_known_change_places_and_the_others_have_theirs() -> None:
    run = limits(c="https://issuer.example.org")
    accounts = [agent("a"), client("b"), agent("c"), *map(agent, "defghij")]
    orders = {"".join(accounts[turn].name for turn in run.in_turn(accounts)) for _ in range(50)}
    assert {order[1:3] for order in orders} == {"bc"}
    assert len({order[0] for order in orders}) > 1
    assert {"".join(sorted(order)) for order in orders} == {"abcdefghij"}


def test_an_issuer_that_answered_anything_between_two_failures_did_not_fail_in_a_row(clock: Clock) -> None:
    run = limits()
    away = Unreachable("out of reach", retry_after=0.0)
    refusing = iter([away, Refused("no")])

    def ask() -> None:
        raise next(refusing)

    first = Asking(run, client("a"))
    with pytest.raises(Refused):
        first.persistently(ask)
    first.issuer.is_there()
    clock.sleep(120.0)
    assert failing(Asking(run, client("b")), away) == TRIES
