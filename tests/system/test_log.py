"""Messages of the real program: where they go, and with which priority."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Optional

import pytest

from tests.host import LONGEST, Host

# A warning (an unknown option), an error (a directory that is not there) and a summary.
CONFIG = """
[account probe]
token_request_url = https://issuer.invalid/token
client_id = probe
client_secret = hunter2
colour = blue
[token x]
account = probe
token_path = {host.root}/missing/x
"""
WARNING = "[account probe] colour: is not an option here"
ERROR = "token x: failed (local): there is no directory "
SUMMARY = "1 token: 0 renewed, 0 fresh, 1 failed (x)"


@pytest.fixture
def configured(host: Host) -> Host:
    host.configure(CONFIG)
    return host


def messages(
    host: Host, arguments: Sequence[str] = (), env: Optional[Mapping[str, str]] = None, journal: bool = False
) -> list[str]:
    """What the program writes to stderr; `journal`: the environment names stderr as systemd does."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    told = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if journal else {}
    environment = host.environment({**told, **(env or {})})
    process = subprocess.Popen(
        host.renewer(*arguments),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
    )
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    process.wait(LONGEST)
    assert process.returncode in (0, 1, 2, 78)
    return lines


def test_a_person_reads_lines_without_priorities_and_warnings_are_marked(configured: Host) -> None:
    warning, error, summary = messages(configured)
    assert warning.startswith("warning: ")
    assert WARNING in warning
    assert error.startswith(ERROR)
    assert summary == SUMMARY


def test_the_journal_gets_the_priority_of_each_line(configured: Host) -> None:
    warning, error, summary = messages(configured, journal=True)
    assert warning.startswith("<4>")
    assert WARNING in warning
    assert "warning:" not in warning
    assert error.startswith(f"<3>{ERROR}")
    assert summary == f"<6>{SUMMARY}"


def test_each_line_of_a_log_file_begins_with_its_time(configured: Host) -> None:
    log = configured.root / "renewer.log"
    started = int(time.time())
    for _ in range(2):
        # Cron's shell appends.
        command = f'exec "$@" 2>>{log}'
        subprocess.run(
            ["sh", "-c", command, "sh", *configured.renewer()],
            env=configured.environment({}),
            timeout=LONGEST,
            check=False,
        )
    times, texts = zip(*(line.split(" ", 1) for line in log.read_text().splitlines()))
    assert all(
        started <= datetime.strptime(when, "%Y-%m-%dT%H:%M:%S%z").timestamp() <= time.time() for when in times
    )
    warning, error, summary = texts[:3]
    assert warning.startswith("warning: ")
    assert error.startswith(ERROR)
    assert summary == texts[5] == SUMMARY


@pytest.mark.parametrize("stream", ["", "0:0", "garbage"])
def test_a_stream_that_is_not_the_journal_gets_no_priorities(configured: Host, stream: str) -> None:
    # A service started the program with another stderr than the journal.
    assert messages(configured, env={"JOURNAL_STREAM": stream})[-1] == SUMMARY


def test_quiet_keeps_warnings_and_errors(configured: Host) -> None:
    warning, error = messages(configured, ["-q"])
    assert WARNING in warning
    assert error.startswith(ERROR)


def test_each_problem_of_the_configuration_is_a_line_with_its_priority(configured: Host) -> None:
    configured.configure(CONFIG + "mode = rw\ngroup =\nmin_lifetime = soon\n")
    lines = messages(configured, journal=True)
    assert [line[:3] for line in lines] == ["<4>", "<3>", "<3>", "<3>"]


@pytest.mark.parametrize("stderr", ["full", "closed", "broken"])
def test_a_run_does_its_work_even_if_its_messages_cannot_be_written(configured: Host, stderr: str) -> None:
    reading, broken = os.pipe()
    os.close(reading)
    with open("/dev/full", "wb") as full:
        command = configured.renewer()
        if stderr == "closed":
            command = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        target = {"full": full.fileno(), "closed": subprocess.DEVNULL, "broken": broken}[stderr]
        environment = configured.environment({})
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=target, timeout=LONGEST, check=False
        )
    os.close(broken)
    assert done.returncode == 1
    assert (configured.state / "history.sqlite").exists()


def test_a_path_that_is_not_utf_8_is_shown_in_every_locale(configured: Host, tmp_path: Path) -> None:
    odd = configured.config.read_bytes().replace(b"/missing/x", b"/miss\xc3\xa9\xff/x")
    configured.config.write_bytes(odd)
    for locale in ("C", "C.UTF-8"):
        lines = messages(configured, env={"LANG": locale, "LC_ALL": locale})
        assert any(line.startswith(f"{ERROR}{tmp_path}/miss") for line in lines)
        assert lines[-1] == SUMMARY


@pytest.mark.parametrize("journal", [False, True])
def test_what_is_not_printable_in_a_path_or_an_argument_is_escaped(configured: Host, journal: bool) -> None:
    configured.write_config(configured.config.read_text().replace("/missing/x", "/miss\x1b[2J\u202eing/x"))
    assert any("/miss\\x1b[2J\\u202eing" in line for line in messages(configured, journal=journal))
    (line,) = messages(configured, ["renew", "\x1b[31m\n<0>x"], journal=journal)[1:]
    assert line.endswith(
        "there is no [token \\x1b[31m\\n<0>x] in the configuration; see: osg-token-renewer status"
    )


def test_a_secret_of_the_configuration_is_in_no_message(configured: Host) -> None:
    for arguments in (["-v"], ["check"]):
        assert not any("hunter2" in line for line in messages(configured, arguments))
