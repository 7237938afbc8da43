"""For any command line, the program ends with one of its own exit statuses and harmless messages."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osg_token_renewer import cli
from osg_token_renewer.errors import Exit, UsageError
from tests.properties import cases

CONFIG = """\
[account probe]
token_request_url = https://127.0.0.1:1/token
client_id = probe
client_secret = correct-horse
[token x]
account = probe
token_path = {directory}/gone/x
[renewer]
state_dir = {directory}/state
runtime_dir = {directory}/run
"""
OWN = {Exit.WELL, Exit.FAILED, Exit.USAGE, Exit.CONFIG}

RENEWER = [
    "renew",
    "check",
    "status",
    "--config",
    "--config=",
    "-v",
    "-q",
    "--verbose",
    "--quiet",
    "--force",
    "--dry-run",
    "--strict",
]
RENEWER += ["--json", "--version", "--help", "-h", "--", "-", "x", "--conf", "-vq", "-vx"]
SETUP = [
    "--manual",
    "--client-credentials",
    "--reauthenticate",
    "--pw-file",
    "--create-pw-file",
    "--issuer",
    "https://127.0.0.1:1",
]
SETUP += [
    "--scope",
    "openid",
    "--audience",
    "--client-id",
    "--client-secret-file",
    "--ca-file",
    "--timeout",
    "1",
    "0",
    "--service-user",
]
SETUP += [
    "--write-config",
    "--config",
    "-v",
    "--",
    "robot",
    "--help",
    "--issuer=http://x",
    "--issuer=https://[",
    "--scope=\x01",
    "root",
]
PATHS = ["config.ini", "gone", ".", "/dev/null", "secret", "empty"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory and home of the user, with only a few files."""
    path = tmp_path_factory.mktemp("home")
    (path / "config.ini").write_text(CONFIG.format(directory=path))
    (path / "config.ini").chmod(0o600)
    (path / "secret").write_text("correct-horse\n")
    (path / "empty").touch()
    with pytest.MonkeyPatch.context() as environment:
        environment.chdir(path)
        for name, value in {
            "HOME": path,
            "TMPDIR": path,
            "OSG_TOKEN_RENEWER_CONFIG_PATH": path / "config.ini",
        }.items():
            environment.setenv(name, str(value))
        yield path


def arguments(words: list[str]) -> st.SearchStrategy[list[str]]:
    """An argument list as Python gets it from the kernel: without NUL, with surrogates for bytes that are not
    UTF-8."""
    texts = cases.TEXT.map(lambda text: os.fsdecode(text.replace("\0", "").encode("utf-8", "surrogatepass")))
    return st.lists(
        st.one_of(st.sampled_from(words), st.sampled_from(words), st.sampled_from(PATHS), texts), max_size=9
    )


def ended(program: Callable[[list[str]], int], argv: list[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = cases.answer(lambda: program(argv), UsageError)
        except SystemExit as error:
            status = int(error.code or 0)
    assert isinstance(status, int)
    return status, out.getvalue(), err.getvalue()


def harmless(output: str) -> bool:
    return all(cases.harmless(line, limit=10_000) for line in output.split("\n"))


@given(argv=arguments(RENEWER))
@example(argv=["--config", "\x1b[31m\n<3>"])
@example(argv=["renew", "\x1b[31m\n<3>"])
@example(argv=["\x1b[31m\n<3>"])
def test_any_command_line_ends_with_a_status_of_the_program(home: Path, argv: list[str]) -> None:
    status, out, err = ended(cli.main, argv)
    assert status in OWN
    assert harmless(out)
    assert harmless(err)
    assert status != Exit.CONFIG or err or "check" in argv


@given(argv=arguments(SETUP))
@example(argv=["--config", "\x1b[31m\n<3>", "robot"])
@example(argv=["--service-user", "root", "--pw-file", "\x1b[31m\n<3>", "robot"])
@example(
    argv=[
        "--service-user",
        "\udcff",
        "--pw-file",
        "secret",
        "--issuer=https://127.0.0.1:1",
        "--scope=x",
        "robot",
    ]
)
def test_any_command_line_of_setup_ends_with_a_status_of_the_program(home: Path, argv: list[str]) -> None:
    status, out, err = ended(cli.setup_main, argv)
    assert status in OWN
    assert harmless(out)
    assert harmless(err)
    assert "correct-horse" not in out + err
