"""Programs that are ended, at the worst moment, and what becomes of the accounts that they had open."""

from __future__ import annotations

import calendar
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest

from osg_token_renewer.sources.oidc_agent import agent
from testbed import Issuer
from tests.host import (
    LONGEST,
    SCOPE,
    Host,
    issuer_options,
    pids_of,
    processes_of,
    spare_adding,
    until,
    waits_for_the_lock,
)

# What oidc-add asks for by itself, where it cannot be told not to.
OPENING = 0 if agent.offers("oidc-add", "--skip-check") else 1


@pytest.fixture
def rotating(host: Host, issuer: Issuer) -> Iterator[Host]:
    """A host with an account whose refresh tokens are of one use, and two tokens of it."""
    account = host.register(issuer, "rotating")
    issuer.settings(rotate=True)
    issuer.reset_counts()
    host.configure(
        account
        + host.token("one", "rotating", audience="one")
        + host.token("two", "rotating", audience="two")
    )
    yield host
    issuer.clear_faults()


def killed_in_a_refresh(host: Host, issuer: Issuer) -> None:
    """Starts a run and kills the program while the issuer has its request, until the faults are cleared."""
    spare_adding(issuer)
    issuer.fault(endpoint="token", hold=True)
    run = host.start()
    until(lambda: issuer.counts().token == OPENING + 1)
    run.send_signal(signal.SIGKILL)
    run.communicate()


def test_the_agent_of_a_killed_program_finishes_its_request_and_ends_by_itself(
    rotating: Host, issuer: Issuer
) -> None:
    killed_in_a_refresh(rotating, issuer)
    account = rotating.account_file("rotating")
    lent = next(rotating.runtime.glob("osg-agent-*/oidc-agent/rotating"))
    during = account.read_bytes()
    assert lent.read_bytes() == during
    assert pids_of(rotating.home, "oidc-agent")
    issuer.clear_faults()
    until(lambda: not processes_of(rotating.home))
    # It wrote the refresh token that came after the program's end, for the next run to save.
    assert account.read_bytes() == during != lent.read_bytes()

    done = rotating.run()

    assert done.status == 0, done.stderr
    assert "account rotating: saved what the oidc-agent of a killed run had written" in done.stderr
    assert rotating.leftovers() == []
    assert [path.name for path in account.parent.iterdir() if path.name.startswith(".")] == []


# From 5.1 on, oidc-add asks the issuer for nothing while it opens an account.
@pytest.mark.parametrize("opening", [False, True] if OPENING else [False])
def test_an_agent_that_dies_while_the_issuer_is_asked_may_have_cost_the_account_and_says_so(
    rotating: Host, issuer: Issuer, opening: bool
) -> None:
    """As one that the kernel ends for want of memory."""
    asked = 1 if opening else spare_adding(issuer) + 1
    issuer.fault(endpoint="token", hold=True)
    run = rotating.start()
    until(lambda: issuer.counts().token == asked)
    for pid in pids_of(rotating.home, "oidc-agent"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    issuer.clear_faults()

    _, said = run.communicate(timeout=LONGEST)

    assert run.returncode == 1
    failed = (
        "failed (local): the oidc-agent of account rotating ended before the issuer had answered: "
        "no token is published; see whether something ends it: journalctl -k; "
        "if the issuer rotates refresh tokens, the account may be lost; "
        "should the next run be refused, run: osg-token-renewer-setup --reauthenticate rotating\n"
    )
    assert all(f"token {name}: {failed}" in said for name in ("one", "two"))
    assert (
        "warning: 1 agent was cut off while waiting for the issuer: where it rotates refresh tokens, " in said
    )
    assert "the account may be lost: rotating\n" in said
    assert rotating.leftovers() == []


WAITING = "account rotating: waiting for the run or the login that has it to finish\n"


def says(run: subprocess.Popen[str], line: str) -> bool:
    """Whether a run says so; returns when it does."""
    assert run.stderr is not None
    return any(said == line for said in iter(run.stderr.readline, ""))


def test_the_next_run_waits_for_the_agent_of_a_killed_one(rotating: Host, issuer: Issuer) -> None:
    killed_in_a_refresh(rotating, issuer)
    run = rotating.start("-v")
    assert says(run, WAITING)
    issuer.clear_faults()
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert "account rotating: saved what the oidc-agent of a killed run had written" in said
    # What the killed run left is gone, although its agent was still at work when this run began.
    assert rotating.leftovers() == []
    assert rotating.run().status == 0


def test_a_login_between_a_kill_and_the_next_run_is_not_undone(rotating: Host, issuer: Issuer) -> None:
    killed_in_a_refresh(rotating, issuer)
    issuer.clear_faults()
    until(lambda: not processes_of(rotating.home))
    approval = threading.Thread(target=issuer.approve_next, daemon=True)
    approval.start()
    login = rotating.setup("--reauthenticate", "--pw-file", str(rotating.root / "rotating.pw"), "rotating")
    approval.join()
    assert login.status == 0, login.stderr

    done = rotating.run()

    assert done.status == 0, done.stderr
    assert "saved what" not in done.stderr
    assert rotating.leftovers() == []


def test_what_an_agent_wrote_is_not_lost_if_all_its_processes_are_killed_before_it_is_saved(
    rotating: Host, issuer: Issuer
) -> None:
    killed_in_a_refresh(rotating, issuer)
    account = rotating.account_file("rotating")
    before = account.read_bytes()
    lent = next(rotating.runtime.glob("osg-agent-*/oidc-agent/rotating"))
    # The watcher, as the end of a container would end it.
    kill(pids_of(rotating.home, "/bin/sh -c"))
    issuer.clear_faults()
    until(lambda: lent.read_bytes() not in (b"", before) and lent.read_bytes()[-20:].count(b"version: ") == 1)
    kill([*pids_of(rotating.home, "oidc-agent"), *pids_of(rotating.home, "timeout")])
    until(lambda: not processes_of(rotating.home))
    assert account.read_bytes() == before

    done = rotating.run()

    assert done.status == 0, done.stderr
    assert "account rotating: saved what the oidc-agent of a killed run had written" in done.stderr
    assert not lent.exists()


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_an_issuer_that_never_answers_does_not_keep_the_agent_of_a_killed_program_for_ever(
    rotating: Host, issuer: Issuer
) -> None:
    configured = rotating.config.read_text()
    rotating.write_config(configured.replace("password_file", "timeout = 2\npassword_file"))
    issuer.fault(endpoint="token", hang=True)
    run = rotating.start()
    # Not when it has asked the issuer: who is slow may have been ended before that.
    until(lambda: bool(pids_of(rotating.home, "timeout --signal=KILL 5 ")) or run.poll() is not None)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    until(lambda: not processes_of(rotating.home))
    issuer.clear_faults()
    rotating.write_config(configured)
    assert rotating.run().status == 0


def test_what_runs_left_that_were_killed_with_all_their_processes_is_cleared_by_the_next(
    rotating: Host, issuer: Issuer
) -> None:
    issuer.fault(endpoint="token", hang=True)
    run = rotating.start()
    until(lambda: issuer.counts().token > 0)
    socket_directory = next(path for path in rotating.runtime.iterdir() if path.is_dir())
    room = rotating.account_file(".rotating.room")
    assert room.exists()
    # As the end of a container does it.
    every = [
        run.pid,
        *(
            pid
            for name in ("oidc-agent", "oidc-add", "oidc-token", "timeout")
            for pid in pids_of(rotating.home, name)
        ),
    ]
    kill(every)
    run.communicate()
    until(lambda: not processes_of(rotating.home))
    torn = rotating.tokens / ".one.0123456789abcdef.tmp"
    torn.write_text("half a tok")
    issuer.clear_faults()
    assert socket_directory.exists()

    assert rotating.run().status == 0

    assert not socket_directory.exists()
    assert not room.exists()
    assert not torn.exists()


def test_a_killed_setup_leaves_nothing_running(host: Host, issuer: Issuer) -> None:
    given = [*issuer_options(issuer, SCOPE), "--pw-file", str(host.root / "x.pw")]
    setup = host.popen(host.registrar(*given, "--create-pw-file", "fresh"), {})
    until(lambda: bool(issuer.pending_user_codes()))
    setup.send_signal(signal.SIGKILL)
    setup.communicate()
    until(lambda: not processes_of(host.home))
    assert host.leftovers() == []
    # A code that nobody waits for any more must not be the next one that is approved.
    issuer.revoke(issuer.client_id("fresh"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_waits_for_its_turn_does_not_wait_on_when_it_is_stopped(
    host: Host, number: signal.Signals
) -> None:
    """Idle, there is nothing to finish."""
    host.secret("pw", "x\n")
    host.configure(f"[account a]\npassword_file = {host.root}/pw\n" + host.token("one", "a"))
    import fcntl

    with (host.state / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run = waits_for_the_lock(host)
        run.send_signal(number)
        _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 128 + number
    # By itself, and not as one that is stuck.
    assert said.splitlines()[-1] == f"warning: stopped by {number.name}"


def test_a_login_waits_for_a_run_that_has_the_account(rotating: Host, issuer: Issuer) -> None:
    issuer.fault(endpoint="token", hold=True)
    run = rotating.start()
    until(lambda: issuer.counts().token > 0)
    options = ["--reauthenticate", "--pw-file", str(rotating.root / "rotating.pw"), "-v", "rotating"]
    login = rotating.popen(rotating.registrar(*options), {})
    assert says(login, WAITING)
    issuer.clear_faults()
    issuer.approve_next()
    _, said = run.communicate()
    _, said_by_login = login.communicate()
    assert (run.returncode, login.returncode) == (0, 0), said + said_by_login
    assert rotating.run().status == 0


def test_a_dead_grant_is_not_asked_again_until_it_is_another_one(host: Host, issuer: Issuer) -> None:
    account = host.register(issuer, "mortal")
    host.configure(account + host.token("one", "mortal") + host.token("two", "mortal"))
    issuer.revoke(host.client_ids["mortal"])
    remedy = "run: osg-token-renewer-setup --reauthenticate mortal"
    assert remedy in host.run().line("token one: failed (refused)")

    issuer.reset_counts()
    again = host.run()
    assert again.status == 1
    for name in ("one", "two"):
        line = again.line(f"token {name}: failed (refused): account mortal was not asked again, ")
        assert "invalid_grant" in line
        assert remedy in line
    assert issuer.counts().total == 0
    assert (
        "but its account mortal is paused: the issuer refused the refresh token"
        in host.run("renew", "--dry-run").stdout
    )
    attempt = calendar.timegm(time.strptime(host.status()["one"]["next_attempt_at"], "%Y-%m-%dT%H:%M:%SZ"))
    assert attempt - 86400 <= time.time() < attempt - 86400 + 2 * LONGEST

    host.run("renew", "--force")
    assert issuer.counts().token > 0

    approval = threading.Thread(target=issuer.approve_next, daemon=True)
    approval.start()
    assert host.setup("--reauthenticate", "--pw-file", str(host.root / "mortal.pw"), "mortal").status == 0
    approval.join()
    assert host.run().status == 0
    # It is forgotten, not only passed over.
    assert host.status()["one"]["next_attempt_at"] is None
