"""Each exception of requests becomes one of ours where it enters the program."""

from __future__ import annotations

import inspect
import re
import time

import pytest
import requests.exceptions

from osg_token_renewer import errors
from osg_token_renewer.errors import Failure, RenewerError, TimedOut, Unreachable
from osg_token_renewer.net import https
from tests.host import LONGEST


def foreign() -> list[type[requests.exceptions.RequestException]]:
    found = [kind for _, kind in inspect.getmembers(requests.exceptions, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, requests.exceptions.RequestException)]


def test_requests_has_exceptions_to_translate() -> None:
    assert len(foreign()) > 15


@pytest.mark.parametrize("kind", foreign())
def test_each_exception_of_requests_has_its_counterpart(
    kind: type[requests.exceptions.RequestException],
) -> None:
    # JSONDecodeError wants a message, a document and a position.
    arguments = ("what happened", "{", 0) if kind.__name__ == "JSONDecodeError" else ("what happened",)
    with (
        pytest.raises(RenewerError) as caught,
        https._translated(
            "https://user:hunter2@issuer.example.org/token?key=hunter2", 5, time.monotonic() + LONGEST
        ),
    ):
        raise kind(*arguments)
    assert isinstance(caught.value, Failure)
    assert isinstance(caught.value, TimedOut) == issubclass(kind, requests.exceptions.Timeout)
    assert isinstance(caught.value.__cause__, kind)
    assert "issuer.example.org" in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "url", ["https://a..b/", f"https://{'a' * 70}.example/", "https://localhost:99999/", "https://[::1%25]/"]
)
def test_a_url_without_a_possible_host_is_a_failure_and_no_bug(url: str) -> None:
    with https.Client(None, 5) as client, pytest.raises(Failure):
        client.get(url)


# The consequences of each failure, by its name: the attributes that are set. errors.py draws the same tree.
CONSEQUENCES: dict[str, set[str]] = {
    "Refused": {"issuer_answered"},
    "DeadGrant": {"issuer_answered", "ends_lane", "kills_grant"},
    "Unavailable": {"advice"},
    "Unreachable": {"advice", "issuer_out"},
    "TimedOut": {"advice", "issuer_out", "ends_lane", "counts_at_once"},
    "CutOff": {"advice", "issuer_out", "ends_lane", "counts_at_once", "risks_account"},
    "NotAsked": {"advice", "ends_lane"},
    "Stopped": {"ends_lane"},
    "Local": set(),
    "ProgramMissing": set(),
    "Died": {"ends_lane", "risks_account"},
    "Unsuitable": {"issuer_answered"},
}


def descend(kind: type[Failure]) -> list[type[Failure]]:
    return [kind, *(each for child in kind.__subclasses__() for each in descend(child))]


def test_each_failure_has_its_consequences() -> None:
    attributes = {name for name in vars(Failure) if not name.startswith("_")} - {"reason", "saying"}
    found = {
        kind.__name__: {name for name in attributes if getattr(kind("x"), name)}
        for kind in descend(Failure)
        if kind is not Failure and kind.__module__ == Failure.__module__
    }
    assert found == CONSEQUENCES


def test_the_tree_in_the_docstring_names_each_failure_with_its_own_consequences() -> None:
    drawn = [line.partition("── ")[2] for line in (errors.__doc__ or "").splitlines()]
    lines = {line.split()[0]: line for line in drawn if line}
    for kind in descend(Failure):
        own = {name for name in vars(kind) if not name.startswith("_")} - {"reason", "saying"}
        if kind is not Failure and kind.__module__ == Failure.__module__:
            said = re.split(r"\s{2,}", lines[kind.__name__])[-1].replace(",", "").split()
            assert own <= set(said), kind
            assert set(said) & set(vars(Failure)) == own, kind


def test_a_failure_that_asks_for_a_pause_ends_its_lane() -> None:
    assert not Unreachable("x", retry_after=0.0).ends_lane
    assert Unreachable("x", retry_after=5.0).ends_lane


def test_a_failure_with_another_message_is_another_object_with_the_same_consequences() -> None:
    first = Unreachable("x", "hint", retry_after=5.0)
    other = first.saying("y")
    assert (type(other), other.message, str(other), other.hint) == (Unreachable, "y", "y", "hint")
    assert (other.retry_after, other.ends_lane, first.message, str(first)) == (5.0, True, "x", "x")
