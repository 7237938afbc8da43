"""Runs, as objects and as processes: several at once, and a thousand one after the other."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from osg_token_renewer import config
from osg_token_renewer.engine.run import Run, begin_run
from osg_token_renewer.model import Outcome, Planned, State
from osg_token_renewer.system import locks
from osg_token_renewer.system.signals import Stop
from testbed import Issuer
from tests.host import LONGEST, Host, closed_port, has_open, until
from tests.tokens.test_jwt import jws


def run_of(host: Host, force: bool = False) -> AbstractContextManager[Run]:
    return begin_run(lambda: config.load(str(host.config)), stop=Stop(), force=force)


def states(run: Run, planned: list[Planned]) -> dict[str, State]:
    outcomes: list[Outcome] = [*run.outcomes(planned)]
    assert len(outcomes) == len(planned)
    return {outcome.spec.name: outcome.state for outcome in outcomes}


@pytest.mark.parametrize("force", [False, True])
def test_a_token_that_another_run_renewed_after_the_plan_is_fresh_unless_forced(
    host: Host, issuer: Issuer, force: bool
) -> None:
    account = host.credentials_account(issuer, "probe", issuer.add_client())
    tokens = [host.token(name, "probe", audience=name, min_lifetime=600) for name in ("a", "b")]
    host.configure("".join([account, *tokens]))
    with run_of(host, force) as late:
        planned = late.plan()
        with run_of(host) as early:
            assert states(early, early.plan()[:1]) == {"a": State.RENEWED}
        renewed = State.RENEWED if force else State.FRESH
        assert states(late, planned) == {"a": renewed, "b": State.RENEWED}
    assert issuer.counts().token == (3 if force else 2)


def test_the_runtime_directory_may_go_while_another_run_is_waited_for(host: Host, registry: Host) -> None:
    """The service's does when the service ends."""
    host.configure(host.adopt(registry, "robot") + host.token("t", "robot"))
    with locks.hold_run_lock(str(host.state / "lock"), 0):
        run = host.start()
        until(lambda: has_open(run.pid, host.state / "lock"))
        assert list(host.runtime.iterdir()) == []
        host.runtime.rmdir()
    _, said = run.communicate(timeout=LONGEST)
    assert (run.returncode, said.splitlines()[-1]) == (0, "1 token: 1 renewed, 0 fresh, 0 failed")


def test_each_run_that_uses_a_state_directory_that_is_open_to_all_says_so(host: Host, issuer: Issuer) -> None:
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("t", "probe"))
    told = f"others can write to {host.state}, where the lock and the copies of account files are: chmod o-w"
    for mode in (0o777, 0o1777, 0o700):
        host.state.chmod(mode)
        done = host.run()
        assert (done.status, f"{told} {host.state}" in done.stderr) == (0, mode == 0o777)


# A thousand runs in one process

ROUNDS = 1000
# One in so many has tokens that are due: some fail at once on this host, and one is renewed. One in ten of
# these also renews through oidc-agent.
DUE = 50


@pytest.fixture
def closed_url() -> Iterator[str]:
    with closed_port() as port:
        yield f"https://127.0.0.1:{port}/token"


def fail_fast(host: Host, url: str) -> str:
    """Tokens that are due and fail on this host: without a CA bundle, a password file, or a directory."""
    secret = host.secret("secret", "hunter2\n")
    probe = f"token_request_url = {url}\nclient_id = x\nclient_secret_file = {secret}\n"
    return (
        f"[account broken]\n{probe}ca_file = {host.root}/nowhere.pem\n"
        f"[account locked]\npassword_file = {host.root}/nowhere.pw\n"
        + host.token("bundle", "broken")
        + host.token("password", "locked")
        + host.token("place", "broken", token_path=host.root / "nowhere" / "x")
    )


def open_descriptors() -> set[str]:
    """What this process has open. Pipes and sockets have numbers, so that none stands in for another."""
    return {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _exists(name)}


def _exists(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def resident() -> int:
    """This process's memory, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def seized() -> tuple[object, ...]:
    """What belongs to the process and not to a run."""
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    threads = sorted(thread.name for thread in threading.enumerate())
    return threads, open_descriptors(), signals, wakeup, gc.get_threshold(), gc.get_freeze_count()


def test_a_thousand_runs_leave_no_thread_no_descriptor_and_no_memory_behind(
    host: Host, closed_url: str, issuer: Issuer, registry: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(host.home))
    fresh = "[account quiet]\npassword_file = /nonexistent/quiet.pw\n" + "".join(
        host.token(f"fresh{number}", "quiet", min_lifetime=600) for number in range(3)
    )
    for number in range(3):
        host.secret(f"tokens/fresh{number}", jws({"exp": time.time() + 86400}) + "\n")
    host.configure(fresh)
    quiet = host.config.read_text()
    probe = host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("probe", "probe")
    some_due = quiet + fail_fast(host, closed_url) + probe
    with_agent = some_due + host.adopt(registry, "robot") + host.token("robot", "robot")

    def repeat_runs(rounds: int) -> None:
        for number in range(rounds):
            agent, due = number % (10 * DUE) == 0, number % DUE == 0
            host.write_config(with_agent if agent else some_due if due else quiet)
            with run_of(host) as run:
                found = states(run, run.plan())
            assert sorted(state.value for state in found.values()) == (
                ["failed"] * 3 * due + ["fresh"] * 3 + ["renewed"] * (due + agent)
            )

    # What the first runs import and allocate stays.
    repeat_runs(2 * DUE)
    gc.collect()
    before, memory, objects = seized(), resident(), len(gc.get_objects())
    repeat_runs(ROUNDS)
    gc.collect()
    assert seized() == before
    assert len(gc.get_objects()) - objects < ROUNDS / 10
    assert resident() - memory < 4096


def test_a_run_that_is_dropped_in_the_middle_leaves_nothing_behind(host: Host) -> None:
    """Its issuers never answer, and nobody follows the run to its end."""
    secret = host.secret("secret", "hunter2\n")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/token"
        probe = f"token_request_url = {url}\nclient_id = x\nclient_secret_file = {secret}\ntimeout = 1\n"
        robot = f"[account robot]\npassword_file = {host.root}/nowhere.pw\n"
        host.configure(
            f"[account probe]\n{probe}{robot}" + host.token("a", "robot") + host.token("b", "probe")
        )
        before = seized()
        for _ in range(3):
            with run_of(host) as run:
                outcomes = run.outcomes(run.plan())
                assert next(outcomes).spec.name == "a"
                outcomes.close()  # type: ignore[attr-defined]
            until(lambda: seized() == before)
