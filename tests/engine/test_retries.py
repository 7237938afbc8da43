"""How often issuers are asked: the rules by themselves. test_lanes.py shows what lanes make of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from osg_token_renewer.engine.retries import LONGEST_WAIT, TRIES, Requests, wait_after
from osg_token_renewer.errors import Failure, NotAsked, Refused, Stopped, TimedOut, Unavailable, Unreachable
from tests.engine.clock import BOUND, Clock, Lanes, agent, begin, client

# The next try


@pytest.mark.parametrize("retry_after", [0.0, 7.0, LONGEST_WAIT])
def test_waits_grow_and_are_never_shorter_than_the_issuer_wants(retry_after: float) -> None:
    for jitter in (0.5, 0.75, 1.0):
        waits = [wait_after(tries, retry_after, jitter) for tries in range(1, TRIES)]
        assert [wait is not None and wait > retry_after for wait in waits] == [True] * len(waits)
        assert waits == sorted(waits, key=lambda wait: wait or 0)
    assert wait_after(1, retry_after, 0.5) != wait_after(1, retry_after, 1.0)


def test_there_is_no_try_after_the_last_or_where_it_may_harm_or_when_the_issuer_wants_a_long_pause() -> None:
    assert wait_after(TRIES - 1, 0.0, 1.0) is not None
    assert wait_after(TRIES, 0.0, 1.0) is None
    assert wait_after(1, None, 1.0) is None
    assert wait_after(1, LONGEST_WAIT + 1, 1.0) is None


def fail(requests: Requests, failure: Failure) -> int:
    """How often a request is made that always fails so."""
    asked = []

    def ask() -> None:
        with requests.begin(0.0):
            asked.append(time.monotonic())
            raise failure

    with pytest.raises(type(failure)):
        requests.repeat(ask)
    return len(asked)


def test_a_request_that_must_not_be_repeated_is_made_once() -> None:
    requests = Lanes().requests(client("a"))
    assert fail(requests, Unavailable("no")) == fail(requests, TimedOut("no")) == 1


def test_a_request_that_may_be_repeated_is_made_a_few_times_and_the_message_says_how_often(
    clock: Clock,
) -> None:
    failure = Unreachable("out of reach", retry_after=0.0)

    def ask() -> None:
        raise failure

    with pytest.raises(Unreachable) as raised:
        Lanes().requests(client("a")).repeat(ask)
    assert raised.value.message == f"out of reach ({TRIES} times)"
    assert failure.message == "out of reach"


def test_a_failure_that_ends_the_tries_with_another_cause_is_not_said_to_have_happened_before(
    clock: Clock,
) -> None:
    failures = iter([Unreachable("out of reach", retry_after=0.0), TimedOut("no answer")])

    def ask() -> None:
        raise next(failures)

    with pytest.raises(TimedOut) as raised:
        Lanes().requests(client("a")).repeat(ask)
    assert raised.value.message == "no answer"


def test_no_try_begins_that_could_not_begin_within_the_run() -> None:
    assert fail(Lanes(5.0).requests(client("a")), Unavailable("no", retry_after=20.0)) == 1


def test_the_request_to_stop_ends_a_wait() -> None:
    stopped, asked = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        raise Unavailable("no", retry_after=LONGEST_WAIT)

    def run() -> None:
        with pytest.raises(Unavailable):
            Lanes(stopped=stopped).requests(client("a")).repeat(ask)

    began = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(BOUND)
    stopped.set()
    thread.join()
    assert time.monotonic() - began < LONGEST_WAIT


# The run's time


def test_a_request_has_the_rest_of_the_run(clock: Clock) -> None:
    assert begin(Lanes(600.0).requests(client("a"))) == 600


def test_no_request_begins_when_the_run_is_over_or_stopped(clock: Clock) -> None:
    over, stopped = Lanes(0.01), threading.Event()
    assert over.limits.wait(BOUND) is False
    with pytest.raises(NotAsked):
        begin(over.requests(client("a")))
    stopped.set()
    with pytest.raises(Stopped):
        begin(Lanes(stopped=stopped).requests(client("a")))


def test_a_request_that_must_not_be_cut_off_does_not_begin_near_the_end(clock: Clock) -> None:
    run = Lanes(10.0)
    assert begin(run.requests(agent("a")), 30.0) == 10, "a short run would otherwise ask for nothing"
    assert run.limits.wait(5.7)
    with pytest.raises(NotAsked, match=r"only 4 s of the run were left"):
        begin(run.requests(agent("a")), 30.0)
    assert begin(run.requests(client("b"))) > 0


# Issuers that are down


def test_after_two_failures_in_a_row_the_run_leaves_an_issuer_alone_and_asks_the_others() -> None:
    run = Lanes()
    first, second = run.requests(client("a")), run.requests(client("b"))
    other = run.requests(client("c", "https://issuer.example.org/another/token"))
    fail(first, TimedOut("no answer"))
    begin(second)
    fail(second, TimedOut("no answer"))
    down = r"issuer.example.org was not asked any more, after 2 failures in a row \(no answer\)"
    for requests in (first, second):
        with pytest.raises(NotAsked, match=down):
            begin(requests)
    begin(other)


def test_accounts_with_the_same_issuer_option_are_given_up_together_and_others_are_not() -> None:
    run, url = Lanes(d="https://other.example.org"), "https://issuer.example.org"
    a, b, c = (run.requests(agent(name, url)) for name in "abc")
    fail(a, TimedOut("no answer"))
    fail(b, TimedOut("no answer at all"))
    with pytest.raises(NotAsked, match=r"issuer.example.org was not asked any more.*\(no answer at all\)"):
        begin(c)
    begin(run.requests(agent("d")))


def test_accounts_whose_issuers_nobody_knows_are_not_given_up_together() -> None:
    run = Lanes()
    for name in "ab":
        fail(run.requests(agent(name)), TimedOut("no answer"))
    begin(run.requests(agent("c")))


def test_a_timeout_counts_before_another_request_can_begin() -> None:
    requests = Lanes().requests(client("a"))
    for _ in range(2):
        with pytest.raises(TimedOut), requests.begin(0.0):
            raise TimedOut("no answer")
    with pytest.raises(NotAsked):
        begin(requests)


def test_a_program_of_this_host_that_hangs_is_not_the_issuers_fault() -> None:
    requests = Lanes().requests(client("a"))

    def hang() -> None:
        raise TimedOut("oidc-add had not answered")

    for _ in range(3):
        with pytest.raises(TimedOut):
            requests.repeat(hang)
    begin(requests)


def test_an_issuer_that_does_not_recover_within_all_tries_is_left_alone(clock: Clock) -> None:
    run = Lanes()
    fail(run.requests(client("a")), Unreachable("out of reach", retry_after=0.0))
    with pytest.raises(NotAsked, match=rf"after {TRIES} failures in a row \(out of reach\)"):
        begin(run.requests(client("b")))


@pytest.mark.parametrize("last", [Unreachable("out of order", retry_after=0.0), TimedOut("no answer")])
@pytest.mark.parametrize("timeout", [1.0, 3.0, 60.0])
def test_200_accounts_of_an_issuer_that_is_down_take_two_timeouts_at_most_however_slowly_it_says_so(
    clock: Clock, timeout: float, last: Unavailable
) -> None:
    for part in range(11):
        run, began = Lanes(), clock.now

        def ask(requests: Requests, answers: Iterator[tuple[float, Unavailable]]) -> None:
            with requests.begin(0.0):
                after, failure = next(answers)
                clock.sleep(after)
                raise failure

        # The first answer takes another part of the timeout each time; once it is silence for a whole one.
        for number in range(200):
            busy = (part / 10 * timeout, Unreachable("busy", retry_after=0.0))
            answers = chain([busy], repeat((timeout, last)))
            requests = run.requests(client(str(number), timeout=timeout))
            with pytest.raises(Unavailable):
                requests.repeat(lambda requests=requests, answers=answers: ask(requests, answers))  # type: ignore[misc]
        assert clock.now - began <= 2 * timeout


def test_the_tries_of_one_lane_are_one_failure_if_others_get_tokens_meanwhile(clock: Clock) -> None:
    run = Lanes()

    def ask() -> None:
        run.issuers.find(client("a")).note_token()
        raise Unreachable("out of reach", retry_after=0.0)

    with pytest.raises(Unreachable):
        run.requests(client("a")).repeat(ask)
    begin(run.requests(client("b")))


def test_one_lane_asks_again_while_the_others_wait_for_the_result() -> None:
    run, lock, asked = Lanes(), threading.Lock(), dict.fromkeys("abcdefgh", 0)
    all_failed = threading.Barrier(len(asked))

    def lane(name: str) -> None:
        requests = run.requests(client(name))

        def ask() -> None:
            with requests.begin(0.0), lock:
                asked[name] += 1
            if asked[name] == 1:
                all_failed.wait(BOUND)
            raise Unreachable("out of reach", retry_after=0.0)

        with pytest.raises(Unavailable):
            requests.repeat(ask)

    threads = [threading.Thread(target=lane, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked.values()) == [1] * (len(asked) - 1) + [TRIES]


def test_failures_with_a_token_between_them_are_not_in_a_row() -> None:
    run = Lanes()
    requests = run.requests(client("a"))
    for _ in range(4):
        fail(requests, TimedOut("no answer"))
        run.issuers.find(client("a")).note_token()
    begin(requests)


def test_failures_of_an_issuer_that_answers_do_not_count() -> None:
    requests = Lanes().requests(client("a"))
    for _ in range(4):
        for failure in (Unavailable("too many requests"), Refused("no")):
            fail(requests, failure)
    begin(requests)


def test_failures_with_a_refusal_between_them_are_not_in_a_row(clock: Clock) -> None:
    run = Lanes()
    away = Unreachable("out of reach", retry_after=0.0)
    refusing = iter([away, Refused("no")])

    def ask() -> None:
        raise next(refusing)

    with pytest.raises(Refused):
        run.requests(client("a")).repeat(ask)
    run.issuers.find(client("a")).note_answer()
    clock.sleep(120.0)
    assert fail(run.requests(client("b")), away) == TRIES
