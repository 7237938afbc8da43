"""Each exception of requests becomes one of ours where it enters the program."""

from __future__ import annotations

import inspect
import time

import pytest
import requests.exceptions

from osg_token_renewer.errors import Failure, RenewerError, TimedOut
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
