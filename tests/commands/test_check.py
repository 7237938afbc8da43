"""`check`: what it prints, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host import Host

# An account and a token without fault: the issuer is nowhere, and `check` does not mind.
GOOD = """\
[account probe]
token_request_url = https://issuer.invalid/token
client_id = probe
client_secret_file = {host.root}/secret
[token x]
account = probe
token_path = {host.tokens}/x
"""


@pytest.fixture(autouse=True)
def secret(host: Host) -> Path:
    return host.secret("secret", "hunter2\n")


def test_a_good_configuration_prints_one_line_with_counts(host: Host) -> None:
    host.configure(GOOD + "[token y]\naccount = probe\ntoken_path = {host.tokens}/y\n")
    done = host.run("check")
    assert (done.status, done.stdout, done.stderr) == (0, f"{host.config}: 1 account, 2 tokens\n", "")


def test_a_configuration_without_tokens_is_well_and_says_so(host: Host) -> None:
    host.configure("")
    done = host.run("check")
    assert (done.status, done.stdout, done.stderr) == (0, f"{host.config}: 0 accounts, 0 tokens\n", "")


def test_each_problem_is_a_line_with_its_place(host: Host) -> None:
    host.configure(GOOD + "min_lifetime = soon\nmode = 9\ncolour = blue\n[token ../x]\n[account --help]\n")
    done = host.run("check")
    assert (done.status, done.stderr) == (78, "")
    assert done.stdout.replace(f"{host.config}", "F").splitlines() == [
        "F:8: [token x] min_lifetime: must be a number of seconds",
        "F:9: [token x] mode: must be an octal mode of three or four digits, as 0600",
        "F:10: [token x] colour: is not an option here and is ignored (warning)",
        "F:11: [token ../x] a name must not contain '/', nor be '.' or '..'",
        "F:12: [account --help] a name must not begin with '-' (warning)",
    ]


def test_an_unknown_option_is_a_warning_and_an_error_when_strict(host: Host) -> None:
    host.configure(GOOD + "audiance = ce\n")
    ignored = "is not an option here and is ignored; did you mean audience?"
    warning = f"{host.config}:8: [token x] audiance: {ignored} (warning)\n"

    done = host.run("check")
    assert (done.status, done.stdout) == (0, f"{warning}{host.config}: 1 account, 1 token, 1 warning\n")
    done = host.run("check", "--strict")
    assert (done.status, done.stdout, done.stderr) == (
        78,
        f"{warning}1 warning, which --strict takes as an error\n",
        "",
    )
    host.configure(GOOD + "audiance = ce\ncolour = blue\n")
    assert host.run("check", "--strict").stdout.splitlines()[2:] == [
        "2 warnings, which --strict takes as errors"
    ]


def test_strict_changes_nothing_without_warnings(host: Host) -> None:
    host.configure(GOOD)
    assert host.run("check", "--strict").status == 0


def test_secrets_that_others_can_read_are_a_warning(host: Host, secret: Path) -> None:
    host.configure(GOOD)
    secret.chmod(0o644)
    done = host.run("check")
    assert done.status == 0
    assert done.line(str(host.config) + ":4:").endswith(
        f"client_secret_file: others can read it: chmod o-rwx {secret} (warning)"
    )
    assert host.run("check", "--strict").status == 78
    for _ in range(2):
        assert (
            f"client_secret_file: others can read it: chmod o-rwx {secret}\n"
            in host.run("renew", "--dry-run").stderr
        )


@pytest.mark.parametrize("what", ["configuration", "secret", "directory"])
def test_every_command_refuses_files_that_others_can_change_and_attempts_nothing(
    host: Host, secret: Path, what: str
) -> None:
    host.configure(GOOD)
    {"configuration": host.config, "secret": secret, "directory": host.config.parent}[what].chmod(0o703)
    for arguments in (["check"], ["renew"], ["status"], ["renew", "--dry-run"]):
        done = host.run(*arguments)
        assert done.status == 78
        assert " others can write " in done.line(str(host.config))
    assert not any(
        directory for place in (host.state, host.runtime, host.tokens) for directory in place.iterdir()
    )


def test_drop_ins_are_checked_too(host: Host) -> None:
    host.configure(GOOD)
    (host.config.parent / "config.d").mkdir()
    (host.config.parent / "config.d" / "10.ini").write_text("[token y]\naccount = probe\n")
    done = host.run("check")
    assert (done.status, done.stdout) == (
        78,
        f"{host.config.parent}/config.d/10.ini:1: [token y] token_path: is missing\n",
    )


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("gone", "No such file or directory"),
        ("directory", "Is a directory"),
        ("dangling", "No such file or directory"),
    ],
)
def test_check_prints_path_and_reason_of_a_configuration_that_cannot_be_read(
    host: Host, kind: str, why: str
) -> None:
    if kind == "directory":
        host.config.mkdir()
    elif kind == "dangling":
        host.config.symlink_to("nowhere")
    done = host.run("check")
    assert (done.status, done.stdout) == (78, f"{host.config}: cannot be read: {why}\n")


def test_check_writes_nothing_and_needs_no_program(host: Host) -> None:
    host.configure(GOOD + "[account robot]\npassword_file = {host.root}/secret\n")
    done = host.run("check", env={"PATH": "/nonexistent"})
    assert done.status == 0
    assert not any(
        directory for place in (host.state, host.runtime, host.tokens) for directory in place.iterdir()
    )


def test_a_secret_in_a_broken_line_is_not_shown(host: Host) -> None:
    host.write_config(
        "S3cr3tW0rd\n[account a]\nclient_secret\n S3cr3tW0rd\n"
        "S3cr3tW0rd==\n[S3cr3tW0rd\nsource = S3cr3tW0rd\n"
    )
    for arguments in (["check"], ["check", "--strict"], ["renew"], ["status"]):
        done = host.run(*arguments)
        assert done.status == 78
        assert "s3cr3t" not in (done.stdout + done.stderr).lower()
