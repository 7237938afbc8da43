"""A host for one test: a home, token files and a configuration, on which the real programs run as the service
runs them."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from osg_token_renewer.sources.oidc_agent import agent
from testbed import Client, Issuer

ROOT = Path(__file__).resolve().parent.parent
RENEWER = ROOT / "libexec" / "osg-token-renewer"
SETUP = ROOT / "sbin" / "osg-token-renewer-setup"
SCOPE = "openid offline_access compute.read compute.create storage.read:/"

# Seconds that a test waits for a program at most, even on a slow machine.
LONGEST = 300.0
# Seconds of a wait that no test sees the end of.
NEVER = 10 * LONGEST


@dataclass(frozen=True)
class Result:
    """What a program's run left: its exit status and its output."""

    status: int
    stdout: str
    stderr: str

    def line(self, beginning: str) -> str:
        """The only line of both outputs that begins so."""
        found = [line for line in (self.stdout + self.stderr).splitlines() if line.startswith(beginning)]
        assert len(found) == 1, f"{len(found)} lines begin with {beginning!r} in:\n{self.stdout}{self.stderr}"
        return found[0]


class Host:
    """All files are under `root`, except sockets: their paths must be short, so they are under `short`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.tokens = root / "tokens"
        self.state = root / "state"
        self.config = root / "etc" / "config.ini"
        self.short = Path(tempfile.mkdtemp(prefix="otr-"))
        self.runtime = self.short / "run"
        # The first directory of PATH on this host.
        self.bin = root / "bin"
        # A command that starts the programs, such as strace with its options.
        self.prefix: Sequence[str] = ()
        # The client id of each account that was registered for this host.
        self.client_ids: dict[str, str] = {}
        for directory in (self.home, self.tokens, self.state, self.runtime, self.bin, self.config.parent):
            directory.mkdir(mode=0o700, parents=True)

    @classmethod
    @contextmanager
    def made(cls, root: Path) -> Iterator[Host]:
        host = cls(root)
        try:
            yield host
        finally:
            host.remove()

    def remove(self) -> None:
        shutil.rmtree(self.short, ignore_errors=True)

    # configuration

    def configure(self, text: str, workers: int = 0, **values: object) -> None:
        """Writes config.ini: `text` with `{host.…}` and values filled in, and a [renewer] section with this
        host's directories."""
        renewer = f"\n[renewer]\nstate_dir = {self.state}\nruntime_dir = {self.runtime}\n" + (
            f"workers = {workers}\n" if workers else ""
        )
        self.write_config(text.format(host=self, **values) + ("" if "[renewer]" in text else renewer))

    def write_config(self, text: str) -> None:
        self.config.write_text(text)
        self.config.chmod(0o600)

    def secret(self, name: str, content: str) -> Path:
        """Writes a file that only its owner can read."""
        path = self.root / name
        path.touch(mode=0o600)
        path.write_text(content)
        return path

    def credentials_account(self, issuer: Issuer, name: str, client: Client, **options: str) -> str:
        """An [account] section for client credentials; `options` replace and add options."""
        given: dict[str, Any] = {
            "token_request_url": f"{issuer.url}/token",
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "ca_file": issuer.ca_file,
            **options,
        }
        return section(f"account {name}", given)

    def token(self, name: str, account: str, **options: object) -> str:
        """A [token] section; its file is `name` in the host's directory of tokens."""
        return section(f"token {name}", {"account": account, "token_path": self.tokens / name, **options})

    # accounts

    def register(self, issuer: Issuer, account: str, scope: str = SCOPE, **options: object) -> str:
        """Registers an oidc-agent account with the setup program and the scripted user; returns its [account]
        section, with `options` added."""
        pw_file = self.root / f"{account}.pw"
        approval = threading.Thread(target=issuer.approve_next, daemon=True)
        approval.start()
        done = self.setup(
            *issuer_options(issuer, scope), "--pw-file", str(pw_file), "--create-pw-file", account
        )
        approval.join()
        assert done.status == 0, done.stderr
        self.client_ids[account] = issuer.client_id(account)
        return section(f"account {account}", {"password_file": pw_file, **options})

    def adopt(self, other: Host, account: str, **options: object) -> str:
        """Copies an account and its password file from another host; returns its [account] section, with
        `options` added.

        Both hosts then have the same refresh token. Do not use it with an issuer that rotates, nor in a test
        that ends the account's grant.
        """
        pw_file = self.root / f"{account}.pw"
        self.client_ids[account] = other.client_ids[account]
        self.account_file(account).parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(other.account_file(account), self.account_file(account))
        shutil.copy(other.root / f"{account}.pw", pw_file)
        return section(f"account {account}", {"password_file": pw_file, **options})

    def account_file(self, account: str) -> Path:
        return self.home / ".oidc-agent" / account

    # programs

    def program(self, name: str, script: str) -> Path:
        """Puts a shell script on PATH before the real program of that name."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return path

    def run(
        self, *arguments: str, env: Optional[Mapping[str, str]] = None, timeout: float = LONGEST
    ) -> Result:
        """Runs the renewal program with this host's configuration to its end."""
        return self._run([*self.prefix, *self.renewer(*arguments)], env or {}, timeout)

    def renewer(self, *arguments: str) -> list[str]:
        """The command line of the renewal program with this host's configuration."""
        return [sys.executable, str(RENEWER), "--config", str(self.config), *arguments]

    def setup(
        self, *arguments: str, env: Optional[Mapping[str, str]] = None, timeout: float = LONGEST
    ) -> Result:
        """Runs the setup program, for this user and with this host's configuration, to its end."""
        return self._run([*self.prefix, *self.registrar(*arguments)], env or {}, timeout)

    def registrar(self, *arguments: str) -> list[str]:
        """The command line of the setup program, for this user and this host's configuration."""
        given = ["--service-user", getpass.getuser(), "--config", str(self.config)]
        return [sys.executable, str(SETUP), *given, *arguments]

    def start(self, *arguments: str, env: Optional[Mapping[str, str]] = None) -> subprocess.Popen[str]:
        """Starts the renewal program; the test ends it."""
        return self.popen([*self.prefix, *self.renewer(*arguments)], env or {})

    def popen(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Starts a command in this host's environment, with pipes for both outputs."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment(env), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.short),
            **extra,
        }

    def _run(self, command: list[str], env: Mapping[str, str], timeout: float) -> Result:
        done = subprocess.run(
            command,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    # after a run

    def read(self, token: str) -> str:
        return (self.tokens / token).read_text()

    def status(self) -> dict[str, Any]:
        """What `status --json` says about each token, by name."""
        return {one["name"]: one for one in json.loads(self.run("status", "--json").stdout)["tokens"]}

    def leftovers(self) -> list[str]:
        """The processes, sockets and temporary files that programs of this host left behind."""
        files = [path for path in _below(self.short) if os.path.basename(path) not in ("run", "lock")]
        files += [path for path in _below(self.tokens) if path.endswith(".tmp")]
        return files + processes_of(self.home)


def _below(directory: Path) -> list[str]:
    """The paths of all files and directories below a directory. It may change meanwhile."""
    return [
        os.path.join(place, name)
        for place, directories, files in os.walk(directory)
        for name in directories + files
    ]


def waits_for_the_lock(host: Host) -> subprocess.Popen[str]:
    """Starts a run that waits for the run lock, which the caller holds, for longer than any test lasts."""
    patient = (
        "import sys; from osg_token_renewer import cli; from osg_token_renewer.engine import run; "
        f"run.LOCK_WAIT = {NEVER}; sys.exit(cli.main())"
    )
    run = host.popen([sys.executable, "-c", patient, *host.renewer()[2:]], {"PYTHONPATH": str(ROOT)})
    until(lambda: has_open(run.pid, host.state / "lock"))
    return run


def issuer_options(issuer: Issuer, scope: str = "") -> list[str]:
    """What the setup program must know of an issuer, and the scopes to register, if there are any."""
    where = ["--issuer", issuer.url, "--ca-file", str(issuer.ca_file)]
    return [*where, "--scope", scope] if scope else where


def succeed(command: Sequence[str], cwd: Path, env: Mapping[str, str], longest: float = LONGEST) -> str:
    """Runs a program that must succeed; returns what it prints."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=longest,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def stop(run: subprocess.Popen[str], number: int) -> str:
    """Sends a run the signal; returns the line with which it answers, which must be its first line."""
    assert run.stderr is not None
    run.send_signal(number)
    return run.stderr.readline()


def spare_adding(issuer: Issuer) -> int:
    """Shields the requests that oidc-add makes by itself from later faults; returns how many tokens it asks
    for."""
    if agent.offers("oidc-add", "--skip-check"):
        return 0
    issuer.fault(endpoint="token", times=1)
    return 1


def without_roots_privileges() -> list[str]:
    """A prefix for a command: even as root the command is then subject to file permissions, as the service
    is."""
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds; fails the test if it never does."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of loopback on which nobody listens. It is taken, so that nobody can start to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def section(title: str, options: Mapping[str, object]) -> str:
    """An INI section. It doubles the percent signs of values, as the configuration's interpolation wants."""
    lines = "".join(f"{name} = {str(value).replace('%', '%%')}\n" for name, value in options.items())
    return f"[{title}]\n{lines}\n"


def processes_of(home: Path) -> list[str]:
    """The command lines of all processes with this $HOME."""
    return processes_with(f"HOME={home}")


def processes_with(setting: str) -> list[str]:
    """The command lines of all processes with NAME=VALUE in their environment."""
    return [command for _, command in _processes(setting)]


def pids_of(home: Path, program: str) -> list[int]:
    """The ids of a program's processes with this $HOME."""
    return [pid for pid, command in _processes(f"HOME={home}") if program in command]


def alive(pid: int) -> bool:
    """Whether a process runs. A process that ended and was not waited for yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open now."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(entry) == str(path):
                return True
    return False


def _processes(setting: str) -> Iterator[tuple[int, str]]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if setting.encode() in (directory / "environ").read_bytes().split(b"\0"):
                yield (
                    int(directory.name),
                    (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
                )
        except OSError:
            continue
