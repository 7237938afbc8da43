"""The engine: several runs at a time, as objects and as processes."""

from __future__ import annotations

import pytest

from osg_token_renewer import config
from osg_token_renewer.engine import run as engine
from osg_token_renewer.model import Outcome, Planned, State
from osg_token_renewer.system import locks
from osg_token_renewer.system.signals import Stop
from testbed import Issuer
from tests.host import LONGEST, Host, has_open, until


def run_of(host: Host, force: bool = False) -> engine.Run:
    return engine.Run(config.load(str(host.config)), force=force, stop=Stop())


def states(run: engine.Run, planned: list[Planned]) -> dict[str, State]:
    outcomes: list[Outcome] = [*run.outcomes(planned)]
    assert len(outcomes) == len(planned)
    return {outcome.spec.name: outcome.state for outcome in outcomes}


@pytest.mark.parametrize("force", [False, True])
def test_what_another_run_renewed_after_it_was_planned_is_fresh_unless_forced(
    host: Host, issuer: Issuer, force: bool
) -> None:
    account = host.credentials_account(issuer, "probe", issuer.add_client())
    host.configure(
        account + "".join(host.token(name, "probe", audience=name, min_lifetime=600) for name in ("a", "b"))
    )
    late, early = run_of(host, force), run_of(host)
    planned = late.plan()
    assert states(early, early.plan()[:1]) == {"a": State.RENEWED}

    assert states(late, planned) == {"a": State.RENEWED if force else State.FRESH, "b": State.RENEWED}

    assert issuer.counts().token == (3 if force else 2)


def test_the_runtime_directory_may_go_while_another_run_is_waited_for(host: Host, registry: Host) -> None:
    """As that of the service does when the service has ended."""
    host.configure(host.adopt(registry, "robot") + host.token("t", "robot"))
    with locks.hold_run_lock(str(host.state / "lock"), 0):
        run = host.start()
        until(lambda: has_open(run.pid, host.state / "lock"))
        assert list(host.runtime.iterdir()) == []
        host.runtime.rmdir()
    _, said = run.communicate(timeout=LONGEST)
    assert (run.returncode, said.splitlines()[-1]) == (0, "1 token: 1 renewed, 0 fresh, 0 failed")


def test_a_state_directory_for_everyone_is_told_in_each_run_that_uses_it(host: Host, issuer: Issuer) -> None:
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("t", "probe"))
    for mode in (0o777, 0o1777, 0o700):
        host.state.chmod(mode)
        done = host.run()
        told = f"others can write to {host.state}, where the lock and the copies of account files are: chmod o-w {host.state}"
        assert (done.status, told in done.stderr) == (0, mode == 0o777)
