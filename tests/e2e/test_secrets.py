"""Secrets stay where they are: whole runs, setup included, while every process and everything that is written
is observed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote_plus

import pytest

from testbed import Issuer
from tests.host import RENEWER, ROOT, SCOPE, Host, Result
from tests.observer import Observer, Sight, forms

# Each of these characters is another one, or none, once it is encoded or decoded.
ODD = 'p%40+s s:"w"&r<d>/;\\'
PASSWORD, WRONG = "an-old-password-of-a-person", "not-the-password-of-anything"


class Stage:
    """A host under observation, and everything that its programs said."""

    def __init__(self, host: Host, issuer: Issuer, observer: Observer) -> None:
        self.host, self.issuer, self.observer = host, issuer, observer
        host.prefix = observer.prefix
        self.said: list[str] = []
        # Each secret, and the files that it may stand in.
        self.own: dict[str, set[Path]] = {}

    def keep(self, name: str, secret: str) -> Path:
        path = self.host.secret(name, f"{secret}\n")
        self.own.setdefault(secret, set()).add(path)
        return path

    def run(self, *arguments: str, status: int = 0) -> None:
        self._note(self.host.run(*arguments), status)

    def setup(self, *arguments: str, status: int = 0, person: Optional[str] = None) -> None:
        """`person`: what somebody does as soon as there is a code, 'approve_next' or 'deny_next'."""
        acting = threading.Thread(target=getattr(self.issuer, person or "counts"), daemon=True)
        acting.start()
        self._note(self.host.setup(*arguments), status)
        acting.join()

    def _note(self, done: Result, status: int) -> None:
        assert done.status == status, done.stderr
        self.said += [done.stdout, done.stderr]

    def sights(self) -> Iterator[Sight]:
        """All that could be seen: while it ran, what was said, and what is there now."""
        yield from self.observer.sights()
        yield from (Sight("what was said", text.encode()) for text in self.said)
        for directory in (self.host.root, self.host.short):
            for path in directory.rglob("*"):
                yield Sight(str(path), str(path).encode())
                if path.is_file() and path != self.host.root / "trace":
                    yield Sight(str(path), path.read_bytes())

    def leaks(self) -> list[str]:
        """What was seen where it must not be."""
        handed_out = self.issuer.secrets()
        secrets: dict[str, set[Path]] = {value: set() for values in handed_out.values() for value in values}
        secrets.update({value: {self.host.tokens} for value in handed_out.get("access_token", [])})
        secrets.update(self.own)
        return found(self.sights(), secrets)


def found(sights: Iterable[Sight], secrets: Mapping[str, set[Path]]) -> list[str]:
    """The secrets that were seen elsewhere than in their own files or directories."""
    looked_for = {secret: (forms(secret), tuple(map(str, own))) for secret, own in secrets.items()}
    return [
        f"{secret} in {where}: {content[:200]!r}"
        for where, content in sights
        for secret, (all_forms, own) in looked_for.items()
        if not where.startswith(own or "\0") and any(form in content for form in all_forms)
    ]


@pytest.fixture
def stage(host: Host, issuer: Issuer) -> Stage:
    issuer.settings(rotate=True)
    return Stage(host, issuer, Observer(host.root))


def echo(*secrets: str) -> str:
    """How an issuer may answer what it was sent back, in the form of RFC 6749 section 5.2."""
    encoded = [
        form
        for secret in secrets
        for form in (secret, quote_plus(secret), base64.b64encode(f"probe:{secret}".encode()).decode())
    ]
    return json.dumps({"error": "invalid_client", "error_description": " ".join(["you sent", *encoded])})


def fault(issuer: Issuer, body: str, **where: Any) -> None:
    issuer.fault(**{"endpoint": "token", "status": 401, "body": body, **where})


def test_no_secret_is_seen_anywhere_but_in_its_own_file(stage: Stage) -> None:
    host, issuer = stage.host, stage.issuer
    common = ["-v", "--issuer", issuer.url, "--ca-file", str(issuer.ca_file), "--scope", SCOPE]
    made = host.root / "robot.pw"

    # Setup, in each of its ways, and each refused once.
    fault(
        issuer,
        json.dumps({"error": "access_denied", "error_description": "no"}),
        endpoint="registration",
        times=1,
    )
    stage.setup(*common, "--pw-file", str(made), "--create-pw-file", "robot", status=1)
    stage.setup(*common, "--pw-file", str(made), "--create-pw-file", "robot", status=1, person="deny_next")
    stage.setup(*common, "--pw-file", str(made), "--create-pw-file", "robot", person="approve_next")
    stage.own[made.read_text().strip()] = {made}
    client = issuer.add_client(client_secret="short-secret", token_endpoint_auth_method="client_secret_basic")
    given = [
        "--client-id",
        client.client_id,
        "--client-secret-file",
        str(stage.keep("client.secret", "short-secret")),
    ]
    manual = [*common, "--manual", *given, "--pw-file", str(stage.keep("manual.pw", PASSWORD)), "manual"]
    fault(issuer, echo("short-secret", PASSWORD), endpoint="device_authorization", times=1)
    stage.setup(*manual, status=1)
    stage.setup(*manual, person="approve_next")
    odd = issuer.add_client(client_secret=ODD)
    given = ["--client-id", odd.client_id, "--client-secret-file", str(stage.keep("odd.secret", ODD))]
    proved = [
        *common[:-2],
        "--client-credentials",
        *given,
        "--scope",
        "compute.read",
        "--write-config",
        "probe",
    ]
    fault(issuer, echo(ODD), client_id=odd.client_id, times=2)
    stage.setup(*proved, status=1)
    stage.setup(*proved)

    # Runs in which all is well.
    inline = host.credentials_account(
        issuer, "inline", issuer.add_client(client_secret="stands-in-the-configuration")
    )
    stage.own["stands-in-the-configuration"] = {host.config}
    accounts = f"[account robot]\npassword_file = {made}\n[account manual]\npassword_file = {host.root}/manual.pw\n{inline}"
    names = ("robot", "manual", "probe", "inline")
    host.configure(accounts + "".join(host.token(name, name, min_lifetime=60) for name in names))
    for arguments in (
        ["-v"],
        ["-v", "renew", "--force"],
        ["renew", "--dry-run"],
        ["status"],
        ["status", "--json"],
        ["check", "--strict"],
    ):
        stage.run(*arguments)

    # Runs in which nothing is: the issuer answers the secrets back, as JSON and as a page, and a password is
    # wrong.
    known = issuer.secrets()
    agents = echo(
        known["refresh_token"][-1], known["client_secret"][0], known["registration_access_token"][0]
    )
    fault(issuer, agents.replace("invalid_client", "invalid_grant"), client_id=host_client(issuer, "robot"))
    fault(issuer, echo(ODD), client_id=odd.client_id)
    fault(issuer, "<html>stands-in-the-configuration</html>")
    stage.keep("manual.pw", WRONG)
    for arguments in (["-v", "renew", "--force"], ["status"], ["status", "--json"]):
        stage.run(*arguments, status=1)
    issuer.clear_faults()
    stage.keep("manual.pw", PASSWORD)
    issuer.revoke(host_client(issuer, "robot"))
    stage.run("renew", "--force", "robot", status=1)
    stage.setup("-v", "--reauthenticate", "--pw-file", str(made), "robot", person="approve_next")
    stage.run("renew", "--force")

    assert stage.leaks() == []
    assert {name for name, values in issuer.secrets().items() if values} >= {
        "refresh_token",
        "device_code",
        "registration_access_token",
    }
    assert len(issuer.secrets()["refresh_token"]) > 6


def host_client(issuer: Issuer, account: str) -> str:
    return issuer.client_id(f"oidc-agent:{account}")


def test_no_secret_is_in_what_a_bug_leaves_behind(stage: Stage) -> None:
    """An installation whose files have lost their ends, as some do when the power fails: it fails with the
    secret in its hands."""
    host = stage.host
    damaged = host.root / "damaged"
    shutil.copytree(
        ROOT / "osg_token_renewer",
        damaged / "osg_token_renewer",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (damaged / "libexec").mkdir()
    shutil.copy(RENEWER, damaged / "libexec")
    source = damaged / "osg_token_renewer" / "sources" / "client_credentials.py"
    source.write_text(source.read_text().partition("def _encoded(")[0])
    stage.keep("odd.secret", ODD)
    account = host.credentials_account(stage.issuer, "probe", stage.issuer.add_client(client_secret=ODD))
    host.configure(
        account.replace("client_secret = ", "client_secret_file = ").replace(
            ODD.replace("%", "%%"), f"{host.root}/odd.secret"
        )
    )
    host.write_config(host.config.read_text() + host.token("t", "probe"))

    command = [
        *host.prefix,
        sys.executable,
        str(damaged / "libexec" / RENEWER.name),
        "--config",
        str(host.config),
        "-v",
    ]
    done = subprocess.run(command, env=host.environment({}), capture_output=True, text=True, check=False)

    assert (done.returncode, "a bug in this program: NameError" in done.stderr) == (3, True), done.stderr
    stage.said += [done.stdout, done.stderr]
    assert stage.leaks() == []


@pytest.mark.parametrize(
    ("shown", "where"),
    [
        ('/bin/true "$SECRET"', "arguments"),
        ('X="$SECRET" /bin/true', "arguments"),
        ('echo "$SECRET" >short-lived; rm short-lived', "/short-lived"),
        ('echo "$SECRET" >left', "/left"),
        ('mkdir "$SECRET"; rmdir "$SECRET"', "names"),
        ('echo "$SECRET"', "what was said"),
    ],
)
@pytest.mark.parametrize("form", ["as it is", "base64", "form-encoded"])
def test_what_is_shown_is_seen(stage: Stage, shown: str, where: str, form: str) -> None:
    """The observation itself: each way of showing a secret is noticed."""
    secret = "correct-horse & battery"
    encoded = {
        "as it is": secret,
        "base64": base64.b64encode(f"me:{secret}:".encode()).decode(),
        "form-encoded": quote_plus(secret),
    }[form]
    stage.own[secret] = set()
    script = f"read -r SECRET; {shown}"
    command = [*stage.host.prefix, "sh", "-c", script]
    done = subprocess.run(
        command, cwd=stage.host.root, input=encoded, capture_output=True, text=True, check=True
    )
    stage.said += [done.stdout]
    assert any(where in leak for leak in found(stage.sights(), stage.own))
