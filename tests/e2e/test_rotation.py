"""An issuer that gives a new refresh token with each access token, and takes the use of an old one for
theft."""

from __future__ import annotations

import os
import signal

import pytest

from testbed import Issuer
from tests.host import LONGEST, Host, spare_adding, stop, until

# Each run derives nine keys, three seconds of work for oidc-agent on a slow machine. Which Python runs the
# program makes no difference to it, so that only one of several need go all the way.
RUNS = int(os.environ.get("ROTATION_RUNS", "50"))


@pytest.fixture
def rotating(host: Host, issuer: Issuer) -> str:
    """The section of an account of its own: its refresh token is nobody else's."""
    account = host.register(issuer, "rotating")
    issuer.settings(rotate=True)
    issuer.reset_counts()
    return account


def test_each_of_many_runs_in_a_row_renews(host: Host, issuer: Issuer, rotating: str) -> None:
    host.configure(
        rotating + "".join(host.token(name, "rotating", audience=name) for name in ("even", "odd"))
    )
    seen = set()
    for number in range(RUNS):
        name = ("even", "odd")[number % 2]
        done = host.run("renew", name)
        assert done.status == 0, f"run {number}: {done.stderr}"
        claims = issuer.verify(host.read(name).strip())
        assert claims["aud"] == name
        seen.add(claims["jti"])
    assert len(seen) == RUNS
    # At least one refresh each, and so a new refresh token each, which oidc-agent has saved for the next run.
    assert issuer.counts().grants["refresh_token"] >= RUNS
    assert host.account_file("rotating").stat().st_mode & 0o777 == 0o600


def test_a_run_that_is_stopped_in_the_middle_of_a_refresh_keeps_the_account(
    host: Host, issuer: Issuer, rotating: str
) -> None:
    host.configure(rotating + "".join(host.token(name, "rotating", audience=name) for name in ("one", "two")))
    adding = spare_adding(issuer)
    issuer.fault(endpoint="token", hold=True)
    run = host.start()
    until(lambda: issuer.counts().token == adding + 1)
    assert stop(run, signal.SIGTERM).startswith("stopping: ")
    issuer.clear_faults()
    _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 128 + signal.SIGTERM
    assert "token one: renewed" in said
    assert "token two: failed (stopped): the run was stopped before its turn came" in said

    done = host.run()

    assert done.status == 0, done.stderr
    assert [issuer.verify(host.read(name).strip())["aud"] for name in ("one", "two")] == ["one", "two"]
    # The second token of a lane is asked for with the refresh token that came with the first.
    assert issuer.counts().max_in_flight == 1
