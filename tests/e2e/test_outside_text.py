"""Text from outside is harmless: the program makes it a part of one bounded line of printable characters,
wherever it comes from."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from testbed import Issuer
from tests.host import LONGEST, Host
from tests.listener import Listener
from tests.terminal import Terminal, screen
from tests.tokens.test_jwt import jws

# Text that would colour, erase, retitle or reverse a terminal, or be another message in a journal.
HOSTILE = "said\x1b[2J\x1b]0;title\x07\r\n<0>token t: renewed\n\u202e\u2066\u200f\u200b\x9b1m\x00\ufeff"
MEGABYTE = "long " * 200_000
LONGEST_LINE = 1000


def answer(content: dict[str, Any]) -> str:
    return json.dumps(content)


def harmless(line: str) -> bool:
    return line.isprintable() and len(line) < LONGEST_LINE


@pytest.fixture
def server() -> Iterator[Listener]:
    with closing(Listener()) as listener:
        yield listener


@pytest.fixture
def exposed(host: Host, issuer: Issuer, registry_of_two: Host, server: Listener) -> Host:
    """A host whose issuers, programs, paths and files all contain hostile text."""
    server.answer = f"HTTP/1.1 200 {HOSTILE}\r\nno colon {HOSTILE}\r\nX: 1\r\n\r\n{{}}".encode()
    said = {"error": f"invalid_scope {HOSTILE}", "error_description": HOSTILE + MEGABYTE}
    claims = {
        "exp": int(time.time()) + 9999,
        "iss": HOSTILE,
        "aud": [HOSTILE, "x" * 9000],
        "scope": f"{HOSTILE} {'y' * 9000}",
    }
    bodies = {
        "error": (400, answer(said)),
        "page": (503, f"<html>{HOSTILE}{MEGABYTE}"),
        "claims": (200, answer({"access_token": jws(claims)})),
        "token": (200, answer({"access_token": HOSTILE})),
    }
    accounts = host.adopt(registry_of_two, "robot") + host.adopt(registry_of_two, "drone")
    tokens = host.token("agents-issuer", "robot") + host.token("agents-program", "drone", audience="ce")
    for name, (status, body) in bodies.items():
        client = issuer.add_client()
        issuer.fault(
            endpoint="token",
            client_id=client.client_id,
            status=status,
            body=body,
            headers={"Content-Type": "application/json"},
        )
        accounts += host.credentials_account(issuer, name, client)
        tokens += host.token(name, name, scope="asked-for")
    issuer.fault(endpoint="token", client_id=host.client_ids["robot"], status=400, body=answer(said))
    # For the account drone, oidc-token fails with a message that is not UTF-8.
    hostile = host.root / "hostile"
    hostile.write_bytes(
        f"Error: {HOSTILE}".encode().replace(b"\n", b" \xff\xfe ") + MEGABYTE.encode()[:900_000]
    )
    real = subprocess.run(
        ["sh", "-c", "command -v oidc-token"], capture_output=True, text=True, check=True
    ).stdout.strip()
    host.program("oidc-token", f'case "$*" in *drone) cat {hostile} >&2; exit 1;; esac\nexec {real} "$@"\n')
    accounts += host.credentials_account(
        issuer, "headers", issuer.add_client(), token_request_url=f"{server.url}/token"
    )
    tokens += host.token("headers", "headers") + host.token(
        "path", "headers", token_path=f"{host.tokens}/gone\x1b[2J\u202e/token"
    )
    host.configure(accounts + tokens + "[account \x1b[31m\u202e]\ncolour = blue\n")
    drop_ins = host.config.parent / "config.d"
    drop_ins.mkdir(mode=0o700)
    drop_in = drop_ins / "\x1b[2J\n<0>\u202e.ini"
    drop_in.write_text(f"[token path]\n{'unknown' * 3} = 1\n")
    return host


def test_hostile_text_is_harmless_in_messages(exposed: Host) -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    journal = exposed.environment({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    with open(reader, encoding="utf-8") as stream:
        running = subprocess.Popen(
            exposed.renewer("-v"), env=journal, stdin=subprocess.DEVNULL, stderr=writer
        )
        os.close(writer)
        lines = stream.read().split("\n")[:-1]
    assert running.wait(LONGEST) == 1

    assert [line for line in lines if not harmless(line)] == []
    assert [line for line in lines if line[:3] not in ("<3>", "<4>", "<6>", "<7>")] == []
    names = {"agents-issuer", "agents-program", "error", "page", "claims", "token", "headers", "path"}
    outcomes = [
        line.split()[1].rstrip(":") for line in lines if line[:9] in ("<3>token ", "<4>token ", "<6>token ")
    ]
    assert sorted(outcomes) == sorted(names)
    # The printable part of the text is there.
    assert "said [2J ]0;title <0>token t: renewed" in next(
        line for line in lines if line.startswith("<3>token error:")
    )


def test_hostile_text_is_harmless_in_the_output_of_commands(exposed: Host) -> None:
    exposed.run()
    with closing(sqlite3.connect(exposed.state / "history.sqlite")) as database, database:
        database.execute(
            "UPDATE token SET failure_message = ?, failure_reason = ?", (HOSTILE + MEGABYTE, HOSTILE)
        )

    for arguments in (["status"], ["check"], ["renew", "--dry-run"]):
        lines = exposed.run(*arguments).stdout.split("\n")
        assert len(lines) > 3
        assert [line for line in lines if not line.isprintable()] == []
        # A column of a table is as wide as its widest content.
        assert max(map(len, lines)) < 3 * LONGEST_LINE
    printed = exposed.run("status", "--json").stdout
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert {token["name"] for token in json.loads(printed)["tokens"]} > {"claims", "path"}
    with Terminal(exposed.renewer("status"), exposed.environment({})) as terminal:
        terminal.end()
    # `screen` fails on any control sequence except colours.
    assert any("claims" in line for line in screen(terminal.shown))


def test_hostile_text_is_harmless_in_setup(host: Host, issuer: Issuer) -> None:
    # The real oidc-gen does not print such an answer; this one prints it unchanged.
    said = host.root / "said"
    failed = "Error: The following error occurred during dynamic client registration:"
    said.write_text(f"{failed}\nno: {HOSTILE}{MEGABYTE[:900_000]}")
    host.program("oidc-gen", f"cat {said} >&2; exit 1\n")
    common = [
        "--ca-file",
        str(issuer.ca_file),
        "--pw-file",
        str(host.root / "\x1b[2Jrobot.pw"),
        "--create-pw-file",
    ]
    refused = host.setup("--issuer", issuer.url, "--scope", "openid", *common, "robot")
    assert refused.status == 1
    assert refused.stderr.startswith("registration failed (")
    assert [line for line in f"{refused.stderr}{refused.stdout}".split("\n") if not harmless(line)] == []

    metadata = {
        "scopes_supported": [HOSTILE, "openid", MEGABYTE],
        "device_authorization_endpoint": issuer.url,
    }
    issuer.fault(endpoint="discovery", times=1, status=200, body=answer(metadata))
    with Terminal(host.registrar("--issuer", issuer.url, *common, "robot"), host.environment({})) as terminal:
        terminal.wait_for("Scopes [openid offline_access]: ")
        terminal.type("\x04")
        terminal.end()
    assert len(terminal.shown) < 5 * LONGEST_LINE
    assert any(line.startswith("The issuer offers these scopes: said [2J") for line in screen(terminal.shown))


def test_no_library_prints_a_warning_about_an_answer(host: Host, server: Listener) -> None:
    server.answer = f"HTTP/1.1 500 no\r\nno colon {HOSTILE}\r\nX: 1\r\n\r\n".encode()
    host.configure(
        f"[account a]\ntoken_request_url = {server.url}/token\nclient_id = a\nclient_secret = b\n"
        + host.token("t", "a")
    )
    done = host.run()
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["token", "1"]
