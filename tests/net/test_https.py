"""Answers, and what becomes of those that cannot be used, from a real server that misbehaves."""

from __future__ import annotations

import datetime
import json
import re
import socket
import time
from pathlib import Path
from typing import Optional

import pytest
import trustme

from osg_token_renewer.errors import TimedOut, Unavailable
from osg_token_renewer.net import https
from tests.host import closed_port
from tests.net.server import BOUND, Server, Start, post


def test_an_error_is_an_answer_with_its_status_type_and_body(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b'{"error": "invalid_client"}', "401 Unauthorized")

    got = post(server, ca_file)

    assert (got.status, got.content_type, json.loads(got.body)) == (
        401,
        "application/json",
        {"error": "invalid_client"},
    )


# Answers that are not taken


@pytest.mark.parametrize("framing", ["Content-Length: 2097152", "X-Length: unknown"])
def test_a_huge_answer_is_not_read_to_its_end(server: Server, ca_file: str, framing: str) -> None:
    sent = []

    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        for _ in range(32):
            connection.sendall(b" " * 64 * 1024)
            sent.append(64)

    server.behaviour = behave
    with pytest.raises(Unavailable, match="sent more than 1024 KiB instead of a token"):
        post(server, ca_file)
    assert len(sent) >= 16


def test_an_answer_as_large_as_the_limit_is_read(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b"x" * https.MAX_ANSWER)
    assert len(post(server, ca_file).body) == https.MAX_ANSWER


def test_an_issuer_that_hangs_up_is_unavailable(server: Server, ca_file: str) -> None:
    server.behaviour = server.hang_up

    with pytest.raises(Unavailable, match=f"^localhost:{server.port} cannot be reached: ") as failure:
        post(server, ca_file)

    assert not isinstance(failure.value, TimedOut)


def test_a_server_that_does_not_speak_http_is_unavailable(server: Server, ca_file: str) -> None:
    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"220 mail.example.org ESMTP\r\n\x1b[31m\r\n")

    server.behaviour = behave
    with pytest.raises(Unavailable, match=f"localhost:{server.port}") as failure:
        post(server, ca_file)
    assert failure.value.message.isprintable()


def test_a_redirect_is_returned_and_not_followed(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b"", "302 Found", f"Location: {server.url}/elsewhere")

    got = post(server, ca_file)

    assert (got.status, got.location) == (302, f"{server.url}/elsewhere")
    assert server.connections == 1


def test_a_refused_connection_names_its_reason(ca_file: str) -> None:
    with closed_port() as port, https.Client(ca_file, BOUND) as client, pytest.raises(Unavailable) as failure:
        client.post(f"https://user:password@localhost:{port}/token?secret", {}, {})
    assert failure.value.message == f"localhost:{port} cannot be reached: Connection refused"


def test_a_name_that_does_not_exist_is_unavailable(ca_file: str) -> None:
    with (
        https.Client(ca_file, BOUND) as client,
        pytest.raises(Unavailable, match=r"^issuer\.invalid cannot be reached: "),
    ):
        client.post("https://issuer.invalid/token", {}, {})


# Trust

NOT_VERIFIED = "certificate verify failed: "


def test_a_certificate_of_another_authority_is_not_accepted(server: Server, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(
        Unavailable, match=f"^no TLS connection to localhost:{server.port}: {NOT_VERIFIED}"
    ) as failure:
        post(server, str(tmp_path / "other.pem"))
    # Only the reason itself, without the exceptions around it.
    assert re.fullmatch(
        r"no TLS connection to [\w:]+: certificate verify failed: [\w -]+", failure.value.message
    )
    assert failure.value.hint is not None
    assert "ca_file in the account's section" in failure.value.hint
    assert server.requests == []


@pytest.mark.parametrize("names", [["issuer.example.org"], ["127.0.0.1"]])
def test_a_certificate_for_another_name_is_not_accepted(
    serving: Start,
    authority: trustme.CA,
    ca_file: str,
    names: list[str],
) -> None:
    server = serving(authority.issue_cert(*names))
    with pytest.raises(Unavailable, match=f"{NOT_VERIFIED}.*localhost"):
        post(server, ca_file)
    assert server.requests == []


def test_an_expired_certificate_is_not_accepted(serving: Start, authority: trustme.CA, ca_file: str) -> None:
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    server = serving(
        authority.issue_cert(
            "localhost", not_before=yesterday - datetime.timedelta(days=1), not_after=yesterday
        )
    )
    with pytest.raises(Unavailable, match=f"{NOT_VERIFIED}certificate has expired$") as failure:
        post(server, ca_file)
    assert (
        failure.value.hint
        == "see that this host's clock is right: timedatectl; if it is, tell the issuer's operators"
    )
    assert server.requests == []


def test_a_server_that_does_not_speak_tls_is_unavailable(serving: Start, ca_file: str) -> None:
    server = serving(None)
    server.behaviour = lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with https.Client(ca_file, BOUND) as client, pytest.raises(Unavailable) as failure:
        client.post(server.url.replace("http:", "https:"), {}, {})
    assert failure.value.message.startswith(f"no TLS connection to localhost:{server.port}: ")
    assert "Max retries" not in failure.value.message


def test_credentials_of_a_netrc_file_are_not_sent(
    server: Server, ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine localhost login somebody password netrc-password\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))

    def behave(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server.behaviour = behave
    post(server, ca_file)

    assert len(server.requests) == 1
    assert "authorization" not in server.requests[0].lower()


# What an answer says of time


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Retry-After: 7", 7),
        ("Retry-After: 0", 0),
        # The date is on the issuer's clock, which may be wrong, as it is here.
        ("Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", 30),
        ("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Retry-After: soon", None),
        ("Retry-After: -1", None),
        ("Retry-After: 9999999999", https.LONGEST_PAUSE),
        ("Retry-After: " + "9" * 5000, https.LONGEST_PAUSE),
        ("X-Nothing: 1", None),
    ],
)
def test_retry_after_may_be_seconds_or_a_date(
    server: Server, ca_file: str, said: str, seconds: Optional[float]
) -> None:
    server.behaviour = server.answer(b"", "503 Service Unavailable", *said.split("\r\n"))
    assert post(server, ca_file).retry_after == seconds


def test_an_answer_has_its_date_and_the_times_of_question_and_answer(server: Server, ca_file: str) -> None:
    server.behaviour = server.answer(b"", "200 OK", "Date: Sun, 06 Nov 1994 08:49:37 GMT")
    before = time.time()
    found = post(server, ca_file)
    assert found.date == 784111777
    assert before <= found.asked_at <= found.answered_at <= time.time()


@pytest.mark.parametrize(
    "said", ["X-Nothing: 1", "Date: yesterday", "Date: Sun, 99 Nov 1994 08:49:37 GMT", "Date: "]
)
def test_an_answer_may_have_no_date(server: Server, ca_file: str, said: str) -> None:
    server.behaviour = server.answer(b"", "200 OK", said)
    assert post(server, ca_file).date is None
