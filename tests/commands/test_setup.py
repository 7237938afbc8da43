"""osg-token-renewer-setup, with the real oidc-gen, the real issuer, and a user who approves, denies, or never
comes."""

from __future__ import annotations

import configparser
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

import pytest

from osg_token_renewer import cli
from osg_token_renewer.accounts.login import begin_login
from osg_token_renewer.accounts.registration import Registration
from osg_token_renewer.errors import TimedOut
from osg_token_renewer.model import Secret
from testbed import Issuer
from tests.faults import apart, mount
from tests.host import LONGEST, SCOPE, Host, Result, issuer_options, processes_of, processes_with, until
from tests.terminal import Terminal

SETUP = "osg-token-renewer-setup"


def given(host: Host, issuer: Issuer, *more: str) -> list[str]:
    """All that registration must know, so that nothing is asked."""
    pw_file = str(host.root / "robot.pw")
    return [
        *issuer_options(issuer, SCOPE),
        "--pw-file",
        pw_file,
        "--create-pw-file",
        *more,
    ]


@contextmanager
def person(act: Callable[[], object]) -> Iterator[None]:
    """Somebody who acts as soon as there is a code."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    yield
    thread.join()


def printed_section(result: Result) -> tuple[str, dict[str, str]]:
    """The section to paste, as the configuration will read it."""
    parser = configparser.ConfigParser()
    parser.read_string(re.search(r"^\[account .*?(?=\n\n)", result.stdout, re.DOTALL | re.MULTILINE)[0])  # type: ignore[index]
    (title,) = parser.sections()
    return title, dict(parser[title])


def nothing_is_left(host: Host, *kept: str) -> bool:
    """No account, no password file that was made, no process, and none of oidc-gen's temporary files."""
    there = {path.name for path in host.root.iterdir() if path.is_file()}
    return (
        there,
        in_accounts(host) - {"issuer.config"},
        host.leftovers(),
        list(Path("/tmp").glob("oidc-gen:*")),
    ) == (
        set(kept),
        set(),
        [],
        [],
    )


def in_accounts(host: Host) -> set[str]:
    """All that is in the directory of accounts."""
    directory = host.account_file("robot").parent
    return set(os.listdir(directory)) if directory.exists() else set()


def lent(host: Host) -> list[Path]:
    """What oidc-gen has made of the account so far, in its own directory."""
    return list(host.short.glob("osg-agent-*/oidc-agent/robot"))


@pytest.fixture
def said(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The program within this process, for what it says before it does anything: exit status, stdout and
    stderr."""
    for name, value in host.environment({}).items():
        monkeypatch.setenv(name, value)

    def say(*arguments: str) -> tuple[int, str, str]:
        status = cli.setup_main(host.registrar(*arguments)[2:])
        return (status, *capsys.readouterr())

    return say


# it works


def test_an_account_is_registered_by_the_device_flow(host: Host, issuer: Issuer) -> None:
    with person(issuer.approve_next):
        done = host.setup(*given(host, issuer), "robot")

    assert done.status == 0, done.stderr
    pw_file = host.root / "robot.pw"
    assert printed_section(done) == (
        "account robot",
        {"password_file": str(pw_file), "issuer": issuer.url},
    )
    password = pw_file.read_text()
    assert re.fullmatch(r"[\w-]{40,}\n", password)
    assert (
        stat.S_IMODE(pw_file.stat().st_mode)
        == stat.S_IMODE(host.account_file("robot").stat().st_mode)
        == 0o600
    )
    assert f"visit:\n\n    {issuer.url}/device" in done.stdout
    assert re.search(r"enter the code:\n\n    [A-Z]{4}-[A-Z]{4}\n", done.stdout)
    assert password.strip() not in done.stdout + done.stderr
    assert "client_secret" not in done.stdout + done.stderr
    assert f"Add the following section to {host.config}:" in done.stdout
    assert issuer.counts().registration == 1
    assert host.leftovers() == []


def test_a_given_client_is_used_and_the_section_written(host: Host, issuer: Issuer) -> None:
    """--manual, --write-config, and a password file that is there already."""
    client = issuer.add_client(token_endpoint_auth_method="client_secret_basic")
    secret = host.secret("client.secret", f"{client.client_secret}\n")
    host.secret("robot.pw", "my 50% password\nits second line\n")
    host.configure(host.token("t", "robot"))

    with person(issuer.approve_next):
        manual = [
            "--manual",
            "--client-id",
            client.client_id,
            "--client-secret-file",
            str(secret),
            "--write-config",
        ]
        done = host.setup(*given(host, issuer, *manual), "robot")

    assert done.status == 0, done.stderr
    assert issuer.counts().registration == 0
    written = host.config.parent / "config.d" / "robot.ini"
    assert f"Wrote its section to {written}" in done.stdout
    assert written.read_text() == (
        f"[account robot]\npassword_file = {host.root}/robot.pw\nissuer = {issuer.url}\n"
    )
    assert [stat.S_IMODE(path.stat().st_mode) for path in (written, written.parent)] == [0o640, 0o750]
    assert (host.root / "robot.pw").read_text() == "my 50% password\nits second line\n"
    renewed = host.run()
    assert renewed.status == 0, renewed.stderr
    assert issuer.verify(host.read("t").strip())["client_id"] == client.client_id


def test_a_client_credentials_account_is_proved_before_its_section_is_printed(
    host: Host, issuer: Issuer
) -> None:
    client = issuer.add_client()
    secret = host.secret("client.secret", f"{client.client_secret}\n")
    options = [
        "--client-credentials",
        *issuer_options(issuer, "compute.read"),
    ]
    options += ["--audience", "ce", "--client-id", client.client_id, "--client-secret-file", str(secret)]

    done = host.setup(*options, "probe")

    assert done.status == 0, done.stderr
    title, section = printed_section(done)
    assert (title, section) == (
        "account probe",
        {
            "token_request_url": f"{issuer.url}/token",
            "client_id": client.client_id,
            "client_secret_file": str(secret),
            "issuer": issuer.url,
            "ca_file": str(issuer.ca_file),
        },
    )
    assert issuer.counts().grants == {"client_credentials": 1}
    host.configure(
        f"[{title}]\n"
        + "".join(f"{name} = {value}\n" for name, value in section.items())
        + host.token("t", "probe")
    )
    assert host.run().status == 0

    secret.write_text("wrong\n")
    refused = host.setup(*options, "--write-config", "probe")
    assert (refused.status, refused.stdout) == (1, "")
    assert "the issuer refused the request: invalid_client" in refused.stderr
    assert not (host.config.parent / "config.d").exists()


def test_a_dead_account_is_brought_back_by_logging_in_again(host: Host, issuer: Issuer) -> None:
    host.configure(host.register(issuer, "robot") + host.token("t", "robot"))
    issuer.revoke(host.client_ids["robot"])
    before = host.run()
    assert before.status == 1
    remedy = before.line("token t: ").rpartition("; run: ")[2]
    assert remedy == f"{SETUP} --reauthenticate robot"
    account = host.account_file("robot").read_bytes()
    options = ["--reauthenticate", "--pw-file", str(host.root / "robot.pw"), "robot"]

    with person(issuer.deny_next):
        denied = host.setup(*options)
    assert denied.status == 1
    assert "the authorization was denied" in denied.stderr
    assert host.account_file("robot").read_bytes() == account

    with person(issuer.approve_next):
        done = host.setup(*options)
    assert done.status == 0, done.stderr
    assert (
        f"[account robot] is in the configuration already, at {host.config}:1: nothing was added to it."
        in done.stdout
    )
    assert host.run().status == 0
    assert issuer.verify(host.read("t").strip())
    assert host.leftovers() == []


def test_the_section_of_an_account_that_logs_in_again_has_no_issuer(host: Host, issuer: Issuer) -> None:
    """Setup was not told it."""
    host.register(issuer, "robot")
    with person(issuer.approve_next):
        done = host.setup("--reauthenticate", "--pw-file", str(host.root / "robot.pw"), "robot")
    assert done.status == 0, done.stderr
    assert printed_section(done) == ("account robot", {"password_file": f"{host.root}/robot.pw"})


# it does not


def test_after_a_denied_an_expired_and_an_interrupted_authorization_nothing_is_left(
    host: Host, issuer: Issuer
) -> None:
    """And so the last attempt of this test starts as clean as the first."""
    with person(issuer.deny_next):
        denied = host.setup(*given(host, issuer), "robot")
    assert denied.status == 1
    assert denied.stderr == f"the authorization was denied; run it again: {SETUP} robot\n"
    assert nothing_is_left(host)

    issuer.settings(device_code_ttl=1)
    expired = host.setup(*given(host, issuer), "robot")
    assert expired.status == 1
    assert (
        expired.stderr
        == f"the code expired before the authorization was given; run it again: {SETUP} robot\n"
    )
    assert nothing_is_left(host)
    issuer.settings(device_code_ttl=300)
    # A code that nobody waits for any more must not be the next one that is approved.
    issuer.revoke(issuer.client_id("robot"))

    for number in (signal.SIGHUP, signal.SIGTERM):
        running = host.popen(host.registrar(*given(host, issuer), "robot"), {})
        wait_for_code(issuer, running)
        running.send_signal(number)
        _, said = running.communicate(timeout=LONGEST)
        assert (running.returncode, said) == (
            128 + number,
            f"interrupted by {number.name}: nothing was set up\n",
        )
        assert nothing_is_left(host)
        issuer.revoke(issuer.client_id("robot"))

    with person(issuer.approve_next):
        assert host.setup(*given(host, issuer), "robot").status == 0
    assert host.account_file("robot").exists()


def test_what_was_made_before_an_interruption_is_removed_also_when_there_are_more_of_them(
    host: Host, issuer: Issuer
) -> None:
    host.program("oidc-gen", 'echo half of it >"$OIDC_CONFIG_DIR/robot"; exec sleep 300\n')
    # An agent that takes its time to end.
    host.program("oidc-agent", f'trap "sleep 1" TERM; {shutil.which("oidc-agent")} "$@" & wait\n')
    running = host.popen(host.registrar(*given(host, issuer), "robot"), {})
    until(lambda: bool(lent(host)))
    assert (host.root / "robot.pw").exists()
    running.send_signal(signal.SIGHUP)
    # Unless it has ended already, where this process was not given any time.
    until(lambda: running.poll() is not None or ignores(running.pid, signal.SIGTERM))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        running.send_signal(number)
    _, said = running.communicate(timeout=LONGEST)
    assert (running.returncode, said) == (128 + signal.SIGHUP, "interrupted by SIGHUP: nothing was set up\n")
    assert nothing_is_left(host)


def ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal (proc(5): SigIgn)."""
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def wait_for_code(issuer: Issuer, running: subprocess.Popen[str]) -> None:
    """Until the person was shown a code."""
    assert running.stdout is not None
    shown = ""
    while not shown.endswith("Waiting for you to log in and to approve …\n"):
        line = running.stdout.readline()
        assert line, f"it ended: {shown}"
        shown += line
    assert issuer.pending_user_codes()[0] in shown.replace("-", "")


def test_an_account_that_is_there_is_not_overwritten(
    host: Host, issuer: Issuer, registry: Host, said: Callable[..., tuple[int, str, str]]
) -> None:
    host.adopt(registry, "robot")
    before = host.account_file("robot").read_bytes()
    status, _, stderr = said(*given(host, issuer), "robot")
    assert status == 1
    assert f"there is an account robot already ({host.account_file('robot')}); " in stderr
    assert f"{SETUP} --reauthenticate robot" in stderr
    assert host.account_file("robot").read_bytes() == before
    assert issuer.counts().registration == 0


def test_what_will_be_refused_is_said_before_anything_is_asked(host: Host, registry: Host) -> None:
    host.adopt(registry, "robot")
    for account, options, message in (
        ("robot", ["--create-pw-file"], "there is an account robot already"),
        ("drone", [], f"there is no password file {host.root}/drone.pw"),
    ):
        command = host.registrar("--pw-file", f"{host.root}/{account}.pw", *options, account)
        with Terminal(command, host.environment({})) as terminal:
            assert terminal.end() == 1
            assert terminal.shown.startswith(message)


def test_reauthenticating_what_is_not_there_says_how_to_register_it(
    host: Host, said: Callable[..., tuple[int, str, str]]
) -> None:
    host.secret("robot.pw", "x\n")
    status, _, stderr = said("--reauthenticate", "--pw-file", str(host.root / "robot.pw"), "robot")
    assert (status, stderr) == (1, f"oidc-agent has no account robot; run: {SETUP} robot\n")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ([], "--issuer, --scope"),
        (["--issuer", "https://localhost:1"], "--scope"),
        (["--manual"], "--issuer, --scope, --client-id, --client-secret-file"),
        (["--client-credentials"], "--issuer, --client-id, --client-secret-file"),
    ],
)
def test_without_a_terminal_all_options_that_are_missing_are_named(
    said: Callable[..., tuple[int, str, str]], options: list[str], missing: str
) -> None:
    assert said(*options, "robot") == (
        2,
        "",
        f"without a terminal to ask on, these options are needed: {missing}\n",
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--", "--help"], 2, "ACCOUNT: a name must not begin with '-'"),
        (["../x"], 2, "ACCOUNT: a name must not contain '/'"),
        (["--issuer", "http://issuer.example.org", "robot"], 2, "--issuer: must be https"),
        (["--issuer", "issuer.example.org", "robot"], 2, "--issuer: must be an https URL"),
        (
            ["--issuer", "https://localhost:1", "robot"],
            1,
            "localhost:1 cannot be reached: Connection refused",
        ),
        (["--ca-file", "/nonexistent/ca", "robot"], 2, "--ca-file: /nonexistent/ca cannot be read"),
        (["--service-user", "no-such-user", "robot"], 1, "there is no user no-such-user on this host"),
        (["--client-id", "x", "robot"], 2, "--client-id: needs --manual or --client-credentials"),
        (["--client-credentials", "robot"], 2, "--create-pw-file: is of no use with --client-credentials"),
        (
            ["--reauthenticate", "robot"],
            2,
            "--issuer, --scope, --ca-file: is of no use with --reauthenticate",
        ),
    ],
)
def test_what_cannot_be_right_is_said_before_anything_is_done(
    host: Host,
    issuer: Issuer,
    said: Callable[..., tuple[int, str, str]],
    options: list[str],
    status: int,
    message: str,
) -> None:
    done = said(*given(host, issuer), *options)
    assert done[0] == status
    assert message in done[2]
    assert nothing_is_left(host)
    assert issuer.counts().total == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--client-id", "x"], "--client-id: needs --manual or --client-credentials"),
        (
            ["--client-id", "x", "--client-secret-file", "/x"],
            "--client-id, --client-secret-file: needs --manual or --client-credentials",
        ),
        (
            ["--client-credentials", "--create-pw-file"],
            "--create-pw-file: is of no use with --client-credentials",
        ),
        (["--reauthenticate", "--create-pw-file"], "--create-pw-file: is of no use with --reauthenticate"),
        (
            ["--reauthenticate", "--scope", "openid", "--issuer", "https://i"],
            "--issuer, --scope: is of no use with --reauthenticate",
        ),
        (
            ["--reauthenticate", "--ca-file", "/x", "--audience", "ce"],
            "--audience, --ca-file: is of no use with --reauthenticate",
        ),
    ],
)
def test_an_option_that_would_be_of_no_use_is_wrong_usage(
    said: Callable[..., tuple[int, str, str]], options: list[str], message: str
) -> None:
    assert said(*options, "robot") == (2, "", f"{message}\n")


def test_a_scope_with_control_characters_is_wrong_usage(
    host: Host, issuer: Issuer, said: Callable[..., tuple[int, str, str]]
) -> None:
    options = [
        "--client-credentials",
        "--issuer",
        issuer.url,
        "--client-id",
        "x",
        "--client-secret-file",
        str(host.secret("s", "x\n")),
    ]
    assert said(*options, "--scope", "re\x01ad", "probe") == (
        2,
        "",
        "--scope: must not contain control characters\n",
    )
    assert issuer.counts().total == 0


def test_an_empty_client_id_does_not_register_a_client(
    host: Host, issuer: Issuer, said: Callable[..., tuple[int, str, str]]
) -> None:
    manual = ["--manual", "--client-id", "", "--client-secret-file", str(host.secret("s", "x\n"))]
    status, _, stderr = said(*given(host, issuer, *manual), "robot")
    assert (status, stderr) == (2, "--client-id: is needed\n")
    assert issuer.counts().registration == 0
    assert nothing_is_left(host, "s")


@pytest.mark.parametrize("limit", ["0", "3601"])
def test_a_time_limit_is_from_a_second_to_an_hour(host: Host, limit: str) -> None:
    done = host.setup("--timeout", limit, "robot")
    assert (done.status, "--timeout: must be a number of seconds from 1 to 3600" in done.stderr) == (2, True)


def test_a_url_that_is_no_issuers_is_said_to_be_none(
    host: Host, issuer: Issuer, said: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, stderr = said(*given(host, issuer), "--issuer", f"{issuer.url}/elsewhere", "robot")
    assert (status, "has no metadata of an issuer (HTTP status 404); check the issuer's URL" in stderr) == (
        1,
        True,
    )


def test_an_issuer_that_never_answers_is_left_at_the_deadline(host: Host, issuer: Issuer) -> None:
    """On each endpoint, asked by oidc-gen, and by this program itself."""
    client = issuer.add_client()
    secret = host.secret("client.secret", f"{client.client_secret}\n")
    known = ["--client-id", client.client_id, "--client-secret-file", str(secret)]
    options = [
        "--client-credentials",
        *issuer_options(issuer),
        *known,
        "--timeout",
        "4",
        "probe",
    ]
    for endpoint in ("registration", "device_authorization", "token"):
        issuer.fault(endpoint=endpoint, hang=True)
    # What comes before must have its answer, however slow the machine: four seconds for metadata, twelve for
    # oidc-gen.
    registering = host.popen(host.registrar(*given(host, issuer), "--timeout", "4", "robot"), {})
    until(lambda: issuer.counts().registration == 1)
    logging_in = host.popen(
        host.registrar(*given(host, issuer, "--manual", *known), "--timeout", "4", "drone"), {}
    )
    until(lambda: issuer.counts().device_authorization == 1)
    proving = host.popen(host.registrar(*options), {})
    until(lambda: issuer.counts().token == 1)
    issuer.fault(endpoint="discovery", hang=True)
    silent = host.popen(host.registrar(*given(host, issuer), "--timeout", "1", "silent"), {})

    ends = [
        (one.communicate(timeout=LONGEST)[1], one.returncode)
        for one in (registering, logging_in, proving, silent)
    ]

    by_itself, by_oidc_gen = (
        f"{issuer.url[8:]} had not answered after {{}} s\n",
        "the issuer did not answer in time\n",
    )
    assert ends == [(by_oidc_gen, 1), (by_oidc_gen, 1), (by_itself.format(4), 1), (by_itself.format(1), 1)]
    assert nothing_is_left(host, "client.secret")


def test_an_issuer_that_falls_silent_once_the_code_is_shown_is_left_when_the_person_has_had_their_time(
    host: Host, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in host.environment({}).items():
        monkeypatch.setenv(name, value)
    issuer.fault(endpoint="token", hang=True)
    shown: list[str] = []
    wanted = Registration(
        "robot",
        issuer.url,
        SCOPE,
        ca_file=str(issuer.ca_file),
        password=Secret("x"),
        timeout=20.0,
        longest_wait=2.0,
    )
    with (
        pytest.raises(TimedOut, match="the authorization did not end"),
        begin_login("robot", None, None) as login,
    ):
        wanted.log_in(login, str(host.runtime), lambda _url, code: shown.append(code))
    assert len(shown) == 1
    issuer.clear_faults()
    # A code that nobody waits for any more must not be the next one that is approved.
    issuer.revoke(issuer.client_id("robot"))
    assert nothing_is_left(host)


def test_an_issuer_that_registers_no_client_is_said_to_and_how_to_go_on(host: Host, issuer: Issuer) -> None:
    by_hand = "; have a client registered at the issuer (redirect URI http://localhost:4242, device flow), "
    by_hand += "then use --manual\n"

    issuer.fault(
        endpoint="registration",
        status=403,
        body='{"error": "access_denied", "error_description": "not for you"}',
    )
    refused = host.setup(*given(host, issuer), "robot")
    assert (refused.status, refused.stderr) == (
        1,
        f"the issuer registered no client (access_denied: not for you){by_hand}",
    )
    issuer.clear_faults()

    issuer.settings(registration_without_scope=True)
    scopeless = host.setup(*given(host, issuer), "robot")
    assert (scopeless.status, scopeless.stderr) == (
        1,
        f"the issuer registered no client (Could not register the necessary scopes dynamically){by_hand}",
    )
    assert nothing_is_left(host)


def test_a_given_client_that_the_issuer_refuses_is_what_must_be_checked(host: Host, issuer: Issuer) -> None:
    secret = host.secret("client.secret", "wrong\n")
    manual = ["--manual", "--client-id", issuer.add_client().client_id, "--client-secret-file", str(secret)]
    done = host.setup(*given(host, issuer, *manual), "robot")
    assert done.status == 1
    assert done.stderr.startswith("the issuer refused the client (invalid_client")
    assert done.stderr.endswith("; check its id and secret, and that it may use the device flow\n")
    assert nothing_is_left(host, "client.secret")


def test_without_a_password_file_the_option_that_makes_one_is_named(
    host: Host, issuer: Issuer, said: Callable[..., tuple[int, str, str]]
) -> None:
    options = [option for option in given(host, issuer) if option != "--create-pw-file"]
    status, _, stderr = said(*options, "robot")
    assert status == 1
    assert f"there is no password file {host.root}/robot.pw; " in stderr
    assert "--create-pw-file" in stderr
    (host.root / "robot.pw").touch()
    assert f"the password file {host.root}/robot.pw is empty" in said(*options, "robot")[2]


def test_password_and_secret_files_that_others_can_write_are_refused_before_anything_is_done(
    host: Host, issuer: Issuer
) -> None:
    pw_file, secret = host.secret("robot.pw", "password\n"), host.secret("secret", "hunter2\n")
    for file in (pw_file, secret):
        file.chmod(0o602)
    manual = ["--manual", "--client-id", "x", "--client-secret-file", str(secret)]
    done = host.setup(*given(host, issuer, *manual), "robot")
    assert (done.status, done.stdout) == (78, "")
    assert done.stderr.splitlines()[:2] == [
        f"{file}: others can write it: chmod o-w {file}" for file in (secret, pw_file)
    ]
    assert nothing_is_left(host, "robot.pw", "secret")
    assert issuer.counts().total == 0


def test_without_oidc_agent_its_package_is_named(host: Host, issuer: Issuer) -> None:
    done = host.setup(*given(host, issuer), "robot", env={"PATH": "/nonexistent"})
    assert (done.status, done.stderr) == (
        1,
        "oidc-gen is not installed; install the package oidc-agent-cli\n",
    )
    assert nothing_is_left(host)


# the account file


def again(host: Host) -> list[str]:
    return ["--reauthenticate", "--pw-file", str(host.root / "robot.pw"), "robot"]


def fill(directory: Path) -> None:
    """Leaves no room in its file system."""
    with (directory / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


def during_login(host: Host, issuer: Issuer, arguments: list[str], meanwhile: Callable[[], object]) -> Result:
    """A setup, and what happens while a person logs in."""
    running = host.popen(host.registrar(*arguments), {})
    wait_for_code(issuer, running)
    meanwhile()
    issuer.approve_next()
    stdout, stderr = running.communicate(timeout=LONGEST)
    return Result(running.returncode, stdout, stderr)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_where_the_account_cannot_be_written_nobody_is_asked_to_log_in(
    host: Host, issuer: Issuer, registry: Host, fault: str
) -> None:
    account = host.account_file("robot")
    account.parent.mkdir(mode=0o700)

    def attempted(arguments: list[str]) -> None:
        why = "No space left on device" if fault == "full" else "Read-only file system"
        remedy = f"make room in {account.parent}, and let the service user write there"
        there = in_accounts(host)
        done = host.setup(*arguments)
        said = f"the account file {account} cannot be written ({why}): nobody was asked to log in; {remedy}\n"
        assert (done.status, done.stdout, done.stderr) == (1, "", said)
        assert in_accounts(host) == there

    def body() -> None:
        host.adopt(registry, "robot")
        before = account.read_bytes()
        account.rename(account.with_name("drone"))
        if fault == "full":
            fill(account.parent)
        else:
            mount(account.parent, "remount,ro")
        attempted([*given(host, issuer), "robot"])
        mount(account.parent, "remount,rw")
        account.with_name("drone").rename(account)
        if fault != "full":
            mount(account.parent, "remount,ro")
        attempted(again(host))
        assert account.read_bytes() == before

    apart(body, tmpfs={account.parent: "size=64k"})
    assert issuer.counts().total == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, whom root can work for")
def test_root_proves_that_the_service_user_can_write_the_account(host: Host, issuer: Issuer) -> None:
    host.short.chmod(0o711)
    accounts = host.short / "run" / "accounts"
    accounts.parent.chmod(0o711)
    accounts.mkdir(mode=0o755)
    # A link that root would follow to where only root may write.
    theirs = accounts.with_name("theirs")
    theirs.symlink_to(accounts)
    for directory in (accounts, theirs):
        done = host.setup(
            *given(host, issuer), "--service-user", "nobody", "robot", env={"OIDC_CONFIG_DIR": str(directory)}
        )
        remedy = f"make room in {directory}, and let nobody write there"
        cannot = f"the account file {directory}/robot cannot be written (Permission denied): "
        cannot += f"nobody was asked to log in; {remedy}\n"
        assert (done.status, done.stdout, done.stderr) == (1, "", cannot)
    assert os.listdir(accounts) == []
    assert not (host.root / "robot.pw").exists()
    assert issuer.counts().total == 0
    theirs.unlink()
    accounts.rmdir()


def test_a_disk_that_fills_up_during_the_login_costs_nothing(host: Host, issuer: Issuer) -> None:
    """Neither a new account, nor its new login, nor oidc-agent's list of issuers."""
    accounts = host.account_file("robot").parent
    accounts.mkdir(mode=0o700)

    def body() -> None:
        (accounts / "issuer.config").write_text("https://issuer.example.org drone\n")
        done = during_login(host, issuer, [*given(host, issuer), "robot"], lambda: fill(accounts))
        assert done.status == 0, done.stderr
        assert in_accounts(host) == {"robot", "issuer.config", "filler"}
        assert "drone" in (accounts / "issuer.config").read_text()
        host.configure(f"[account robot]\npassword_file = {host.root}/robot.pw\n" + host.token("t", "robot"))
        (accounts / "filler").unlink()
        assert host.run().status == 0

        before = (accounts / "robot").read_bytes()
        done = during_login(host, issuer, again(host), lambda: fill(accounts))
        assert done.status == 0, done.stderr
        assert (accounts / "robot").read_bytes() != before
        (accounts / "filler").unlink()
        assert host.run().status == 0

    apart(body, tmpfs={accounts: "size=256k"})


def test_a_login_that_could_not_be_written_is_said_and_the_account_is_as_it_was(
    host: Host, issuer: Issuer, registry: Host
) -> None:
    account = host.account_file("robot")
    account.parent.mkdir(mode=0o700)

    def body() -> None:
        make_room = (
            f"make room in {account.parent}, and let the service user write there, and run it again: {SETUP}"
        )
        read_only = "(Read-only file system)"

        done = during_login(
            host, issuer, [*given(host, issuer), "robot"], lambda: mount(account.parent, "remount,ro")
        )
        assert done.status == 1
        assert (
            done.stderr == f"the account file {account} cannot be written {read_only}: "
            f"nothing was set up; {make_room} robot\n"
        )
        assert "is ready" not in done.stdout
        assert not (host.root / "robot.pw").exists()
        mount(account.parent, "remount,rw")

        host.register(issuer, "robot")
        before = account.read_bytes()
        done = during_login(host, issuer, again(host), lambda: mount(account.parent, "remount,ro"))
        assert done.status == 1
        assert done.stderr == (
            f"the new login could not be written to the account file {account} {read_only}: "
            f"the account is as it was; {make_room} --reauthenticate robot\n"
        )
        assert "is ready" not in done.stdout
        assert account.read_bytes() == before

    apart(body, tmpfs={account.parent: "size=256k"})


def test_an_account_that_oidc_gen_did_not_write_whole_is_none(host: Host, issuer: Issuer) -> None:
    """It works in the directory for temporary files, and says that all is well also where that is full."""

    def body() -> None:
        done = during_login(host, issuer, [*given(host, issuer), "robot"], lambda: fill(host.short))
        assert (done.status, "is ready" in done.stdout) == (1, False)
        what = "oidc-gen said that all is well, but did not write the account whole: nothing was set up"
        assert done.stderr == f"{what}; make room in {host.short}, and run it again: {SETUP} robot\n"
        (host.short / "filler").unlink()
        assert nothing_is_left(host)

    apart(body, tmpfs={host.short: "size=256k"})


def test_a_new_login_that_is_none_is_said_to_be_none(host: Host, registry: Host) -> None:
    host.adopt(registry, "robot")
    before = host.account_file("robot").read_bytes()
    for script in ("exit 0", '>"$OIDC_CONFIG_DIR/robot"', 'rm "$OIDC_CONFIG_DIR/robot"'):
        host.program("oidc-gen", f"{script}\n")
        done = host.setup(*again(host))
        assert (done.status, "is ready" in done.stdout) == (1, False)
        assert done.stderr.startswith(
            "oidc-gen said that all is well, but wrote no new login: the account is as it was; "
        )
        assert host.account_file("robot").read_bytes() == before
        assert in_accounts(host) == {"robot"}


def test_a_damaged_account_is_not_logged_in_again(
    host: Host, registry: Host, said: Callable[..., tuple[int, str, str]]
) -> None:
    host.adopt(registry, "robot")
    os.truncate(host.account_file("robot"), 2)
    status, _, stderr = said(*again(host))
    assert (status, stderr.startswith(f"the account file {host.account_file('robot')} is damaged: ")) == (
        1,
        True,
    )
    assert stderr.endswith(f"remove it and run: {SETUP} robot\n")


def test_a_login_that_was_written_before_an_interruption_is_said_to_be(host: Host, issuer: Issuer) -> None:
    host.configure(host.register(issuer, "robot") + host.token("t", "robot"))
    account = host.account_file("robot")
    before = account.read_bytes()
    done = host.root / "done"
    host.program("oidc-gen", f'{shutil.which("oidc-gen")} "$@" || exit 1; : >{done}; exec sleep 300\n')

    running = host.popen(host.registrar(*again(host)), {})
    wait_for_code(issuer, running)
    issuer.approve_next()
    until(done.exists)
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=LONGEST)

    assert (running.returncode, stderr) == (143, "interrupted by SIGTERM: account robot has its new login\n")
    assert account.read_bytes() != before
    assert host.run().status == 0
    assert in_accounts(host) - {"issuer.config"} == {"robot"}


# two at a time


def test_a_second_setup_of_an_account_leaves_the_first_one_alone(host: Host, issuer: Issuer) -> None:
    first = host.popen(host.registrar(*given(host, issuer), "robot"), {})
    wait_for_code(issuer, first)
    password = (host.root / "robot.pw").read_text()
    asked = issuer.counts().total
    lock = host.account_file(".robot.setup")
    message = f"another setup of account robot is at work (process {first.pid}): nothing was attempted"

    second = host.setup(*given(host, issuer), "robot")

    remedy = f"wait for it to end, or see who has it: fuser -v {lock}"
    assert (second.status, second.stdout, second.stderr) == (1, "", f"{message}; {remedy}\n")
    assert (host.root / "robot.pw").read_text() == password
    # Two accounts are two accounts.
    other = host.popen(
        host.registrar(*given(host, issuer), "--pw-file", str(host.root / "drone.pw"), "drone"), {}
    )
    until(lambda: len(issuer.pending_user_codes()) == 2)
    other.send_signal(signal.SIGTERM)
    other.communicate(timeout=LONGEST)
    issuer.revoke(issuer.client_id("drone"))
    issuer.approve_next()
    _, stderr = first.communicate(timeout=LONGEST)
    assert first.returncode == 0, stderr
    assert issuer.counts().total > asked
    assert in_accounts(host) == {"robot", "issuer.config"}

    relogin = host.popen(host.registrar(*again(host)), {})
    wait_for_code(issuer, relogin)
    before = host.account_file("robot").read_bytes()
    second = host.setup(*again(host))
    assert (
        second.status,
        f"another setup of account robot is at work (process {relogin.pid}): " in second.stderr,
    ) == (1, True)
    issuer.deny_next()
    relogin.communicate(timeout=LONGEST)
    assert host.account_file("robot").read_bytes() == before
    assert in_accounts(host) == {"robot", "issuer.config"}


def test_what_a_setup_did_not_make_it_does_not_remove(host: Host, issuer: Issuer, registry: Host) -> None:
    """Not even an account that somebody has put there by other means meanwhile."""
    running = host.popen(host.registrar(*given(host, issuer), "robot"), {})
    wait_for_code(issuer, running)
    shutil.copy(registry.account_file("robot"), host.account_file("robot"))
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=LONGEST)
    assert (running.returncode, stderr) == (143, "interrupted by SIGTERM: nothing was set up\n")
    issuer.revoke(issuer.client_id("robot"))
    assert host.account_file("robot").read_bytes() == registry.account_file("robot").read_bytes()
    host.account_file("robot").unlink()

    put_there = lambda: shutil.copy(registry.account_file("robot"), host.account_file("robot"))  # noqa: E731
    done = during_login(host, issuer, [*given(host, issuer), "robot"], put_there)
    assert (done.status, "there is an account robot already" in done.stderr) == (1, True)
    assert host.account_file("robot").read_bytes() == registry.account_file("robot").read_bytes()


def test_a_killed_setup_leaves_nothing_and_keeps_nobody_waiting(host: Host, issuer: Issuer) -> None:
    killed = host.popen(host.registrar(*given(host, issuer), "--timeout", "7", "robot"), {})
    wait_for_code(issuer, killed)
    # Three requests, an hour for the person, and the time to end.
    (limit,) = re.findall(r"timeout --signal=KILL (\S+) \S*oidc-gen ", "\n".join(processes_of(host.home)))
    assert limit == "3624"
    killed.kill()
    killed.communicate(timeout=LONGEST)
    issuer.revoke(issuer.client_id("robot"))
    until(lambda: host.leftovers() == [])
    assert in_accounts(host) - {"issuer.config"} == set()
    with person(issuer.approve_next):
        assert host.setup(*given(host, issuer), "robot").status == 0


def test_a_killed_new_login_leaves_the_account_as_it_was(host: Host, issuer: Issuer) -> None:
    host.configure(host.register(issuer, "robot") + host.token("t", "robot"))
    before = host.account_file("robot").read_bytes()
    killed = host.popen(host.registrar(*again(host)), {})
    wait_for_code(issuer, killed)
    killed.kill()
    killed.communicate(timeout=LONGEST)
    # A code that nobody waits for any more must not be the next one that is approved.
    issuer.deny_next()
    until(lambda: host.leftovers() == [])
    assert host.account_file("robot").read_bytes() == before
    assert in_accounts(host) - {"issuer.config"} == {"robot"}
    assert host.run().status == 0


# secrets


def test_on_a_terminal_what_is_missing_is_asked_for_and_a_secret_is_not_echoed(
    host: Host, issuer: Issuer
) -> None:
    client = issuer.add_client()
    pw_file = str(host.root / "robot.pw")
    command = host.registrar("--manual", "--pw-file", pw_file, "--create-pw-file", "robot")
    with Terminal(command, host.environment({})) as terminal, person(issuer.approve_next):
        for question, answer in (
            ("Issuer URL: ", issuer.url),
            ("CA bundle of the issuer (empty: the system's): ", str(issuer.ca_file)),
            ("Scopes [openid offline_access]: ", SCOPE),
            ("Audience (empty: the issuer's default): ", ""),
            ("Client id: ", client.client_id),
            ("Client secret (not shown): ", str(client.client_secret)),
        ):
            terminal.wait_for(question)
            terminal.type(f"{answer}\n")
        assert terminal.end() == 0, terminal.shown
    shown = "\n".join(terminal.screen())
    assert "The issuer offers these scopes: openid " in shown
    assert f"[account robot]\npassword_file = {pw_file}" in shown
    assert str(client.client_secret) not in terminal.shown
    assert host.account_file("robot").exists()


@pytest.mark.parametrize("before", ["nothing", "the same", "another"])
def test_a_client_secret_that_was_typed_is_kept_in_a_file_of_its_own(
    host: Host, issuer: Issuer, before: str
) -> None:
    client = issuer.add_client()
    kept = host.root / "probe.secret"
    if before != "nothing":
        host.secret(kept.name, f"{client.client_secret if before == 'the same' else before}\n")
    command = host.registrar(
        "--client-credentials",
        "--pw-file",
        str(host.root / "probe.pw"),
        "--ca-file",
        str(issuer.ca_file),
        "probe",
    )
    with Terminal(command, host.environment({})) as terminal:
        for question, answer in (
            ("Issuer URL: ", issuer.url),
            ("Client id: ", client.client_id),
            ("Client secret (not shown): ", str(client.client_secret)),
        ):
            terminal.wait_for(question)
            terminal.type(f"{answer}\n")
        assert terminal.end() == (1 if before == "another" else 0), terminal.shown
    assert str(client.client_secret) not in terminal.shown
    assert (f"Wrote the client secret to {kept}" in terminal.screen()) is (before == "nothing")
    if before == "another":
        assert f"{kept} cannot be written: File exists" in terminal.screen()
        assert kept.read_text() == "another\n"
        return
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == (f"{client.client_secret}\n", 0o600)
    assert f"client_secret_file = {kept}" in terminal.screen()


def test_a_person_who_ends_the_input_or_says_nothing_has_set_up_nothing(host: Host) -> None:
    command = host.registrar("--pw-file", str(host.root / "robot.pw"), "--create-pw-file", "robot")
    for typed, status, message in (
        ("\x04", 2, "the input ended before everything was answered"),
        ("\n", 2, "--issuer: is needed"),
        ("https://\x01\n", 2, "--issuer: must not contain control characters"),
        ("\x03", 130, "interrupted by SIGINT: nothing was set up"),
        ("\x1c", 131, "interrupted by SIGQUIT: nothing was set up"),
    ):
        with Terminal(command, host.environment({})) as terminal:
            terminal.wait_for("Issuer URL: ")
            terminal.type(typed)
            assert terminal.end() == status
            assert message in terminal.shown
        assert nothing_is_left(host)


# who runs it


def test_anyone_but_root_and_the_service_user_is_told_to_run_it_as_root() -> None:
    """Everything is imported while it is still allowed: this user's Python may not be readable by others."""
    program = (
        "import os, sys; from osg_token_renewer import cli; from osg_token_renewer.commands import setup;"
        "setup.build_parser().parse_args(['robot']);"
        "os.geteuid() == 0 and os.setuid(int(sys.argv[1]));"
        "options = ['--service-user', 'root', '--issuer', 'https://localhost:1', '--scope', 'openid'];"
        "sys.exit(cli.setup_main([*options, 'robot']))"
    )
    root = Path(__file__).resolve().parent.parent.parent
    command = [sys.executable, "-c", program, str(pwd.getpwnam("nobody").pw_uid)]
    done = subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=LONGEST,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("run this as root: accounts belong to the service user root; ")


def test_root_works_as_the_service_user_who_need_not_be_able_to_read_the_password_file(
    host: Host, issuer: Issuer
) -> None:
    """Without root's privileges, the service user is this user, and the account simply its own."""
    user = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    public = host.short / "run"
    for directory in (host.short, public):
        directory.chmod(0o711)
    accounts = public / "accounts"
    accounts.mkdir(mode=0o700)
    os.chown(accounts, user.pw_uid, user.pw_gid)
    ca_file = public / "ca.pem"
    ca_file.write_bytes(issuer.ca_file.read_bytes())
    pw_file = host.secret("robot.pw", "known to root alone\n")
    options = [
        "--service-user",
        user.pw_name,
        "--issuer",
        issuer.url,
        "--ca-file",
        str(ca_file),
        "--scope",
        SCOPE,
    ]
    # A directory for temporary files that is closed to the service user.
    env = {"OIDC_CONFIG_DIR": str(accounts), "TMPDIR": str(host.home)}

    agents: list[Path] = []

    def look_and_approve() -> None:
        until(lambda: bool(agents_of(accounts)))
        agents.extend(agents_of(accounts))
        issuer.approve_next()

    with person(look_and_approve):
        done = host.setup(*options, "--pw-file", str(pw_file), "robot", env=env)

    assert done.status == 0, done.stderr
    account = accounts / "robot"
    assert (account.stat().st_uid, stat.S_IMODE(account.stat().st_mode)) == (user.pw_uid, 0o600)
    warning = f"warning: the service user {user.pw_name} cannot read {pw_file}: "
    assert (warning in done.stderr) is (os.geteuid() == 0)
    assert pw_file.stat().st_uid == os.geteuid()
    assert sorted(os.listdir(accounts)) == ["issuer.config", "robot"]
    assert [processes_with(f"OIDC_CONFIG_DIR={agent}/oidc-agent") for agent in agents] == [[]]
    assert not agents[0].exists()
    shutil.rmtree(accounts)
    ca_file.unlink()


def agents_of(accounts: Path) -> list[Path]:
    """The private directories of agents for this directory of accounts."""
    found = []
    for agent in Path("/tmp").glob("osg-agent-*"):
        # Those of other programs come and go.
        with suppress(OSError):
            if os.readlink(agent / "oidc-agent" / "issuer.config") == str(accounts / "issuer.config"):
                found.append(agent)
    return found


def test_what_is_made_belongs_to_the_service_user(host: Host, issuer: Issuer) -> None:
    user: Optional[pwd.struct_passwd] = (
        pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    )
    assert user is not None
    client = issuer.add_client()
    secret = host.secret("client.secret", f"{client.client_secret}\n")
    options = [
        "--client-credentials",
        *issuer_options(issuer),
        "--client-id",
        client.client_id,
    ]
    done = host.setup(
        *options,
        "--client-secret-file",
        str(secret),
        "--write-config",
        "--service-user",
        user.pw_name,
        "probe",
    )
    assert done.status == 0, done.stderr
    written = host.config.parent / "config.d" / "probe.ini"
    assert (written.stat().st_uid, written.stat().st_gid) == (os.geteuid(), user.pw_gid)
