"""`on_expiry`: what becomes of an expired token that could not be renewed."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from osg_token_renewer import config
from osg_token_renewer.engine.run import begin_run
from osg_token_renewer.system.signals import Stop
from testbed import Issuer
from tests.host import Host, without_roots_privileges

# With half an hour more, so that it is still said to be a day when some time has passed.
DAY = 86400 + 1800


def jwt(left: float) -> str:
    """A token with so many seconds left; a negative number is how long it has been expired."""
    claims = (
        base64.urlsafe_b64encode(json.dumps({"exp": int(time.time() + left)}).encode()).decode().rstrip("=")
    )
    return f"e30.{claims}.e30\n"


def publish(path: Path, left: float) -> None:
    path.touch(mode=0o600)
    path.write_text(jwt(left))


@pytest.fixture
def shut(host: Host) -> Iterator[Path]:
    """A directory that the test can close to everybody but root."""
    directory = host.root / "shut"
    directory.mkdir()
    yield directory
    directory.chmod(0o700)


def test_an_expired_token_is_removed_only_if_that_is_configured_and_its_renewal_failed(
    host: Host, issuer: Issuer, shut: Path
) -> None:
    lost = issuer.add_client()
    # oidc-agent has no such account: it cannot be opened.
    unknown = f"[account robot]\npassword_file = {host.secret('robot.pw', 'password')}\n"
    tokens = [
        host.token(name, "lost", on_expiry="remove")
        for name in ("expired", "valid", "link", "garbage", "gone")
    ]
    tokens += [host.token("kept", "lost"), host.token("closed", "robot", on_expiry="remove")]
    tokens += [
        host.token("good", "well", on_expiry="remove"),
        host.token("shut", "well", on_expiry="remove", token_path=shut / "shut"),
    ]
    accounts = [
        host.credentials_account(issuer, "lost", lost),
        host.credentials_account(issuer, "well", issuer.add_client()),
        unknown,
    ]
    host.configure("".join([*accounts, *tokens]))
    for path in (
        *(host.tokens / name for name in ("expired", "kept", "closed", "good", "target")),
        shut / "shut",
    ):
        publish(path, -DAY)
    publish(host.tokens / "valid", DAY)
    (host.tokens / "garbage").write_text("<html>")
    (host.tokens / "link").symlink_to("target")
    shut.chmod(0o555)
    issuer.fault(endpoint="token", client_id=lost.client_id, status=503)
    host.prefix = without_roots_privileges()

    done = host.run()

    assert done.status == 1
    assert ": the expired token was removed; " in done.line("token expired: ")
    assert ": the expired token was removed; " in done.line("token closed: ")
    assert ": the published token expired 1 d ago; " in done.line("token kept: ")
    assert ": the published token is valid for 1 d more; " in done.line("token valid: ")
    for name in ("link", "garbage", "gone"):
        assert ": no token is published; " in done.line(f"token {name}: ")
    stays = (
        f": the published token expired 1 d ago and stays: {shut}/shut cannot be removed: Permission denied; "
    )
    assert stays in done.line("token shut: ")
    assert {path.name for path in host.tokens.iterdir()} == {
        "kept",
        "valid",
        "link",
        "target",
        "garbage",
        "good",
    }
    assert os.listdir(shut) == ["shut"]
    assert issuer.verify(host.read("good").strip())


def test_dry_run_and_status_say_that_an_expired_token_will_be_removed(host: Host, issuer: Issuer) -> None:
    client = issuer.add_client()
    host.configure(
        host.credentials_account(issuer, "probe", client) + host.token("t", "probe", on_expiry="remove")
    )
    publish(host.tokens / "t", -DAY)

    assert host.run("renew", "--dry-run").stdout.splitlines()[0] == (
        "token t: would be obtained: expired 1 d ago, to be removed if it cannot be renewed"
    )
    assert (host.status()["t"]["state"], host.status()["t"]["reason"]) == (
        "expired",
        "expired 1 d ago, to be removed if it cannot be renewed",
    )
    assert host.read("t")

    issuer.fault(endpoint="token", status=503)
    assert host.run().status == 1
    assert (host.status()["t"]["state"], host.status()["t"]["expires_at"]) == ("missing", None)
    issuer.clear_faults()
    assert host.run().status == 0
    assert issuer.verify(host.read("t").strip())


def test_a_stopped_run_removes_an_expired_token_that_it_did_not_begin(host: Host, issuer: Issuer) -> None:
    client = issuer.add_client()
    host.configure(
        host.credentials_account(issuer, "probe", client) + host.token("t", "probe", on_expiry="remove")
    )
    publish(host.tokens / "t", -DAY)
    stop = Stop()
    with begin_run(lambda: config.load(str(host.config)), stop=stop) as run:
        planned = run.plan()
        stop.signal = signal.SIGTERM

        (outcome,) = run.outcomes(planned)

    assert (outcome.reason, outcome.consequence, outcome.expires_at) == (
        "stopped",
        "the expired token was removed",
        None,
    )
    assert list(host.tokens.iterdir()) == []
    assert issuer.counts().token == 0
