"""Name look-ups, with a name server that never answers and with several addresses."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from osg_token_renewer.errors import TimedOut
from osg_token_renewer.net import https
from osg_token_renewer.net.resolver import find_addresses
from tests.faults import apart
from tests.host import until
from tests.net.server import BOUND, LIMIT, Server, post

# The resolver alone would wait for longer.
RESOLVER = 60.0


def test_the_time_limit_holds_for_a_name_server_that_never_answers(ca_file: str) -> None:
    def body() -> None:
        began = time.monotonic()
        with https.Client(ca_file, LIMIT) as client, pytest.raises(TimedOut) as failure:
            client.post("https://issuer.example.org/token", {}, {})
        assert failure.value.message == "the name issuer.example.org was not resolved after 0.4 s"
        assert failure.value.hint == "see that this host's name servers answer: /etc/resolv.conf"
        # Only the look-up is left behind.
        assert [thread.name for thread in threading.enumerate() if thread.daemon] == [
            "look up issuer.example.org"
        ]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("https_proxy", "http://proxy.example.org:3128")
            with (
                https.Client(ca_file, LIMIT) as client,
                pytest.raises(TimedOut, match=r"^the name proxy\.example\.org was not resolved"),
            ):
                client.post("https://issuer.example.org/token", {}, {})
        assert time.monotonic() - began < RESOLVER

    apart(body, silent_names=True)


def test_each_address_of_a_name_is_tried(
    server: Server, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens at the first address of localhost. Each connection looks the name up again."""
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(name: str, *arguments: object, **options: object) -> object:
        if name == "localhost" and not options:
            asked.append(name)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, server.port))
                for address in ("127.0.0.9", "127.0.0.1")
            ]
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert [post(server, ca_file).status for _ in range(2)] == [200, 200]
    assert asked == ["localhost", "localhost"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "[::1]"])
def test_a_numeric_address_needs_no_look_up(address: str) -> None:
    # No thread could answer within this limit.
    assert find_addresses(address, 443, 0) == [address]


def test_a_look_up_that_has_ended_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    assert "127.0.0.1" in find_addresses("localhost", 443, BOUND)
    with pytest.raises(socket.gaierror):
        find_addresses("issuer.invalid", 443, BOUND)
    until(lambda: set(threading.enumerate()) <= before)
