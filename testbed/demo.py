"""`make demo`: shows what a host with this program does, from registration to the second run, with a real
issuer on loopback.

It writes everything to demo/ in the checkout, and stops everything that it started.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from testbed.issuer import Issuer

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
RENEWER = ROOT / "libexec" / "osg-token-renewer"
SETUP = ROOT / "sbin" / "osg-token-renewer-setup"

CONFIG = """\
{accounts}
[token ce]
account = robot
token_path = {tokens}/robot.ce.token
audience = ce.example.org:9619
scope = compute.read compute.create
min_lifetime = 1800

[token storage]
account = robot
token_path = {tokens}/robot.storage.token
scope = storage.read:/
min_lifetime = 1800

[token monitoring]
account = probe
token_path = {tokens}/probe.monitoring.token
audience = https://monitoring.example.org
scope = compute.read
min_lifetime = 1800
mode = 0600

[renewer]
state_dir = {state}
runtime_dir = {runtime}
"""


def main() -> int:
    shutil.rmtree(DEMO, ignore_errors=True)
    for name in ("home", "tokens", "state", "run", "tmp"):
        (DEMO / name).mkdir(parents=True, mode=0o700)
    with Issuer(DEMO / "issuer") as issuer:
        accounts = _register(issuer)
        config = DEMO / "config.ini"
        text = CONFIG.format(
            accounts="\n".join(accounts), tokens=DEMO / "tokens", state=DEMO / "state", runtime=DEMO / "run"
        )
        config.write_text(text)
        config.chmod(0o600)
        _say("This is the resulting configuration (demo/config.ini)")
        print(text)
        _say("Check it, and renew what is due: the first time that is everything")
        issuer.reset_counts()
        status = _run(RENEWER, "--config", config, "check") or _run(RENEWER, "--config", config, "renew")
        asked = issuer.counts().token
        _say("Show the state of the tokens")
        status = _run(RENEWER, "--config", config, "status") or status
        _say("Verify the signature of one token with the issuer's public key, and show its claims")
        token = (DEMO / "tokens" / "robot.ce.token").read_text().strip()
        print(json.dumps(issuer.verify(token), indent=2))
        _say("Run again: fresh tokens are left alone")
        issuer.reset_counts()
        status = _run(RENEWER, "--config", config, "renew") or status
        again = issuer.counts().total
        print(f"requests for tokens in the first run: {asked}; requests of any kind in the second: {again}")
    _say("The issuer has stopped; all files are in demo/")
    return status or int(again != 0)


def _register(issuer: Issuer) -> list[str]:
    """Registers two accounts through the setup program; returns their sections as it printed them."""
    user = pwd.getpwuid(os.getuid()).pw_name
    common = ["--config", DEMO / "config.ini", "--service-user", user]
    common += ["--issuer", issuer.url, "--ca-file", issuer.ca_file]
    _say("Register an account with the device flow; a scripted user logs in and approves")
    approval = threading.Thread(target=issuer.approve_next, daemon=True)
    approval.start()
    pw_file = ["--pw-file", DEMO / "tokens" / "robot.pw", "--create-pw-file"]
    scope = "openid offline_access compute.read compute.create storage.read:/"
    robot = _output(SETUP, *common, "--scope", scope, *pw_file, "robot")
    _say("Register an account with a client id and a client secret")
    client = issuer.add_client(client_id="probe", client_secret="not-a-real-secret")
    secret = DEMO / "tokens" / "probe.secret"
    secret.touch(mode=0o600)
    secret.write_text(f"{client.client_secret}\n")
    given = ["--client-credentials", "--client-id", client.client_id, "--client-secret-file", secret]
    probe = _output(SETUP, *common, *given, "probe")
    return [_section(printed) for printed in (robot, probe)]


def _section(printed: str) -> str:
    """The [account] section in what the setup program printed."""
    lines = printed.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("[account "))
    return "\n".join(lines[start : lines.index("", start)]) + "\n"


def _environment() -> dict[str, str]:
    """Keeps the programs within demo/. Only sockets are in /tmp if the path of demo/ is too long for them."""
    temporary = str(DEMO / "tmp")
    return {**os.environ, "HOME": str(DEMO / "home"), "TMPDIR": temporary if len(temporary) < 60 else "/tmp"}


def _run(program: Path, *arguments: object) -> int:
    """Runs a program; returns its exit status."""
    command = _command(program, arguments)
    return subprocess.run(command, env=_environment(), check=False).returncode


def _output(program: Path, *arguments: object) -> str:
    """Runs a program, shows what it prints, and returns it."""
    printed = []
    with subprocess.Popen(
        _command(program, arguments),
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    return "".join(printed)


def _command(program: Path, arguments: tuple[object, ...]) -> list[str]:
    words = [str(argument) for argument in arguments]
    print("$", shlex.join([program.name, *words]).replace(f"{ROOT}/", ""), flush=True)
    return [sys.executable, str(program), *words]


def _say(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
