"""Secrets stay in their own files: strace(1) observes each process of whole runs and setups, and what it
writes."""

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

from testbed import Client, Issuer
from tests.host import RENEWER, ROOT, SCOPE, Host, Result, issuer_options, section
from tests.observer import Observer, Sight, forms

# Encoding or decoding changes each of these characters.
ODD = 'p%40+s s:"w"&r<d>/;\\'
PASSWORD, WRONG = "an-old-password-of-a-person", "not-the-password-of-anything"


class Stage:
    """A host whose programs are observed, and everything that they said."""

    def __init__(self, host: Host, issuer: Issuer, observer: Observer) -> None:
        self.host, self.issuer, self.observer = host, issuer, observer
        host.prefix = observer.prefix
        self.said: list[str] = []
        # Each secret, and the files that may contain it.
        self.own: dict[str, set[Path]] = {}

    def keep(self, name: str, secret: str) -> Path:
        path = self.host.secret(name, f"{secret}\n")
        self.own.setdefault(secret, set()).add(path)
        return path

    def run(self, *arguments: str, status: int = 0) -> None:
        self._note(self.host.run(*arguments), status)

    def setup(self, *arguments: str, status: int = 0, person: Optional[str] = None) -> None:
        """`person`: what a person does with the user code, "approve_next" or "deny_next"."""
        acting = threading.Thread(target=getattr(self.issuer, person or "counts"), daemon=True)
        acting.start()
        self._note(self.host.setup(*arguments), status)
        acting.join()

    def _note(self, done: Result, status: int) -> None:
        assert done.status == status, done.stderr
        self.said += [done.stdout, done.stderr]

    def sights(self) -> Iterator[Sight]:
        """All that others could see: during the runs, in the output, and in the files that are there now."""
        yield from self.observer.sights()
        yield from (Sight("what was said", text.encode()) for text in self.said)
        for directory in (self.host.root, self.host.short):
            for path in directory.rglob("*"):
                yield Sight(str(path), str(path).encode())
                if path.is_file() and path != self.host.root / "trace":
                    yield Sight(str(path), path.read_bytes())

    def leaks(self) -> list[str]:
        """The secrets that were seen where they must not be."""
        handed_out = self.issuer.secrets()
        secrets: dict[str, set[Path]] = {value: set() for values in handed_out.values() for value in values}
        secrets.update({value: {self.host.tokens} for value in handed_out.get("access_token", [])})
        secrets.update(self.own)
        return found(self.sights(), secrets)


def found(sights: Iterable[Sight], secrets: Mapping[str, set[Path]]) -> list[str]:
    """The secrets that were seen outside of their own files or directories."""
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
    """An error answer (RFC 6749 section 5.2) in which the issuer sends the secrets back."""
    encoded = [
        form
        for secret in secrets
        for form in (secret, quote_plus(secret), base64.b64encode(f"probe:{secret}".encode()).decode())
    ]
    return json.dumps({"error": "invalid_client", "error_description": " ".join(["you sent", *encoded])})


def fault(issuer: Issuer, body: str, **where: Any) -> None:
    issuer.fault(**{"endpoint": "token", "status": 401, "body": body, **where})


def test_a_secret_is_seen_only_in_its_own_file(stage: Stage) -> None:
    made = set_up_agents(stage)
    odd = set_up_credentials(stage)
    configure(stage, made)
    for arguments in (
        ["-v"],
        ["-v", "renew", "--force"],
        ["renew", "--dry-run"],
        ["status"],
        ["status", "--json"],
        ["check", "--strict"],
    ):
        stage.run(*arguments)
    run_with_failures(stage, odd)
    revive(stage, made)

    assert stage.leaks() == []
    secrets = stage.issuer.secrets()
    seen = {name for name, values in secrets.items() if values}
    assert seen >= {"refresh_token", "device_code", "registration_access_token"}
    assert len(secrets["refresh_token"]) > 6


def set_up_agents(stage: Stage) -> Path:
    """Sets up accounts of oidc-agent, by registration and with a given client; each is refused first. Returns
    the password file that the setup made."""
    issuer, made = stage.issuer, stage.host.root / "made.pw"
    robot = [*common(issuer), "--pw-file", str(made), "--create-pw-file", "robot"]
    refusal = json.dumps({"error": "access_denied", "error_description": "no"})
    fault(issuer, refusal, endpoint="registration", times=1)
    stage.setup(*robot, status=1)
    stage.setup(*robot, status=1, person="deny_next")
    stage.setup(*robot, person="approve_next")
    stage.own[made.read_text().strip()] = {made}
    client = issuer.add_client(client_secret="short-secret", token_endpoint_auth_method="client_secret_basic")
    secret = stage.keep("client.secret", "short-secret")
    given = ["--manual", "--client-id", client.client_id, "--client-secret-file", str(secret)]
    password = stage.keep("manual.pw", PASSWORD)
    manual = [*common(issuer), *given, "--pw-file", str(password), "manual"]
    fault(issuer, echo("short-secret", PASSWORD), endpoint="device_authorization", times=1)
    stage.setup(*manual, status=1)
    stage.setup(*manual, person="approve_next")
    return made


def set_up_credentials(stage: Stage) -> Client:
    """Sets up an account of client credentials, which the issuer refuses first; returns the client."""
    odd = stage.issuer.add_client(client_secret=ODD)
    secret = stage.keep("odd.secret", ODD)
    given = ["--client-id", odd.client_id, "--client-secret-file", str(secret), "--write-config"]
    proved = [*common(stage.issuer, "compute.read"), "--client-credentials", *given, "probe"]
    fault(stage.issuer, echo(ODD), client_id=odd.client_id, times=2)
    stage.setup(*proved, status=1)
    stage.setup(*proved)
    return odd


def common(issuer: Issuer, scope: str = SCOPE) -> list[str]:
    """The arguments of all setups."""
    return ["-v", *issuer_options(issuer, scope)]


def configure(stage: Stage, made: Path) -> None:
    """Configures a token of each account, and of one whose secret is in the configuration itself."""
    host, issuer = stage.host, stage.issuer
    client = issuer.add_client(client_secret="stands-in-the-configuration")
    stage.own["stands-in-the-configuration"] = {host.config}
    accounts = host.credentials_account(issuer, "inline", client)
    for name, path in (("robot", made), ("manual", host.root / "manual.pw")):
        accounts += section(f"account {name}", {"password_file": path})
    names = ("robot", "manual", "probe", "inline")
    host.configure(accounts + "".join(host.token(name, name, min_lifetime=60) for name in names))


def run_with_failures(stage: Stage, odd: Client) -> None:
    """The issuer sends the secrets back, as JSON and as a page, and a password is wrong."""
    issuer = stage.issuer
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


def revive(stage: Stage, made: Path) -> None:
    """A grant is revoked, and a new login makes another one."""
    stage.issuer.revoke(host_client(stage.issuer, "robot"))
    stage.run("renew", "--force", "robot", status=1)
    stage.setup("-v", "--reauthenticate", "--pw-file", str(made), "robot", person="approve_next")
    stage.run("renew", "--force")


def host_client(issuer: Issuer, account: str) -> str:
    return issuer.client_id(f"oidc-agent:{account}")


def test_a_bug_shows_no_secret(stage: Stage) -> None:
    """A module of this installation lost its end, as may happen when the power fails. The program fails while
    it holds the secret."""
    host = stage.host
    damaged = host.root / "damaged"
    package = damaged / "osg_token_renewer"
    shutil.copytree(ROOT / "osg_token_renewer", package, ignore=shutil.ignore_patterns("__pycache__"))
    (damaged / "libexec").mkdir()
    shutil.copy(RENEWER, damaged / "libexec")
    cut = "def _encode("
    source = next(path for path in (package / "sources").glob("*.py") if cut in path.read_text())
    source.write_text(source.read_text().partition(cut)[0])
    stage.keep("odd.secret", ODD)
    account = host.credentials_account(stage.issuer, "probe", stage.issuer.add_client(client_secret=ODD))
    host.configure(
        account.replace("client_secret = ", "client_secret_file = ").replace(
            ODD.replace("%", "%%"), f"{host.root}/odd.secret"
        )
    )
    host.write_config(host.config.read_text() + host.token("t", "probe"))

    program = [sys.executable, str(damaged / "libexec" / RENEWER.name)]
    command = [*host.prefix, *program, "--config", str(host.config), "-v"]
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
def test_the_observer_notices_each_way_to_show_a_secret(
    stage: Stage, shown: str, where: str, form: str
) -> None:
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
