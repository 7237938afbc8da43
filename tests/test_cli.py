"""The program as a shell, cron and systemd see it: arguments, exit statuses, streams."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from osg_token_renewer import __version__, cli
from tests.host import LONGEST, RENEWER, ROOT, SETUP, Host, closed_port
from tests.tokens.test_jwt import jws

PROBE = """\
[account probe]
token_request_url = {url}
client_id = probe
client_secret_file = {host.root}/secret
timeout = 300
"""
# The one token is fresh: nothing is due.
FRESH = PROBE + "[token x]\naccount = probe\ntoken_path = {host.tokens}/x\nmin_lifetime = 600\n"


@pytest.fixture(autouse=True)
def secret(host: Host) -> Path:
    return host.secret("secret", "hunter2\n")


@pytest.fixture
def closed_url() -> Iterator[str]:
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}/token"


def with_fresh_token(host: Host) -> None:
    host.secret("tokens/x", jws({"exp": time.time() + 3600}) + "\n")
    host.configure(FRESH, url="https://issuer.invalid/")


def program(
    host: Host,
    arguments: Sequence[str],
    env: Optional[Mapping[str, str]] = None,
    before: Sequence[str] = (),
    **streams: Any,
) -> subprocess.CompletedProcess[str]:
    """The program with no --config, unless it is among the arguments, with these streams, started by the
    program `before`."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    command = [*before, sys.executable, *arguments]
    return subprocess.run(
        command,
        env=host.environment(env or {}),
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=LONGEST,
        check=False,
        **streams,
    )


# Arguments


def test_main_gives_the_garbage_collector_back(host: Host) -> None:
    """A program that calls main() goes on afterwards."""
    with_fresh_token(host)
    before = gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    assert cli.main(["--config", str(host.config), "-q"]) == 0
    assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == before


def test_with_no_command_it_renews(host: Host) -> None:
    with_fresh_token(host)
    done = host.run()
    assert (done.status, done.stdout) == (0, "")
    assert done.line("1 token:") == "1 token: 0 renewed, 1 fresh, 0 failed"


def test_version_is_printed(host: Host) -> None:
    done = program(host, [str(RENEWER), "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"osg-token-renewer {__version__}\n", "")
    assert program(host, [str(SETUP), "--version"]).stdout.strip().endswith(__version__)


@pytest.mark.parametrize("command", [[], ["renew"], ["check"], ["status"]])
def test_every_command_has_help(host: Host, command: list[str]) -> None:
    done = program(host, [str(RENEWER), *command, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: osg-token-renewer ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--conf", "/dev/null"],
        ["--verb"],
        ["renew", "--forc"],
        ["renew", "--dry"],
        ["check", "--str"],
        ["status", "--js"],
        ["stat"],
        ["--unknown"],
        ["unknown"],
        ["check", "more"],
        ["-q", "-v"],
        ["--config"],
    ],
)
def test_wrong_usage_is_exit_2_and_abbreviations_are_wrong(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    said = capsys.readouterr()
    assert (caught.value.code, said.out) == (2, "")
    assert said.err.startswith("usage: osg-token-renewer ")


def test_an_unknown_token_is_exit_2_with_a_hint_and_nothing_is_attempted(host: Host, closed_url: str) -> None:
    host.configure(FRESH, url=closed_url)
    done = host.run("renew", "x", "y")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "there is no [token y] in the configuration; see: osg-token-renewer status\n"


# Configuration


def test_the_config_option_comes_before_the_environment_variable(host: Host) -> None:
    with_fresh_token(host)
    variable = {"OSG_TOKEN_RENEWER_CONFIG_PATH": str(host.config)}
    assert program(host, [str(RENEWER), "check"], variable).stdout == f"{host.config}: 1 account, 1 token\n"
    other = host.root / "other.ini"
    other.write_text("")
    assert (
        program(host, [str(RENEWER), "--config", str(other), "check"], variable).stdout
        == f"{other}: 0 accounts, 0 tokens\n"
    )


@pytest.mark.parametrize("command", [[], ["renew"], ["renew", "--dry-run"], ["status"]])
def test_a_missing_configuration_is_exit_78_with_path_and_reason(host: Host, command: list[str]) -> None:
    done = host.run(*command)
    assert (done.status, done.stdout) == (78, "")
    assert done.stderr.splitlines() == [
        f"{host.config}: cannot be read: No such file or directory",
        "the configuration is wrong: nothing was attempted; see: osg-token-renewer check",
    ]


def test_a_configuration_without_read_permission_is_exit_78(host: Host) -> None:
    with_fresh_token(host)
    host.config.chmod(0)
    # What lets root read everything, which another user does not have.
    power = "-dac_override,-dac_read_search"
    without = ["setpriv", f"--bounding-set={power}", f"--inh-caps={power}"] if os.geteuid() == 0 else []
    done = program(host, [str(RENEWER), "--config", str(host.config)], before=without)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines()[0] == f"{host.config}: cannot be read: Permission denied"


def test_a_wrong_configuration_is_exit_78_and_nothing_is_attempted(host: Host, closed_url: str) -> None:
    host.configure(FRESH + "[token ../y]\n[account --help]\n[token z]\naccount = probe\n", url=closed_url)
    for command in ([], ["renew", "x"], ["status"], ["renew", "--dry-run"]):
        done = host.run(*command)
        assert (done.status, done.stdout) == (78, "")
        assert done.stderr.replace(f"{host.config}", "F").splitlines() == [
            "F:10: [token ../y] a name must not contain '/', nor be '.' or '..'",
            "warning: F:11: [account --help] a name must not begin with '-'",
            "F:12: [token z] token_path: is missing",
            "the configuration is wrong: nothing was attempted; see: osg-token-renewer check",
        ]


def test_a_configuration_without_tokens_is_well_and_says_so(host: Host) -> None:
    host.configure("")
    for command, said in (
        (["renew"], "no token is configured: nothing to do\n"),
        (["renew", "--dry-run"], "no token is configured: nothing to do\n"),
        (["status"], "no token is configured\n"),
    ):
        done = host.run(*command)
        assert (done.status, done.stdout + done.stderr) == (0, said)


def test_a_warning_does_not_stop_a_run(host: Host) -> None:
    with_fresh_token(host)
    host.write_config(host.config.read_text().replace("min_lifetime", "colour = blue\nmin_lifetime"))
    done = host.run()
    assert done.status == 0
    assert (
        done.line("warning:")
        == f"warning: {host.config}:9: [token x] colour: is not an option here and is ignored"
    )


# Exit statuses


def test_a_failed_token_is_exit_1(host: Host, closed_url: str) -> None:
    host.configure(FRESH, url=closed_url)
    done = host.run()
    assert (done.status, done.stdout) == (1, "")
    assert "Connection refused" in done.line("token x:")
    assert done.line("1 token:") == "1 token: 0 renewed, 0 fresh, 1 failed (x)"


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Path]:
    """An installation whose files a test can empty, as a power failure does."""
    place = tmp_path / "damaged"
    shutil.copytree(
        ROOT / "osg_token_renewer", place / "osg_token_renewer", ignore=shutil.ignore_patterns("__pycache__")
    )
    (place / "libexec").mkdir()
    shutil.copy(RENEWER, place / "libexec")
    yield place


def test_a_bug_is_exit_3_with_the_frames_and_how_to_report_it(host: Host, damaged: Path) -> None:
    with_fresh_token(host)
    (damaged / "osg_token_renewer" / "report" / "table.py").write_text("")
    done = program(host, [str(damaged / "libexec" / RENEWER.name), "--config", str(host.config), "status"])
    assert (done.returncode, done.stdout) == (3, "")
    first, *frames = done.stderr.splitlines()
    assert first.startswith(f"a bug in osg-token-renewer {__version__}: ")
    assert "please report it" in first
    assert any("commands/status.py" in frame for frame in frames)


def test_a_bug_in_a_lane_is_exit_3_too(host: Host, damaged: Path, closed_url: str) -> None:
    host.configure(FRESH, url=closed_url)
    (damaged / "osg_token_renewer" / "net" / "https.py").write_text("")
    done = program(host, [str(damaged / "libexec" / RENEWER.name), "--config", str(host.config)])
    assert done.returncode == 3
    assert "a bug in this program" in done.stderr
    assert done.stderr.splitlines()[-1] == "1 token: 0 renewed, 0 fresh, 1 failed (x)"


# Streams


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["check"], ["renew", "--dry-run"]])
def test_a_reader_that_closes_the_pipe_early_is_not_a_bug(host: Host, command: list[str]) -> None:
    with_fresh_token(host)
    reader, writer = os.pipe()
    os.close(reader)
    done = program(host, [str(RENEWER), "--config", str(host.config), *command], stdout=writer)
    os.close(writer)
    # As a shell reports a program that SIGPIPE ended.
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(host: Host, closed_url: str, closed: str) -> None:
    with_fresh_token(host)
    host.write_config(host.config.read_text() + "[token y]\naccount = probe\ntoken_path = /nonexistent/y\n")
    command = f'"$@" {closed}'
    for arguments, status in ((["check"], 0), (["status"], 1), (["renew", "--dry-run"], 0), ([], 1)):
        done = subprocess.run(
            [
                "sh",
                "-c",
                command,
                "sh",
                sys.executable,
                str(RENEWER),
                "--config",
                str(host.config),
                *arguments,
            ],
            env=host.environment({}),
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert (done.returncode, "bug" in done.stderr) == (status, False), (arguments, done.stderr)


def test_quiet_prints_only_problems_and_verbose_prints_no_less_than_usual(
    host: Host, closed_url: str
) -> None:
    host.secret("tokens/x", jws({"exp": time.time() + 3600}))
    host.configure(
        FRESH + "colour = blue\n[token y]\naccount = probe\ntoken_path = {host.tokens}/y\n", url=closed_url
    )

    quiet = host.run("-q")
    assert quiet.status == 1
    assert [line.partition(" ")[0] for line in quiet.stderr.splitlines()] == ["warning:", "token"]
    usual = host.run()
    assert len(usual.stderr.splitlines()) == len(quiet.stderr.splitlines()) + 2
    verbose = host.run("-v")
    assert len(verbose.stderr.splitlines()) >= len(usual.stderr.splitlines())


def test_quiet_prints_nothing_if_all_is_well(host: Host) -> None:
    with_fresh_token(host)
    done = host.run("--quiet")
    assert (done.status, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_each_line_that_the_journal_reads_carries_its_priority(
    host: Host, damaged: Path, closed_url: str, kind: str
) -> None:
    """So do those of a bug's frames, which are one message of many lines."""
    host.configure(
        FRESH + "colour = blue\n[token y]\naccount = probe\ntoken_path = {host.tokens}/y\n", url=closed_url
    )
    host.secret("tokens/y", jws({"exp": time.time() + 3600}))
    host.write_config(host.config.read_text().replace("/y\n", "/y\nmin_lifetime = 60\n"))
    (damaged / "osg_token_renewer" / "net" / "https.py").write_text("")
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    status = os.fstat(writer)
    journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    with os.fdopen(reader, encoding="utf-8") as messages:
        done = program(
            host,
            [str(damaged / "libexec" / RENEWER.name), "--config", str(host.config)],
            journal,
            stderr=writer,
        )
        os.close(writer)
        lines = messages.read().splitlines()
    assert done.returncode == 3
    assert all(line[0] == "<" and line[1] in "234567" and line[2] == ">" for line in lines), lines
    assert lines[0].startswith(f"<4>{host.config}:10: ")
    assert [line for line in lines if line.startswith("<3>token x: ")]
    assert [line for line in lines if line.startswith("<6>token y: fresh")]
    assert len([line for line in lines if line.startswith('<3>  File "')]) >= 1
    assert lines[-1].startswith("<6>2 tokens: ")


def test_lines_that_the_journal_does_not_read_carry_no_priority(host: Host) -> None:
    with_fresh_token(host)
    # The journal read another stream, and this program's stderr goes elsewhere.
    for stream in ("", "1:2", "nonsense"):
        assert not host.run(env={"JOURNAL_STREAM": stream}).stderr.startswith("<")


def test_text_that_the_terminal_cannot_show_does_not_end_a_run(host: Host) -> None:
    host.configure(FRESH.replace("[token x]", "[token größe]"), url="https://issuer.invalid/")
    host.secret("tokens/x", jws({"exp": time.time() + 3600, "scope": "größe"}))
    done = host.run(
        "status",
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    )
    assert (done.status, done.stderr) == (0, "")
    assert "gr\\xf6\\xdfe" in done.stdout


# What a run costs


@pytest.mark.parametrize("arguments", [["renew"], ["renew", "--dry-run"], ["check"], ["status", "--json"]])
def test_a_run_with_nothing_due_imports_nothing_heavy(host: Host, arguments: list[str]) -> None:
    with_fresh_token(host)
    script = (
        "import json, sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        "from osg_token_renewer.cli import main; status = main(sys.argv[2:]);"
        "print(json.dumps([status, sorted(set(sys.modules) - before)]))"
    )
    done = program(host, ["-c", script, str(ROOT), "--config", str(host.config), *arguments])
    status, imported = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert "osg_token_renewer.config" in imported
    heavy = {
        "requests",
        "urllib3",
        "jwt",
        "cryptography",
        "rich",
        "http.client",
        "ssl",
        "asyncio",
        "concurrent.futures",
        "email",
    }
    heavy |= {
        "subprocess",
        "tempfile",
        "shutil",
        "bz2",
        "lzma",
        "zlib",
        "secrets",
        "random",
        "hmac",
        "shlex",
        "base64",
        "difflib",
    }
    assert heavy & set(imported) == set()
    late = {f"osg_token_renewer.{name}" for name in ("net.https", "net.connection", "engine.workers")}
    assert all(importlib.util.find_spec(name) for name in late)
    assert not late & set(imported)


def test_output_to_a_full_disk_is_a_failure_and_not_a_bug(host: Host) -> None:
    host.configure("")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(RENEWER), "--config", str(host.config), "check"],
            env=host.environment({}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "the output cannot be written: No space left on device\n")


def test_a_program_whose_error_nobody_reads_ends_all_the_same(host: Host) -> None:
    """A pipe takes 64 KiB."""
    host.write_config("".join(f"[nothing{'x' * 180} {number}]\n" for number in range(1000)))
    program = "import sys; from osg_token_renewer import cli; cli.LAST_WORDS = 1; sys.exit(cli.main())"
    with host.popen([sys.executable, "-c", program, *host.renewer()[2:]], {"PYTHONPATH": str(ROOT)}) as run:
        assert run.wait(LONGEST) == -signal.SIGALRM
