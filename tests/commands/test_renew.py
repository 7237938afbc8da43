"""`renew` by root, whose files the service could not replace later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from osg_token_renewer import config
from testbed import Issuer
from tests.faults import apart
from tests.host import LONGEST, RENEWER, Host, Result

SERVICE = {"osg-token-svc": 990}


def with_the_usual_configuration(host: Host, *arguments: str) -> Result:
    """The program without --config."""
    command: Sequence[str] = [sys.executable, str(RENEWER), *arguments]
    done = subprocess.run(
        command,
        env=host.environment({}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_root_is_told_how_to_renew_as_the_service_and_nothing_is_attempted(host: Host) -> None:
    def body() -> None:
        for arguments in ((), ("renew", "--force"), ("--config", config.MAIN)):
            done = with_the_usual_configuration(host, *arguments)
            assert (done.status, done.stdout) == (1, "")
            assert done.stderr == (
                "this is root, not the service user osg-token-svc: nothing was attempted; use: "
                "systemctl start osg-token-renewer.service, "
                "or: runuser -u osg-token-svc -- osg-token-renewer renew\n"
            )
        # What only looks at things is allowed.
        for harmless in (("renew", "--dry-run"), ("status",), ("check",)):
            assert "this is root" not in with_the_usual_configuration(host, *harmless).stderr

    apart(body, users=SERVICE)


def test_root_may_renew_with_a_configuration_of_its_own_and_is_warned(host: Host, issuer: Issuer) -> None:
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("t", "probe"))

    def body() -> None:
        done = host.run()
        assert done.status == 0
        warning, *rest = done.stderr.splitlines()
        assert warning == (
            "warning: this is root: new files will be root's, "
            "and oidc-agent accounts are those of root's home"
        )
        assert not any("this is root" in line for line in rest)

    apart(body, users=SERVICE)
    assert issuer.verify(host.read("t").strip())


def test_without_a_service_user_root_gets_no_warning(host: Host) -> None:
    host.configure("")

    def body() -> None:
        assert host.run().stderr == "no token is configured: nothing to do\n"

    apart(body, users={})
