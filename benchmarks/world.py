"""What the rows measure on: the testbed's issuer, hosts with accounts and tokens, and a way to run a program
and learn its cost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, TypeVar

import jwt

from testbed import Client, Issuer
from tests.host import RENEWER, SCOPE, Host, section

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference.sh"
T = TypeVar("T")
TICKS = os.sysconf("SC_CLK_TCK")
# Longer than the slowest reference takes.
LONGEST = 900.0
# What the service runs with. It has nothing but what comes with it; the other one, which has the libraries,
# is slower to start.
SYSTEM_PYTHON = "/usr/bin/python3"
# How many accounts are registered at a time: each of them waits most of its time.
REGISTRARS = 4


class Broken(Exception):
    """Something did not work, so that a figure would mean nothing."""


@dataclass(frozen=True)
class Sizes:
    """How much work each row does."""

    rounds: int
    latency_ms: int
    agent_accounts: int
    agent_tokens: int  # of each account
    credentials_accounts: int
    credentials_tokens: int  # in all
    many: int
    most: int
    accounts_of_many: int
    due: int
    repeats: int  # of a short run, in each round
    timeout: int  # seconds that a dead issuer is waited for
    site: tuple[int, int, int]  # simulated hosts, accounts of each, tokens of each of these


FULL = Sizes(5, 300, 16, 4, 4, 200, 1000, 10_000, 100, 5, 5, 5, (50, 40, 5))
QUICK = Sizes(1, 50, 2, 2, 2, 10, 100, 1000, 10, 5, 1, 1, (2, 10, 2))


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock; seconds of CPU time of the program and all that it started; peak memory of the
    program alone, in bytes."""

    seconds: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Wanted:
    """One token, as the program's configuration and the reference's list say it."""

    name: str
    account: str
    audience: str
    scope: str
    path: Path


class World:
    """Everything is under `directory`, and what was started ends with the context. The parts are made when
    they are first asked for."""

    def __init__(self, directory: Path, sizes: Sizes) -> None:
        self.directory = directory
        self.sizes = sizes
        self.cores = len(os.sched_getaffinity(0))
        self._stack = ExitStack()
        self._made: dict[str, Any] = {}

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._stack.close()

    @cached_property
    def issuer(self) -> Issuer:
        # oidc-gen would sleep for a second before it asks whether the user has approved.
        return self._stack.enter_context(Issuer(self.directory / "issuer", settings={"device_interval": 0}))

    @cached_property
    def clients(self) -> list[Client]:
        """As many as the largest row has accounts."""
        return [self.issuer.add_client() for _ in range(self.sizes.accounts_of_many)]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What more than one row uses, made by the first of them."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def host(self, name: str) -> Host:
        return self._stack.enter_context(Host.made(self.directory / name))

    @cached_property
    def agent_host(self) -> Host:
        """A host with oidc-agent's accounts. They are used by one row after the other, never by two programs
        at a time."""
        host = self.host("agents")
        names = [f"account{number}" for number in range(self.sizes.agent_accounts)]
        over = threading.Event()
        user = threading.Thread(target=_approve_all, args=(self.issuer, over), daemon=True)
        user.start()
        with ThreadPoolExecutor(REGISTRARS) as pool:
            for done in [pool.submit(_register, host, self.issuer, name) for name in names]:
                done.result()
        over.set()
        user.join()
        return host

    @cached_property
    def requests_of_adding(self) -> dict[str, int]:
        """Which requests one oidc-add makes by itself: from 5.1 on, which has --skip-check, none need be
        made."""
        shown = subprocess.run(["oidc-add", "--help"], capture_output=True, text=True, check=False)
        return {} if "--skip-check" in shown.stdout + shown.stderr else {"discovery": 1, "token": 1}

    # running programs

    def renew(self, host: Host, quiet: bool = False, python: str = sys.executable) -> Cost:
        """One run of the program; Broken unless all is well."""
        return self.cost(host, program(host, python), quiet=quiet)

    def reference(self, host: Host, listed: Path) -> Cost:
        return self.cost(host, [str(REFERENCE), str(listed)])

    def cost(self, host: Host, command: Sequence[str], *, quiet: bool = False) -> Cost:
        """`quiet`: what it says goes nowhere, not even to a file."""
        result = host.short / f"cost-{threading.get_ident()}.json"
        log = Path(os.devnull) if quiet else result.with_suffix(".log")
        with open(log, "wb") as output:
            subprocess.run(
                [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(result), *command],
                env=environment(host),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=LONGEST,
                check=True,
            )
        read = json.loads(result.read_text())
        if read["status"] != 0:
            said = "" if quiet else log.read_text()[-2000:]
            raise Broken(f"exit status {read['status']} of {' '.join(command)}\n{said}")
        return Cost(read["seconds"], read["cpu"], read["peak"])

    def issuer_cpu(self) -> float:
        """Seconds of CPU time that the issuer has used (proc(5): utime and stime of all its threads)."""
        fields = Path(f"/proc/{self.issuer.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def busy(self) -> float:
        """Seconds that the cores in use have spent on anything, since the machine started (proc(5): all of a
        line but idle and iowait)."""
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        return (
            sum(int(field) for line in lines if line[0] in names for field in (*line[1:4], *line[6:9]))
            / TICKS
        )


def program(host: Host, python: str = sys.executable) -> list[str]:
    """The renewal program as the service starts it: isolated from the user's environment."""
    return [python, "-I", str(RENEWER), "--config", str(host.config)]


def environment(host: Host) -> dict[str, str]:
    """As the service manager makes it, which has directories for the service."""
    return host.environment({"STATE_DIRECTORY": str(host.state), "RUNTIME_DIRECTORY": str(host.runtime)})


def wanted(host: Host, accounts: Sequence[str], tokens: int, directory: str = "tokens") -> list[Wanted]:
    """`tokens` for each account. No two of an account are the same, so that each needs a request of its
    own."""
    place = host.root / directory
    place.mkdir(mode=0o700, exist_ok=True)
    return [
        Wanted(
            f"{account}.{number}",
            account,
            f"https://service{number}.example.org",
            "compute.read",
            place / f"{account}.{number}.token",
        )
        for account in accounts
        for number in range(tokens)
    ]


def section_of(token: Wanted, **options: object) -> str:
    given = {
        "account": token.account,
        "token_path": token.path,
        "audience": token.audience,
        "scope": token.scope,
    }
    return section(f"token {token.name}", {**given, **options})


def remove(tokens: Iterable[Wanted]) -> None:
    for token in tokens:
        token.path.unlink(missing_ok=True)


def check_published(tokens: Iterable[Wanted]) -> None:
    """Broken unless each token is there, and is for its audience."""
    for token in tokens:
        try:
            claims = jwt.decode(token.path.read_text().strip(), options={"verify_signature": False})
        except (OSError, jwt.InvalidTokenError) as error:
            raise Broken(f"token {token.name}: {error}") from None
        if token.audience not in (claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]):
            raise Broken(f"token {token.name} is for {claims['aud']}, not for {token.audience}")


def check_same(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise Broken(f"{what}: {found} instead of {expected}")


def _register(host: Host, issuer: Issuer, account: str) -> None:
    password = host.root / f"{account}.pw"
    given = [
        "--issuer",
        issuer.url,
        "--ca-file",
        str(issuer.ca_file),
        "--scope",
        SCOPE,
        "--pw-file",
        str(password),
    ]
    done = host.setup(*given, "--create-pw-file", account)
    if done.status != 0:
        raise Broken(f"account {account} cannot be registered: {done.stderr}")


def _approve_all(issuer: Issuer, over: threading.Event) -> None:
    """A user who approves whatever device asks, until all is over."""
    from testbed.user import approve

    seen: set[str] = set()
    while not over.is_set():
        for code in set(issuer.pending_user_codes()) - seen:
            seen.add(code)
            approve(issuer.url + "/device", code, ca_file=issuer.ca_file)
        time.sleep(0.05)


class Arrivals:
    """One run whose lines are timed as they come: when each token had its outcome, in seconds after the
    start."""

    _RENEWED = re.compile(r"token (\S+): renewed")

    def __init__(self, host: Host) -> None:
        self.renewed: dict[str, float] = {}
        self.said: list[str] = []
        pipe = subprocess.PIPE
        started = time.monotonic()
        with subprocess.Popen(
            program(host),
            env=environment(host),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=pipe,
            text=True,
        ) as process:
            assert process.stderr is not None
            try:
                for line in process.stderr:
                    self.said.append(line)
                    found = self._RENEWED.search(line)
                    if found:
                        self.renewed[found[1]] = time.monotonic() - started
            except BaseException:
                process.terminate()
                raise
        self.status = process.returncode
