"""`renew` as it is used: by hand, by a timer, and when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from osg_token_renewer.system import locks
from testbed import Issuer
from tests.host import LONGEST, Host, has_open, stop, until, waits_for_the_lock
from tests.terminal import Terminal, unwrapped


@pytest.fixture
def probe(host: Host, issuer: Issuer) -> str:
    return host.credentials_account(issuer, "probe", issuer.add_client())


def contents(*directories: Path) -> dict[str, tuple[bytes, int]]:
    """All files below, with content and time of change."""
    found = (path for directory in directories for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module", autouse=True)
def waiting(
    running_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, subprocess.Popen[str]]]:
    """A run on a host whose lock is this process's. It waits for a while, so it is started before the other
    tests."""
    with (
        Host.made(tmp_path_factory.mktemp("waiting")) as host,
        locks.hold_run_lock(str(host.state / "lock"), 0),
    ):
        account = host.credentials_account(running_issuer, "probe", running_issuer.add_client())
        host.configure(account + host.token("t", "probe"))
        run = host.start()
        yield host, run
        # Where the test that looks at it is not run, nobody need wait for it.
        run.terminate()
        run.wait(LONGEST)


# what is due


def test_a_run_renews_only_due_tokens_unless_forced_and_only_those_named(
    host: Host, issuer: Issuer, probe: str
) -> None:
    tokens = [host.token(name, "probe", audience=name, min_lifetime=600) for name in ("a", "b")]
    host.configure(probe + host.token("often", "probe") + "".join(tokens))
    assert host.run().status == 0
    issuer.reset_counts()

    assert host.run().line("3 tokens:") == "3 tokens: 1 renewed, 2 fresh, 0 failed"
    assert host.run("renew", "a").line("1 token:") == "1 token: 0 renewed, 1 fresh, 0 failed"
    assert host.run("renew", "--force", "b").line("1 token:") == "1 token: 1 renewed, 0 fresh, 0 failed"
    assert host.run("renew", "--force").line("3 tokens:") == "3 tokens: 3 renewed, 0 fresh, 0 failed"

    assert issuer.counts().token == 1 + 0 + 1 + 3


def test_an_unknown_token_is_wrong_usage_and_nothing_is_attempted(
    host: Host, issuer: Issuer, probe: str
) -> None:
    host.configure(probe + host.token("a", "probe"))
    done = host.run("renew", "a", "b")
    assert done.status == 2
    assert (
        done.line("there is no [token b]")
        == "there is no [token b] in the configuration; see: osg-token-renewer status"
    )
    assert (list(host.tokens.iterdir()), issuer.counts().total) == ([], 0)


def test_a_run_without_tokens_is_well_and_says_so(host: Host, probe: str) -> None:
    host.configure(probe)
    done = host.run()
    assert (done.status, done.stderr) == (0, "no token is configured: nothing to do\n")


def test_a_dry_run_says_what_is_due_and_why_and_touches_nothing(
    host: Host, issuer: Issuer, probe: str
) -> None:
    host.configure(
        probe
        + "".join(host.token(name, "probe", min_lifetime=600) for name in ("fresh", "damaged", "missing"))
    )
    assert host.run("renew", "fresh").status == 0
    (host.tokens / "damaged").write_text("two words\n")
    issuer.reset_counts()
    before = contents(host.root, host.short)

    done = host.run("renew", "--dry-run", env={"PATH": "/nonexistent"})

    assert done.status == 0
    assert done.stderr == ""
    fresh, *rest = done.stdout.splitlines()
    assert fresh.startswith("token fresh: is fresh: ")
    assert rest == [
        "token damaged: would be obtained: not a token: it has more than one line or word",
        "token missing: would be obtained: no file",
        "3 tokens: 2 due, 1 fresh",
    ]
    assert contents(host.root, host.short) == before
    assert issuer.counts().total == 0
    assert host.run("renew", "--dry-run", "--force").line("3 tokens:") == "3 tokens: 3 due, 0 fresh"


def test_a_token_is_due_when_its_section_asks_for_something_else(
    host: Host, issuer: Issuer, probe: str
) -> None:
    changes: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
        "other": ({"audience": "one"}, {"audience": "two"}, "audience changed since it was published"),
        "less": (
            {"scope": "compute.read compute.create"},
            {"scope": "compute.read"},
            "scope changed since it was published",
        ),
        "none": ({"audience": "one"}, {}, "audience changed since it was published"),
        "moded": ({}, {"mode": "0640"}, "its mode is 0600, not the configured 0640"),
    }
    same = host.token("same", "probe", audience="a b", min_lifetime=600)
    host.configure(
        probe
        + same
        + "".join(
            host.token(name, "probe", min_lifetime=600, **before) for name, (before, _, _) in changes.items()
        )
    )
    assert host.run().status == 0
    same = host.token("same", "probe", audience="b  a", min_lifetime=600)
    host.configure(
        probe
        + same
        + "".join(
            host.token(name, "probe", min_lifetime=600, **after) for name, (_, after, _) in changes.items()
        )
    )

    planned = host.run("renew", "--dry-run")
    assert planned.line("token same: ").startswith("token same: is fresh: ")
    for name, (_, _, reason) in changes.items():
        assert planned.line(f"token {name}: ") == f"token {name}: would be obtained: {reason}"
    assert host.run().line("5 tokens:") == "5 tokens: 4 renewed, 1 fresh, 0 failed"

    granted = {name: issuer.verify(host.read(name).strip()) for name in changes}
    assert (granted["other"]["aud"], granted["less"]["scope"]) == ("two", "compute.read")
    assert granted["none"]["aud"] == issuer.settings()["default_audience"]
    assert stat.S_IMODE(os.stat(host.tokens / "moded").st_mode) == 0o640
    assert host.run().line("5 tokens:") == "5 tokens: 0 renewed, 5 fresh, 0 failed"


# what came


def test_a_token_that_lacks_what_was_asked_for_is_published_with_a_warning_or_not_at_all(
    host: Host, issuer: Issuer, probe: str
) -> None:
    asked = {"audience": "ce", "scope": "compute.read condor:/NOTHING"}
    host.configure(
        probe
        + host.token("warn", "probe", **asked)
        + host.token("enforce", "probe", claims="enforce", **asked)
    )
    (host.tokens / "enforce").write_text("the.old.one")
    issuer.settings(ignore_audience=True, ignore_scope=True)

    done = host.run()

    assert done.status == 1
    warned = done.line("warning: token warn: renewed, valid for ")
    assert "; lacks audience ce; lacks scope condor:/NOTHING; has more scope than asked for: " in warned
    enforced = done.line("token enforce: ")
    assert (
        "the token that came lacks audience ce and scope condor:/NOTHING: the published token stays; "
        in enforced
    )
    assert "ask the issuer's operators to grant it, or set claims = warn" in enforced
    assert issuer.verify(host.read("warn").strip())
    assert host.read("enforce") == "the.old.one"


@pytest.mark.parametrize(
    ("offsets", "problem"),
    [
        ({"exp_offset": -7200}, "the token that came expired 1 h ago"),
        ({"nbf_offset": 7200 + 1800}, "the token that came is not valid for 2 h "),
        ({"nbf_offset": 3}, None),
    ],
)
def test_a_token_that_is_not_valid_now_is_never_published(
    host: Host, issuer: Issuer, probe: str, offsets: dict[str, int], problem: str
) -> None:
    host.configure(probe + host.token("t", "probe"))
    (host.tokens / "t").write_text("the.old.one")
    issuer.settings(**offsets)

    done = host.run()

    if problem is None:
        assert done.status == 0
        assert host.read("t") != "the.old.one"
    else:
        assert done.status == 1
        assert problem in done.line("token t: ")
        assert "; compare this host's clock with the issuer's" in done.line("token t: ")
        assert host.read("t") == "the.old.one"


def test_an_opaque_token_is_published_marked_and_fresh_until_it_expires(
    host: Host, issuer: Issuer, probe: str
) -> None:
    host.configure(probe + host.token("t", "probe", audience="dark", min_lifetime=600))
    issuer.settings(opaque_audiences=["dark"])
    assert host.run().line("token t: renewed, valid for ").endswith(", not checkable because it is opaque")
    assert host.run().line("1 token:") == "1 token: 0 renewed, 1 fresh, 0 failed"
    shown = host.status()["t"]
    assert (shown["state"], shown["audience"], shown["scope"]) == ("fresh", None, None)
    assert shown["seconds_left"] > 600
    # Nobody can tell when another opaque token expires.
    (host.tokens / "t").write_text("somebody-elses-token\n")
    assert (
        host.run("renew", "--dry-run").line("token t: ")
        == "token t: would be obtained: nobody said when it expires"
    )


# interruptions


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_finishes_the_requests_under_way_and_fails_the_rest(
    host: Host, issuer: Issuer, number: signal.Signals
) -> None:
    accounts = {name: issuer.add_client() for name in ("a", "b")}
    tokens = [
        host.token(f"{name}{turn}", name, audience=turn, min_lifetime=600)
        for name in accounts
        for turn in (1, 2)
    ]
    sections = [host.credentials_account(issuer, name, client) for name, client in accounts.items()]
    host.configure("".join(sections + tokens), workers=2)
    issuer.fault(endpoint="token", hold=True)
    run = host.start()
    until(lambda: issuer.counts().token == 2)

    assert stop(run, number) == "stopping: requests under way are let finish first\n"
    issuer.clear_faults()
    _, said = run.communicate(timeout=LONGEST)

    assert run.returncode == 128 + number
    lines = said.splitlines()
    assert sorted(line.partition(",")[0] for line in lines[:4]) == [
        "token a1: renewed",
        "token a2: failed (stopped): the run was stopped before its turn came: no token is published",
        "token b1: renewed",
        "token b2: failed (stopped): the run was stopped before its turn came: no token is published",
    ]
    assert lines[4].startswith("4 tokens: 2 renewed, 0 fresh, 2 failed (")
    assert lines[5:] == [f"warning: stopped by {number.name}"]
    assert sorted(path.name for path in host.tokens.iterdir()) == ["a1", "b1"]
    assert issuer.counts().token == 2
    assert host.leftovers() == []
    # Whose turn did not come has not failed.
    assert {name: (one["state"], one["last_failure"]) for name, one in host.status().items()} == {
        **dict.fromkeys(("a1", "b1"), ("fresh", None)),
        **dict.fromkeys(("a2", "b2"), ("missing", None)),
    }
    # Nothing stands in the way of the next run.
    assert host.run().line("4 tokens:") == "4 tokens: 2 renewed, 2 fresh, 0 failed"


def test_a_run_that_waited_for_another_finds_its_tokens_fresh(host: Host, issuer: Issuer, probe: str) -> None:
    host.configure(
        probe + "".join(host.token(name, "probe", audience=name, min_lifetime=600) for name in ("a", "b")),
        workers=1,
    )
    issuer.fault(endpoint="token", hold=True)
    first = host.start()
    until(lambda: issuer.counts().token == 1)
    second = host.start()
    until(lambda: has_open(second.pid, host.state / "lock"))

    issuer.clear_faults()

    ends = [(run.communicate(timeout=LONGEST)[1].splitlines()[-1], run.returncode) for run in (first, second)]
    assert ends == [
        ("2 tokens: 2 renewed, 0 fresh, 0 failed", 0),
        ("2 tokens: 0 renewed, 2 fresh, 0 failed", 0),
    ]
    assert issuer.counts().token == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_run_that_is_stopped_while_it_waits_for_another_ends_at_once_as_stopped(
    host: Host, issuer: Issuer, probe: str, number: signal.Signals
) -> None:
    host.configure(probe + host.token("t", "probe"))
    with locks.hold_run_lock(str(host.state / "lock"), 0):
        run = waits_for_the_lock(host)
        run.send_signal(number)
        _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 128 + number
    assert said.splitlines() == [
        "stopping: requests under way are let finish first",
        f"warning: stopped by {number.name}",
    ]
    assert issuer.counts().total == 0


# a terminal


def test_a_terminal_shows_progress_with_failures_above_it(host: Host, issuer: Issuer) -> None:
    clients = {name: issuer.add_client() for name in ("good", "bad")}
    host.configure(
        "".join(host.credentials_account(issuer, name, client) for name, client in clients.items())
        + host.token("broken", "bad")
        + "".join(host.token(f"slow{number}", "good") for number in (1, 2))
    )
    reason = " ".join(["for this and that reason"] * 6)
    issuer.fault(
        endpoint="token", client_id=clients["bad"].client_id, status=400, body=f'{{"error": "{reason}"}}'
    )
    issuer.fault(endpoint="token", client_id=clients["good"].client_id, hold=True)

    with Terminal(host.renewer(), host.environment({})) as terminal:
        terminal.wait_for("token broken: ")
        # All of its last line, too, which is drawn anew all the time.
        during = terminal.wait_until(
            lambda lines: re.search(r"renewing .* 1/3 [\d:]+$", lines[-1]) is not None
        )
        issuer.clear_faults()
        status = terminal.end()

    assert status == 1
    failure = (
        f"token broken: failed (refused): the issuer refused the request: {reason}: no token is published; "
        "check [account bad] against the client's registration at the issuer"
    )
    # The line is longer than the screen is wide, and all of it is to be read above the display.
    assert unwrapped(during[:-1]) == failure
    assert "renewing" in during[-1]
    after = terminal.screen()
    assert unwrapped(after[: len(during) - 1]) == failure
    *slow, summary = (line.partition(",")[0] for line in after[len(during) - 1 :])
    assert sorted(slow) == ["token slow1: renewed", "token slow2: renewed"]
    assert summary == "3 tokens: 2 renewed"
    # The cursor, hidden for the display, is back.
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind("\x1b[?25l")


def test_without_a_terminal_there_is_no_progress_display(host: Host, probe: str) -> None:
    host.configure(probe + host.token("t", "probe"))
    done = host.run(env={"TERM": "xterm", "FORCE_COLOR": "1"})
    assert (done.status, done.stdout) == (0, "")
    assert [line.partition(",")[0] for line in done.stderr.splitlines()] == [
        "token t: renewed",
        "1 token: 1 renewed",
    ]


# Last in this file: by now it has waited long enough.
def test_a_second_run_says_who_holds_the_lock_and_attempts_nothing(
    waiting: tuple[Host, subprocess.Popen[str]],
) -> None:
    host, run = waiting
    _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 1
    assert f"another run is at work (process {os.getpid()}, " in said
    assert ": nothing was attempted; wait for it to end" in said
    assert list(host.tokens.iterdir()) == []
