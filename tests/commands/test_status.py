"""`status`: the real program, on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import Any

import pytest

from osg_token_renewer.history.store import History
from osg_token_renewer.model import Outcome, State
from osg_token_renewer.tokens import jwt
from tests.host import LONGEST, Host
from tests.report.samples import encoded
from tests.specs import file_token

# No issuer is there: `status` asks none.
ACCOUNT = """
[account probe]
token_request_url = https://issuer.invalid/token
client_id = probe
client_secret = hunter2
"""
STATES = {
    "ce": "fresh",
    "storage": "due",
    "perfsonar": "expiring",
    "old": "expired",
    "refused": "failed",
    "new": "missing",
}


# With half an hour more, so that it is still said to be a day when some time has passed.
DAY = 86400 + 1800


def publish(host: Host, name: str, left: float) -> None:
    path = host.tokens / name
    path.touch(mode=0o600)
    path.write_text(
        encoded(
            {
                "iss": "https://issuer.example.org",
                "exp": time.time() + left,
                "scope": "compute.read",
                "aud": "ce",
            }
        )
        + "\n"
    )


@pytest.fixture
def full(host: Host) -> Host:
    """A host with one token in each state."""
    tokens = [host.token(name, "probe", min_lifetime=600) for name in STATES if name != "storage"]
    host.configure(ACCOUNT + "".join(tokens) + host.token("storage", "probe"))
    for name, left in {"ce": DAY, "storage": DAY, "perfsonar": 355, "old": -DAY, "refused": DAY}.items():
        publish(host, name, left)
    failures = [
        Outcome(file_token("refused", "probe", ""), State.FAILED, "refused", "invalid_client: no such client")
    ]
    for ago in (600, 300):
        History(str(host.state)).record(failures, time.time() - ago)
    return host


def test_a_token_whose_renewal_spread_brings_forward_is_due(host: Host) -> None:
    token, renewer = host.token("ce", "probe", min_lifetime=600), f"[renewer]\nstate_dir = {host.state}\n"
    host.configure(ACCOUNT + token + renewer + "spread = 100000000\n")
    publish(host, "ce", DAY)
    text = (host.tokens / "ce").read_text()
    spec = file_token("ce", "probe", str(host.tokens / "ce"))
    renewed = Outcome(
        spec, State.RENEWED, "renewed", "renewed", token=jwt.parse(text), fingerprint=jwt.fingerprint(text)
    )
    # So long ago that it has enough life to be moved by years.
    History(str(host.state)).record([renewed], 1_000_000_000.0)
    (shown,) = json.loads(host.run("status", "--json").stdout)["tokens"]
    assert shown["state"] == "due"
    assert re.fullmatch(
        "1 d left, moved [0-9]+ d [0-9]+ h ahead of the 10 min of min_lifetime by spread", shown["reason"]
    )
    assert f"token ce: would be obtained: {shown['reason']}" in host.run("renew", "--dry-run").stdout

    host.configure(ACCOUNT + token + renewer)
    (shown,) = json.loads(host.run("status", "--json").stdout)["tokens"]
    assert shown["state"] == "fresh"


def on_a_terminal(host: Host, columns: int, **env: str) -> tuple[int, str]:
    """The exit status of `status`, and what a terminal of so many columns got."""
    ours, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        environment = host.environment({"TERM": "xterm-256color", **env})
        with subprocess.Popen(
            host.renewer("status"), env=environment, stdin=subprocess.DEVNULL, stdout=its
        ) as process:
            os.close(its)
            text = b""
            while select.select([ours], [], [], LONGEST)[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:
                    # EIO: nobody has the terminal open any more.
                    break
                text += piece
    finally:
        os.close(ours)
    return process.returncode, text.decode().replace("\r\n", "\n")


def without_colors(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_pipe_gets_one_line_a_token_without_colors_and_the_exit_status_says_that_not_all_is_well(
    full: Host,
) -> None:
    done = full.run("status")
    assert (done.status, done.stderr) == (1, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0]: line[2] for line in lines[1:]} == STATES
    assert "\x1b" not in done.stdout
    assert re.search(
        r"/tokens/refused +5 min ago, 2 in a row, refused: invalid_client: no such client$",
        done.line("refused "),
    )


def test_a_narrow_terminal_shows_token_state_and_time_left_and_no_line_is_wider(full: Host) -> None:
    status, text = on_a_terminal(full, 80)
    lines = without_colors(text).splitlines()
    assert status == 1
    assert max(map(len, lines)) <= 80
    for name, state in STATES.items():
        assert any(re.match(rf"{name} +{state} +(1 d|5 min|-1 d|-)", line) for line in lines), name
    assert "\x1b[1;31mfailed" in text


def test_a_wide_terminal_shows_one_row_a_token(full: Host) -> None:
    status, text = on_a_terminal(full, 250)
    lines = without_colors(text).splitlines()
    assert status == 1
    assert max(map(len, lines)) <= 250
    assert [line.split()[0] for line in lines[2:]] == ["ce", "perfsonar", "old", "refused", "new", "storage"]
    assert lines[0].split() == ["TOKEN", "ACCOUNT", "STATE", "LEFT", "GRANTS", "PATH", "LAST", "FAILURE"]


def test_no_color_turns_colors_off_and_a_terminal_of_unknown_width_gets_everything(full: Host) -> None:
    assert "\x1b" not in on_a_terminal(full, 80, NO_COLOR="1")[1]
    text = without_colors(on_a_terminal(full, 0)[1])
    assert len(text.splitlines()) == 1 + len(STATES)
    assert str(full.tokens / "refused") in text


def test_json_shows_each_token_and_has_the_same_exit_status(full: Host) -> None:
    done = full.run("status", "--json")
    assert (done.status, done.stderr) == (1, "")
    content = json.loads(done.stdout)
    assert content["schema_version"] == 1
    tokens: dict[str, Any] = {token["name"]: token for token in content["tokens"]}
    assert {name: token["state"] for name, token in tokens.items()} == STATES
    assert tokens["refused"]["failures_in_row"] == 2
    assert tokens["refused"]["last_failure"]["reason"] == "refused"
    assert tokens["ce"]["issuer"] == "https://issuer.example.org"
    assert DAY - 1800 < tokens["ce"]["seconds_left"] <= DAY
    assert (tokens["ce"]["mode"], tokens["new"]["mode"]) == ("0600", None)


@pytest.mark.parametrize(
    ("left", "expected"),
    [(3600, 0), (300, 0), (-1, 1), (None, 1)],
    ids=["fresh", "expiring", "expired", "missing"],
)
def test_the_exit_status_is_1_only_when_a_consumer_would_notice(
    host: Host, left: float | None, expected: int
) -> None:
    host.configure(ACCOUNT + host.token("x", "probe", min_lifetime=600))
    if left is not None:
        publish(host, "x", left)
    assert host.run("status").status == expected


def test_a_configuration_without_tokens_is_well_and_says_so(host: Host) -> None:
    host.configure("")
    done = host.run("status")
    assert (done.status, done.stdout, done.stderr) == (0, "no token is configured\n", "")
    assert json.loads(host.run("status", "--json").stdout)["tokens"] == []


def test_status_changes_nothing_and_leaves_no_history_behind(host: Host) -> None:
    host.configure(ACCOUNT + host.token("x", "probe"))
    host.run("status")
    assert [
        path for directory in (host.tokens, host.state, host.runtime) for path in directory.iterdir()
    ] == []


def test_a_wrong_configuration_is_exit_78(host: Host) -> None:
    host.configure(ACCOUNT + "[token x]\naccount = nobody\ntoken_path = relative\n")
    done = host.run("status")
    assert (done.status, done.stdout) == (78, "")


def test_a_damaged_history_is_a_warning_and_status_still_shows_the_files(full: Host) -> None:
    (full.state / "history.sqlite").write_bytes(b"no database at all")
    done = full.run("status", "--json")
    assert done.line("warning: the history is damaged (")
    states = {token["name"]: token["state"] for token in json.loads(done.stdout)["tokens"]}
    assert states == {**STATES, "refused": "fresh"}
    # Looking at it mends nothing: that is for the next renewal.
    assert (full.state / "history.sqlite").read_bytes() == b"no database at all"


def test_a_path_that_is_not_utf_8_is_shown(host: Host) -> None:
    host.configure(ACCOUNT + "[token x]\naccount = probe\ntoken_path = {host.tokens}/LAST\n")
    host.config.write_bytes(host.config.read_bytes().replace(b"LAST", b"\xff"))
    done = host.run("status")
    assert (done.status, done.stderr) == (1, "")
    assert f"{host.tokens}/" in done.stdout
    assert json.loads(host.run("status", "--json").stdout)["tokens"][0]["path"] == f"{host.tokens}/\udcff"


def test_a_reader_that_closes_the_pipe_early_is_not_an_error(full: Host) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        full.renewer("status"), env=full.environment({}), stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        _, stderr = process.communicate(timeout=LONGEST)
    assert (process.returncode, stderr) == (141, "")
