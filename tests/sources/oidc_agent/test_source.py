"""The oidc-agent source, with the real programs; where one has to misbehave, another program of its name is
before it on PATH."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

import pytest

from osg_token_renewer.engine import workers
from osg_token_renewer.engine.lane_queue import AT_RISK
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.errors import (
    DeadGrant,
    Failure,
    Local,
    ProgramMissing,
    Refused,
    Unavailable,
    Unreachable,
)
from osg_token_renewer.model import Account, Outcome, State, TokenSpec
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources.base import Context, Fetch
from osg_token_renewer.sources.oidc_agent import agent, messages, source
from osg_token_renewer.sources.oidc_agent.source import Settings
from osg_token_renewer.system import private_directories
from osg_token_renewer.system.process import Completed
from osg_token_renewer.system.signals import Stop
from testbed import Issuer
from tests.faults import apart
from tests.host import LONGEST, Host, alive, pids_of, section, spare_adding, until
from tests.specs import file_token

PROGRAMS = ("oidc-agent", "oidc-add", "oidc-token")
REAL = {name: shutil.which(name) for name in PROGRAMS}


def spec_of(path: str = "/nowhere/token", **asked: Any) -> TokenSpec:
    return file_token("t", "robot", path, **asked)


def directories(host: Host) -> Context:
    return Context(str(host.runtime), str(host.state))


def account_of(host: Host, name: str = "robot", timeout: float = 60.0) -> Account:
    return Account(name, source.OidcAgent.NAME, Settings(SecretFile(str(host.root / f"{name}.pw"))), timeout)


@contextmanager
def on(host: Host) -> Iterator[None]:
    """This process runs on the host: its home, its PATH."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in host.environment({}).items():
            environment.setenv(name, value)
        yield


@pytest.fixture
def robot(host: Host, registry: Host) -> Iterator[Host]:
    """A host with the account robot, on which this process runs."""
    host.adopt(registry, "robot")
    with on(host):
        yield host


def open_account(host: Host, **settings: Any) -> None:
    """Opens the account, and asks for nothing."""
    with source.OidcAgent().session(account_of(host, **settings), directories(host)):
        pass


def recording(host: Host, name: str) -> Path:
    """Has a program write down its arguments and environment before it runs; returns the file, one block a
    start."""
    record = host.root / f"{name}.record"
    note = "echo START; printf '%s\\n' \"$@\"; echo ENVIRONMENT; env"
    host.program(name, f'{{ {note}; }} >>{record}\nexec {REAL[name]} "$@"\n')
    return record


@pytest.fixture(scope="module", autouse=True)
def silent(
    registry: Host, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, subprocess.Popen[str]]]:
    """A run on a host whose oidc-agent never opens its socket. It takes its time, so it is started before the
    other tests."""
    with Host.made(tmp_path_factory.mktemp("silent")) as host:
        host.configure(host.adopt(registry, "robot") + host.token("t", "robot"))
        host.program("oidc-agent", "exec sleep 300\n")
        run = host.start()
        yield host, run
        # Where the test that looks at it is not run, nobody need wait for it.
        for pid in pids_of(host.home, "sleep"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.wait(LONGEST)


# asking: one agent, with its account loaded, for all of these


@pytest.fixture(scope="module")
def opened(registry: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fetch, Path]]:
    """A session, and the file where it is written what each oidc-token is started with."""
    with Host.made(tmp_path_factory.mktemp("opened")) as host:
        host.adopt(registry, "robot")
        record = recording(host, "oidc-token")
        with on(host), source.OidcAgent().session(account_of(host), directories(host)) as fetch:
            yield fetch, record
        assert host.leftovers() == []


def last_arguments(record: Path) -> list[str]:
    return record.read_text().split("START\n")[-1].split("ENVIRONMENT\n")[0].splitlines()


def test_audience_scope_and_lifetime_are_asked_for(issuer: Issuer, opened: tuple[Fetch, Path]) -> None:
    fetch, record = opened
    asked = spec_of(
        audience=("one", "https://two.example.org"),
        scope=("compute.read", "storage.read:/"),
        min_lifetime=600,
    )
    fetched = fetch(asked)
    claims = issuer.verify(fetched.text.reveal())
    assert (claims["aud"], set(claims["scope"].split())) == (
        ["one", "https://two.example.org"],
        {"compute.read", "storage.read:/"},
    )
    assert fetched.issuer is not None
    assert fetched.issuer.rstrip("/") == issuer.url
    assert last_arguments(record) == [
        "--all",
        "--aud=one https://two.example.org",
        "--scope=compute.read storage.read:/",
        "--time=600",
        "robot",
    ]
    assert issuer.counts().token == 1


def test_without_a_scope_a_blank_one_asks_for_those_of_the_account(
    issuer: Issuer, opened: tuple[Fetch, Path]
) -> None:
    fetch, record = opened
    claims = issuer.verify(fetch(spec_of()).text.reveal())
    assert {"compute.read", "compute.create", "storage.read:/"} <= set(claims["scope"].split())
    assert claims["aud"] == issuer.settings()["default_audience"]
    assert last_arguments(record) == ["--all", "--scope= ", "robot"]


def test_each_token_is_asked_for_anew(issuer: Issuer, opened: tuple[Fetch, Path]) -> None:
    fetch, _ = opened
    assert fetch(spec_of()).text != fetch(spec_of()).text
    assert issuer.counts().token == 2


NONSENSE = "the answer of the issuer of account robot makes no sense"
REFUSED = "the issuer refused the "
FAULTS: list[tuple[dict[str, Any], type[Failure], str]] = [
    ({"status": 500, "body": ""}, Unavailable, ""),
    ({"status": 500, "body": "<h1>oops</h1>"}, Unavailable, NONSENSE),
    ({"status": 200, "body": "garbage"}, Unavailable, NONSENSE),
    ({"status": 200, "body": "<html></html>"}, Unavailable, NONSENSE),
    ({"status": 302, "body": "", "headers": {"Location": "/"}}, Unavailable, ""),
    ({"drop": True}, Unreachable, ""),
    ({"status": 400, "body": '{"error": "invalid_grant"}'}, DeadGrant, REFUSED + "refresh token"),
    ({"status": 400, "body": '{"error": "invalid_target"}'}, Refused, REFUSED + "scope or the audience"),
    ({"status": 401, "body": '{"error": "invalid_client"}'}, Refused, REFUSED + "client"),
]


@pytest.mark.parametrize(("fault", "kind", "message"), FAULTS, ids=[str(fault) for fault, _, _ in FAULTS])
def test_what_the_issuer_does_wrong_is_that_tokens_failure_and_not_the_next_ones(
    issuer: Issuer, opened: tuple[Fetch, Path], fault: dict[str, Any], kind: type[Failure], message: str
) -> None:
    fetch, _ = opened
    issuer.fault(endpoint="token", **fault)
    with pytest.raises(Failure) as raised:
        fetch(spec_of())
    assert type(raised.value) is kind
    assert message in str(raised.value)
    assert str(raised.value).isprintable()
    issuer.clear_faults()
    assert fetch(spec_of()).text.reveal()


def test_an_issuer_that_is_down_is_unavailable_until_it_is_back(
    issuer: Issuer, opened: tuple[Fetch, Path]
) -> None:
    fetch, _ = opened
    issuer.pause()
    try:
        with pytest.raises(Unavailable, match="the issuer of account robot cannot be reached"):
            fetch(spec_of())
    finally:
        issuer.resume()
    assert fetch(spec_of()).text.reveal()


# sessions of their own


def test_when_an_opaque_token_expires_is_known_from_oidc_token(issuer: Issuer, robot: Host) -> None:
    issuer.settings(opaque_audiences=["*"], access_token_ttl=900)
    before = int(time.time())
    with source.OidcAgent().session(account_of(robot), directories(robot)) as fetch:
        fetched = fetch(spec_of(audience=("dark",)))
    assert "." not in fetched.text.reveal()
    assert fetched.expires_at is not None
    assert before + 900 <= fetched.expires_at <= time.time() + 901


def test_a_new_refresh_token_is_saved_even_if_the_password_file_changes(issuer: Issuer, host: Host) -> None:
    """The agent needs the password once more, at a time when somebody may be changing it."""
    host.register(issuer, "robot")
    issuer.settings(rotate=True)
    file, before = host.root / "robot.pw", host.account_file("robot").read_bytes()
    password = file.read_text()
    with on(host):
        with source.OidcAgent().session(account_of(host), directories(host)) as fetch:
            opened = host.account_file("robot").read_bytes()
            file.write_text("another\n")
            fetch(spec_of())
            file.unlink()
            fetch(spec_of(audience=("two",)))
        assert len({before, opened, host.account_file("robot").read_bytes()}) == 3
        host.secret(file.name, password)
        # The issuer would take the use of an older one for theft.
        open_account(host)


def test_a_password_is_what_oidc_agent_reads_in_its_file(host: Host, issuer: Issuer) -> None:
    """Only it decides where the first line ends, as when it is given the file itself."""
    host.register(issuer, "robot")
    file = host.root / "robot.pw"
    with on(host):
        for rest in ("", "\n", "\nanother line\n"):
            file.write_text(file.read_text().splitlines()[0] + rest)
            open_account(host)


def test_an_issuer_that_refuses_a_blank_scope_is_asked_without_one(issuer: Issuer, robot: Host) -> None:
    issuer.settings(refuse_blank_scope=True)
    with source.OidcAgent().session(account_of(robot), directories(robot)) as fetch:
        issuer.reset_counts()
        assert "compute.read" in issuer.verify(fetch(spec_of(audience=("one",))).text.reveal())["scope"]
        assert issuer.counts().token == 2
        # It is known by now.
        fetch(spec_of(audience=("two",)))
        assert issuer.counts().token == 3


def run(
    host: Host, specs: Sequence[TokenSpec], account: Optional[Account] = None, run_timeout: float = 600
) -> list[Outcome]:
    accounts, where = {"robot": account or account_of(host)}, directories(host)
    return [*workers.run_lanes(specs, accounts, context=where, limits=Limits(run_timeout, Stop().requested))]


def test_a_hanging_issuer_is_left_at_the_deadline_and_not_asked_for_the_other_tokens(
    issuer: Issuer, robot: Host
) -> None:
    spare_adding(issuer)
    issuer.fault(endpoint="token", hang=True)
    record = recording(robot, "oidc-token")
    specs = [spec_of(str(robot.tokens / name)) for name in ("one", "two", "three")]
    # Enough to add the account, and less than the agent's own limit.
    outcomes = run(robot, specs, account_of(robot, timeout=8.0))
    failure = ("unavailable", "the issuer of account robot had not answered after 8 s")
    assert [(outcome.reason, outcome.message) for outcome in outcomes] == [failure] * 3
    assert outcomes[0].hint == (
        "its agent had to be ended: if the issuer rotates refresh tokens, the account may be lost; "
        "should the next run be refused, run: osg-token-renewer-setup --reauthenticate robot"
    )
    # Where it takes a machine all that time to add the account, not even the first one.
    assert not record.exists() or record.read_text().count("START\n") == 1
    assert robot.leftovers() == []


# What is said where the time of a run is over, or nearly so, before the issuer could be asked.
LATE = r"only \d s of the run were left, too little for a request that must not be cut off"
LATE += r"|the {seconds} s of the run were over before its turn came"


@pytest.mark.parametrize("endpoint", ["discovery", "token"])
def test_an_issuer_that_hangs_when_the_account_is_opened_is_left_at_the_runs_deadline(
    issuer: Issuer, robot: Host, endpoint: str
) -> None:
    issuer.fault(endpoint=endpoint, hang=True)
    record = recording(robot, "oidc-token")
    began = time.monotonic()
    (outcome,) = run(
        robot, [spec_of(str(robot.tokens / "one"))], account_of(robot, timeout=600.0), run_timeout=4
    )
    assert time.monotonic() - began < 60
    # On a machine that takes two seconds to start an agent, too little is left.
    if not re.fullmatch(LATE.format(seconds=4), outcome.message):
        assert outcome.message.startswith("the issuer of account robot had not answered after ")
        assert outcome.hint is not None
        assert "the account may be lost" in outcome.hint
    assert not record.exists() or agent.offers("oidc-add", "--skip-check")
    assert robot.leftovers() == []


def test_a_request_that_the_end_of_the_run_would_probably_cut_off_does_not_start(
    issuer: Issuer, robot: Host
) -> None:
    # It adds nothing: the account is not to be used.
    robot.program("oidc-add", 'case "$*" in *--help*) ;; *) sleep 9;; esac\n')
    record = recording(robot, "oidc-token")
    (outcome,) = run(robot, [spec_of(str(robot.tokens / "one"))], run_timeout=17)
    assert re.fullmatch(LATE.format(seconds=17), outcome.message)
    assert not record.exists()


def test_an_issuer_that_was_away_when_the_account_was_to_be_opened_is_asked_again(
    issuer: Issuer, robot: Host
) -> None:
    record = recording(robot, "oidc-add")
    issuer.fault(endpoint="discovery", times=2, status=503)
    (outcome,) = run(robot, [spec_of(str(robot.tokens / "one"))])
    assert outcome.state is State.RENEWED, outcome.message
    assert record.read_text().count("robot\n") == 3
    assert robot.leftovers() == []


@pytest.mark.parametrize(
    "fault",
    [{"drop": True}, {"drop": True, "after": True}, {"status": 503, "body": ""}, {"status": 502, "body": ""}],
)
def test_a_refresh_that_the_issuer_may_have_acted_on_is_not_repeated(
    issuer: Issuer, opened: tuple[Fetch, Path], fault: dict[str, Any]
) -> None:
    fetch, _ = opened
    issuer.fault(endpoint="token", **fault)
    with pytest.raises(Unreachable) as raised:
        fetch(spec_of())
    assert raised.value.retry_after is None
    assert issuer.counts().token == 1


def test_a_refresh_that_was_one_too_many_may_be_repeated(issuer: Issuer, opened: tuple[Fetch, Path]) -> None:
    fetch, _ = opened
    issuer.fault(endpoint="token", status=429, body="")
    with pytest.raises(Unavailable) as raised:
        fetch(spec_of())
    assert raised.value.retry_after == 0


@pytest.fixture
def crowd(issuer: Issuer, host: Host) -> list[str]:
    """More accounts of an issuer, each with a token and a short timeout, than it is asked for before it has
    answered."""
    names = [f"robot{number}" for number in range(AT_RISK + 2)]
    more = f"\ntimeout = 5\nissuer = {issuer.url}\n"
    accounts = "".join(host.register(issuer, name).rstrip() + more for name in names)
    host.configure(accounts + "".join(host.token(name, name) for name in names))
    return names


def test_an_issuer_that_answered_when_accounts_were_opened_is_asked_for_more_of_them(
    issuer: Issuer, host: Host, crowd: list[str]
) -> None:
    for name in crowd:
        issuer.fault(
            endpoint="token",
            client_id=host.client_ids[name],
            times=int(source.OidcAgent().opening_obtains_token()),
        )
    together = AT_RISK + source.OidcAgent().opening_obtains_token()
    issuer.fault(endpoint="token", gather=together, times=together)
    done = host.run()
    assert done.status == 0, done.stderr


def test_the_accounts_of_a_dead_issuer_do_not_each_wait_for_their_timeout(
    issuer: Issuer, host: Host, crowd: list[str]
) -> None:
    """Each would wait for its own timeout, if it were asked for."""
    names = crowd
    issuer.fault(endpoint="*", hang=True)

    done = host.run()
    assert done.status == 1
    cut_off = [
        name
        for name in names
        if f"the issuer of account {name} had not answered after 5 s" in done.line(f"token {name}: ")
    ]
    # Two failures, and what had begun by then.
    assert 2 <= len(cut_off) <= AT_RISK
    for name in set(names) - set(cut_off):
        who = re.escape(f"{issuer.url[8:]} was not asked any more")
        assert re.search(rf"{who}, after \d failures in a row \(", done.line(f"token {name}: "))
    said = done.line(f"warning: {len(cut_off)} agents were cut off while waiting for the issuer: ")
    assert set(said.rpartition(": ")[2].split(", ")) == set(cut_off)
    assert host.leftovers() == []


def test_an_issuer_that_hangs_keeps_no_other_waiting_and_costs_few_accounts(
    issuer: Issuer, robot: Host, tmp_path: Path
) -> None:
    timeout = 20
    names = [f"hung{number}" for number in range(AT_RISK + 1)]
    # Whose tokens expire first are first in line.
    with Issuer(tmp_path / "issuer", settings={"access_token_ttl": 600}) as hung:
        accounts = "".join(f"{robot.register(hung, name).rstrip()}\ntimeout = {timeout}\n" for name in names)
        account = section("account robot", {"password_file": robot.root / "robot.pw"})
        robot.configure(accounts + account + "".join(robot.token(name, name) for name in [*names, "robot"]))
        # From then on it is known whose the accounts are.
        assert robot.run().status == 0
        hung.fault(endpoint="*", hang=True)
        # More of them than may derive keys at a time.
        robot.prefix = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
        done = robot.run("renew", "--force")
    assert done.status == 1
    assert done.stderr.index("token robot: renewed") < min(
        done.stderr.index(f"token {name}: failed") for name in names
    )
    said = {name: done.line(f"token {name}: ") for name in names}
    assert (
        2
        <= sum(
            f"the issuer of account {name} had not answered after {timeout} s" in said[name] for name in names
        )
        <= AT_RISK
    )
    assert any(f"{hung.url[8:]} was not asked any more" in line for line in said.values())


def test_a_token_from_the_past_tells_of_the_issuers_clock_and_the_next_run_knows_whose_it_is(
    issuer: Issuer, robot: Host
) -> None:
    issuer.settings(iat_offset=-300)
    robot.configure(
        section("account robot", {"password_file": robot.root / "robot.pw"}) + robot.token("t", "robot")
    )
    for name in ("the issuer of account robot", re.escape(issuer.url[8:])):
        done = robot.run()
        assert done.status == 0
        assert re.match(
            rf"warning: {name}: the issuer's clock is 3\d\d s behind this host's, or the issuer returned ",
            done.stderr,
        )


@pytest.mark.parametrize(
    ("room", "message"),
    [
        # For the directory itself, and for one within it.
        ("nr_inodes=1", "no directory can be made in {directory}: No space left on device"),
        (
            "nr_inodes=2",
            "no directory for oidc-agent can be made in {directory}/{agent}: No space left on device",
        ),
        ("ro", "no directory can be made in {directory}: Read-only file system"),
    ],
)
def test_a_runtime_directory_without_room_fails_the_tokens_and_is_no_bug(
    robot: Host, room: str, message: str
) -> None:
    def body() -> None:
        specs = [spec_of(str(robot.tokens / name)) for name in ("one", "two")]
        outcomes = workers.run_lanes(
            specs,
            {"robot": account_of(robot)},
            context=directories(robot),
            limits=Limits(600.0, Stop().requested),
        )
        for outcome in outcomes:
            assert outcome.reason == "local"
            assert re.fullmatch(
                message.format(directory=robot.runtime, agent="osg-agent-\\w+"), outcome.message
            )

    apart(body, tmpfs={robot.runtime: f"mode=700,{room}"})


def test_a_wrong_password_and_a_damaged_account_file_are_for_a_person(issuer: Issuer, robot: Host) -> None:
    (robot.root / "robot.pw").write_text("wrong\n")
    with pytest.raises(Refused, match="password does not open the account file") as raised:
        open_account(robot)
    assert raised.value.hint == "correct the first line of the password_file of [account robot]"
    robot.account_file("robot").write_text("not an account file")
    with pytest.raises(Refused):
        open_account(robot)


def test_an_unknown_account_comes_with_the_command_that_registers_it(robot: Host) -> None:
    robot.secret("nobody.pw", "x\n")
    with pytest.raises(Refused, match="oidc-agent has no account nobody") as raised:
        open_account(robot, name="nobody")
    assert raised.value.hint == "run: osg-token-renewer-setup nobody"


def test_a_dead_refresh_token_comes_with_the_command_that_fixes_it(issuer: Issuer, host: Host) -> None:
    host.register(issuer, "mortal")
    issuer.revoke(host.client_ids["mortal"])
    with on(host), pytest.raises(Refused, match="the issuer refused the refresh token") as raised:
        open_and_fetch(host, "mortal")
    assert raised.value.hint == "run: osg-token-renewer-setup --reauthenticate mortal"


def open_and_fetch(host: Host, name: str = "robot") -> None:
    """Versions with --skip-check meet a dead refresh token only at the first request."""
    with source.OidcAgent().session(account_of(host, name), directories(host)) as fetch:
        fetch(spec_of())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), ("", "is empty"), ("\nsecond line\n", "is empty")],
)
def test_a_useless_password_file_is_reported_before_an_agent_starts(
    robot: Host, content: Optional[str], message: str
) -> None:
    file = robot.root / "robot.pw"
    file.unlink()
    if content is not None:
        file.write_text(content)
    started = recording(robot, "oidc-agent")
    with pytest.raises(Local, match=f"the password file {file} {message}"):
        open_account(robot)
    assert not started.exists()


def test_skip_check_is_used_where_it_is_offered(issuer: Issuer, robot: Host) -> None:
    """As oidc-add of 5.1 and later: it knows the option, and then asks the issuer for nothing."""
    record = robot.root / "oidc-add.record"
    robot.program(
        "oidc-add",
        f"""
        case " $* " in
            *" --help "*) {REAL["oidc-add"]} --help; echo "      --skip-check   Do not check"; exit;;
        esac
        printf '%s\\n' "$@" >{record}
        for argument; do
            shift
            [ "$argument" = --skip-check ] || set -- "$@" "$argument"
        done
        exec {REAL["oidc-add"]} "$@"
        """,
    )
    open_account(robot)
    assert re.sub(r"/\d+\n", "/N\n", record.read_text()).splitlines() == [
        "--pw-file=/proc/self/fd/N",
        "--skip-check",
        "robot",
    ]


@pytest.mark.parametrize(
    ("help_text", "offered"),
    [("--skip-check  Do not check", True), ("--skip-checking", False), ("--no-skip-check", False)],
)
def test_an_option_is_offered_when_the_help_text_has_it_by_its_whole_name(
    robot: Host, help_text: str, offered: bool
) -> None:
    robot.program("oidc-add", f"echo '      {help_text}'\n")
    assert agent.offers("oidc-add", "--skip-check") is offered


def test_an_expiry_of_0_is_an_unknown_one(issuer: Issuer, robot: Host) -> None:
    """As oidc-token 5.3 says with --aud or --scope. A token that says itself when it expires does not need
    it."""
    robot.program("oidc-token", f"{REAL['oidc-token']} \"$@\" | sed '3s/.*/0/'\n")
    issuer.settings(opaque_audiences=["dark"])
    specs = [
        spec_of(str(robot.tokens / name), audience=(name,), min_lifetime=60) for name in ("dark", "clear")
    ]
    dark, clear = workers.run_lanes(
        specs,
        {"robot": account_of(robot)},
        context=directories(robot),
        limits=Limits(600.0, Stop().requested),
    )
    assert (dark.state, dark.expires_at) == (State.RENEWED, None)
    assert "nobody said when it expires, so it is obtained in every run" in dark.notes
    assert clear.expires_at == issuer.verify(robot.read("clear").strip())["exp"]


def test_odd_output_of_oidc_token_is_taken_for_what_it_is(issuer: Issuer, robot: Host) -> None:
    robot.program(
        "oidc-token",
        """
        case "$2" in
            --aud=nothing) ;;
            --aud=blank) echo;;
            --aud=words) echo an access token;;
            *) printf 'to\\nken\\n';;
        esac
        """,
    )
    specs = [
        spec_of(str(robot.tokens / name), audience=(name,)) for name in ("nothing", "blank", "words", "short")
    ]
    *useless, short = workers.run_lanes(
        specs,
        {"robot": account_of(robot)},
        context=directories(robot),
        limits=Limits(600.0, Stop().requested),
    )
    assert [(outcome.state, outcome.reason) for outcome in useless] == [(State.FAILED, "unsuitable")] * 3
    assert (short.state, short.expires_at) == (State.RENEWED, None)
    assert {file.name: file.read_text() for file in robot.tokens.iterdir()} == {"short": "to\n"}


@pytest.mark.parametrize("missing", PROGRAMS)
def test_a_missing_program_comes_with_the_package_that_has_it(
    robot: Host, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name, path in {**REAL, "timeout": shutil.which("timeout")}.items():
        if name != missing and path:
            (robot.bin / name).symlink_to(path)
    monkeypatch.setenv("PATH", str(robot.bin))
    with pytest.raises(ProgramMissing, match=f"{missing} is not installed") as raised:
        open_account(robot)
    assert raised.value.hint == "install the package oidc-agent-cli"


def test_an_agent_that_ends_at_once_is_reported_with_what_it_said(robot: Host) -> None:
    robot.program("oidc-agent", "printf 'no \\033[31mroom\\033[0m left\\n' >&2; exit 7\n")
    with pytest.raises(Local, match=r"oidc-agent ended at once with status 7: no \[31mroom \[0m left"):
        open_account(robot)


def test_an_agent_that_never_opens_its_socket_is_given_up_and_ended(
    silent: tuple[Host, subprocess.Popen[str]],
) -> None:
    host, run = silent
    _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 1
    assert "token t: failed (local): oidc-agent was not ready after 10 s: no token is published" in said
    assert host.leftovers() == []


def test_an_agent_that_dies_is_this_hosts_fault(robot: Host) -> None:
    with source.OidcAgent().session(account_of(robot), directories(robot)) as fetch:
        killed = pids_of(robot.home, "oidc-agent")
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, killed)))
        with pytest.raises(Local, match="the oidc-agent of account robot ended, or lost the account"):
            fetch(spec_of())
    assert robot.leftovers() == []


def test_no_secret_is_in_the_arguments_or_the_environment_of_a_program(issuer: Issuer, robot: Host) -> None:
    password = (robot.root / "robot.pw").read_text().strip()
    records = [recording(robot, name) for name in PROGRAMS]
    with pytest.MonkeyPatch.context() as environment:
        for name in ("OIDC_ENCRYPTION_PW", "CREDENTIALS_DIRECTORY", "MY_SECRET", "OIDC_SOCK"):
            environment.setenv(name, f"inherited-{password}")
        with source.OidcAgent().session(account_of(robot), directories(robot)) as fetch:
            first = fetch(spec_of()).text.reveal()
            fetch(spec_of())
    for record in records:
        seen = record.read_text()
        assert "HOME=" in seen
        assert "inherited" not in seen
        assert password not in seen
        assert first not in seen


def test_the_agents_socket_is_where_only_this_user_can_go(robot: Host) -> None:
    with (
        private_directories.make_agent_directory(str(robot.runtime)) as (directory, mark),
        agent.start_agent(directory, directory, (mark,)) as running,
    ):
        socket = Path(running.env["OIDC_SOCK"])
        assert socket.is_socket()
        assert socket.parent.parent == robot.runtime
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert not socket.parent.exists()


# messages


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        # As seen on 4.2.6, 5.3.3 and several issuers.
        (
            "Error: reached maximum number of tries",
            Refused,
            "correct the first line of the password_file of [account robot]",
        ),
        (
            "Error: invalid_grant: grant request is invalid",
            DeadGrant,
            "run: osg-token-renewer-setup --reauthenticate robot",
        ),
        (
            "Error: Received Http Status Code 400",
            Refused,
            "run: osg-token-renewer-setup --reauthenticate robot",
        ),
        (
            "Error: invalid_scope",
            Refused,
            "check audience and scope of this token, or run: osg-token-renewer-setup --reauthenticate robot",
        ),
        (
            "Error: Error while reading account config: oidc-dir does not exist",
            Refused,
            "run: osg-token-renewer-setup robot",
        ),
        ("Error: could not parse json", Unavailable, None),
        ("Error: the other party disconnected", Unreachable, None),
        (
            "Error: Could not connect to oidc-agent",
            Local,
            "the next run starts another; if this lasts, see whether something ends it: journalctl -k",
        ),
        ("Error: something new", Unavailable, None),
        ("", Unavailable, None),
    ],
)
def test_what_the_programs_say_decides_who_must_act(
    said: str, kind: type[Failure], hint: Optional[str]
) -> None:
    failure = messages.explain(Completed(1, "", said), "robot")
    assert (type(failure), failure.hint) == (kind, hint)


def test_an_unknown_error_is_shown_as_it_is() -> None:
    assert (
        "could not be asked (something new)"
        in messages.explain(Completed(1, "", "Error: something new\n"), "robot").message
    )
    assert "could not be asked (exit status 5)" in messages.explain(Completed(5, "", ""), "robot").message


def test_what_the_programs_say_is_one_printable_line() -> None:
    failure = messages.explain(Completed(1, "", "Error: invalid_grant\x1b[2J\r\n" + "x" * 5000), "robot")
    assert failure.message.isprintable()
    assert len(failure.message) < 400
