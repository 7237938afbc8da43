"""Whole runs: the real program, the real oidc-agent, the real issuer."""

from __future__ import annotations

import os
import stat

import pytest

from testbed import Issuer
from tests.host import Host


@pytest.fixture
def robot(host: Host, registry: Host) -> str:
    return host.adopt(registry, "robot")


def test_a_token_of_each_source_is_published_with_what_was_asked_for(
    host: Host, issuer: Issuer, robot: str
) -> None:
    client = issuer.add_client()
    host.configure(
        robot
        + host.credentials_account(issuer, "probe", client)
        + host.token("ce", "robot", audience="ce.example.org:9619", scope="compute.read")
        + host.token("monitoring", "probe", audience="one two", scope="compute.read compute.create")
    )

    done = host.run()

    assert (done.status, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "2 tokens: 2 renewed, 0 fresh, 0 failed"
    ce, monitoring = (issuer.verify(host.read(name).strip()) for name in ("ce", "monitoring"))
    assert (ce["aud"], ce["scope"]) == ("ce.example.org:9619", "compute.read")
    assert (monitoring["aud"], monitoring["scope"]) == (["one", "two"], "compute.read compute.create")
    for name in ("ce", "monitoring"):
        assert host.read(name).count("\n") == 1
        assert stat.S_IMODE(os.stat(host.tokens / name).st_mode) == 0o600


def test_a_second_run_asks_the_issuer_for_nothing_and_starts_no_agent(
    host: Host, issuer: Issuer, robot: str
) -> None:
    client = issuer.add_client()
    host.configure(
        robot
        + host.credentials_account(issuer, "probe", client)
        + host.token("ce", "robot", min_lifetime=600)
        + host.token("monitoring", "probe", min_lifetime=600)
    )
    assert host.run().status == 0
    before = host.read("ce"), host.read("monitoring")
    issuer.reset_counts()

    # An agent cannot be started when there is none on PATH.
    done = host.run(env={"PATH": "/nonexistent"})

    assert done.status == 0
    assert issuer.counts().total == 0
    assert (host.read("ce"), host.read("monitoring")) == before
    assert done.line("2 tokens:") == "2 tokens: 0 renewed, 2 fresh, 0 failed"
