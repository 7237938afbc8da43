"""What the rows measure on: the testbed's issuer, hosts, the programs, and what a run of one costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, TypeVar

from testbed import Client, Issuer, approve
from tests.host import RENEWER, ROOT, SCOPE, Host

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference.sh"
T = TypeVar("T")
TICKS = os.sysconf("SC_CLK_TCK")
# Longer than the slowest reference takes.
LONGEST = 900.0
# The service runs with this one. It has no libraries and starts faster than the virtual environment's.
SYSTEM_PYTHON = "/usr/bin/python3"
# Accounts that are registered at the same time: each registration mostly waits.
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
    site: tuple[int, int, int]  # simulated hosts, accounts of each host, tokens of each account


FULL = Sizes(5, 300, 16, 4, 4, 200, 1000, 10_000, 100, 5, 5, 5, (50, 40, 5))
QUICK = Sizes(1, 50, 2, 2, 2, 10, 100, 1000, 10, 5, 1, 1, (2, 10, 2))


@dataclass(frozen=True)
class Cost:
    """What a program took: elapsed seconds; CPU seconds of it and all that it started; its own peak memory
    in bytes."""

    seconds: float
    cpu: float
    peak: int


class World:
    """Keeps everything under `directory` and ends what it started when the context ends. It makes each part
    when somebody first asks for it. With `against`, another checkout, it can run that checkout's program
    too."""

    def __init__(self, directory: Path, sizes: Sizes, against: Optional[Path] = None) -> None:
        self.directory = directory
        self.sizes = sizes
        self.against = against
        self.cores = len(os.sched_getaffinity(0))
        self._checkout = ROOT
        self._stack = ExitStack()
        self._made: dict[str, Any] = {}

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @cached_property
    def issuer(self) -> Issuer:
        # oidc-gen would sleep for a second before it asks whether the user has approved.
        return self._stack.enter_context(Issuer(self.directory / "issuer", settings={"device_interval": 0}))

    @cached_property
    def clients(self) -> list[Client]:
        """One client for each account of the largest row."""
        return [self.issuer.add_client() for _ in range(self.sizes.accounts_of_many)]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Something that several rows use; the first of them makes it."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def host(self, name: str) -> Host:
        return self._stack.enter_context(Host.made(self.directory / name))

    @cached_property
    def agent_host(self) -> Host:
        """A host with the accounts of oidc-agent. Rows and programs use it one after the other."""
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
        """The requests that one oidc-add makes by itself, by endpoint. --skip-check, new in 5.1, avoids
        them."""
        shown = subprocess.run(["oidc-add", "--help"], capture_output=True, text=True, check=False)
        return {} if "--skip-check" in shown.stdout + shown.stderr else {"discovery": 1, "token": 1}

    # running programs

    @contextmanager
    def checked_out(self, checkout: Path) -> Iterator[None]:
        """Within the context, `program` is the one of this checkout."""
        before, self._checkout = self._checkout, checkout
        try:
            yield
        finally:
            self._checkout = before

    def program(self, host: Host, python: str = sys.executable) -> list[str]:
        """The command line of the renewal program as the service starts it: isolated from the user's
        environment."""
        # Both sides of a comparison keep byte code here, so that nothing is written to the other checkout.
        cached = ["-X", f"pycache_prefix={self.directory}/bytecode"] if self.against else []
        renewer = self._checkout / RENEWER.relative_to(ROOT)
        return [python, "-I", *cached, str(renewer), "--config", str(host.config)]

    def environment(self, host: Host) -> dict[str, str]:
        """The environment as the service manager makes it, with the service's directories."""
        return host.environment(
            {"STATE_DIRECTORY": str(self._state(host)), "RUNTIME_DIRECTORY": str(host.runtime)}
        )

    def _state(self, host: Host) -> Path:
        """The other checkout's program has a copy of its own, since its history may have another form."""
        if self._checkout == ROOT:
            return host.state
        theirs = host.root / "their-state"
        if not theirs.exists():
            shutil.copytree(host.state, theirs)
        return theirs

    def renew(self, host: Host, quiet: bool = False, python: str = sys.executable) -> Cost:
        """Runs the program once; raises Broken unless it succeeds."""
        return self.cost(host, self.program(host, python), quiet=quiet)

    def reference(self, host: Host, listed: Path) -> Cost:
        return self.cost(host, [str(REFERENCE), str(listed)])

    def cost(self, host: Host, command: Sequence[str], *, quiet: bool = False) -> Cost:
        """Runs a command; raises Broken unless it succeeds. `quiet`: its output goes nowhere, not even to a
        file."""
        result = host.short / f"cost-{threading.get_ident()}.json"
        log = Path(os.devnull) if quiet else result.with_suffix(".log")
        with open(log, "wb") as output:
            subprocess.run(
                [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(result), *command],
                env=self.environment(host),
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
        """CPU seconds that the issuer has used (proc(5): utime and stime of all its threads)."""
        fields = Path(f"/proc/{self.issuer.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def busy(self) -> float:
        """Seconds that the cores in use have been busy since the machine started (proc(5): every field of a
        cpu line except idle, iowait and guest times)."""
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        counted = [field for line in lines if line[0] in names for field in (*line[1:4], *line[6:9])]
        return sum(map(int, counted)) / TICKS


def check_same(what: str, found: int, expected: int) -> None:
    """Raises Broken unless both numbers are the same."""
    if found != expected:
        raise Broken(f"{what}: {found} instead of {expected}")


def _register(host: Host, issuer: Issuer, account: str) -> None:
    given = ["--issuer", issuer.url, "--ca-file", str(issuer.ca_file), "--scope", SCOPE]
    done = host.setup(*given, "--pw-file", str(host.root / f"{account}.pw"), "--create-pw-file", account)
    if done.status != 0:
        raise Broken(f"account {account} cannot be registered: {done.stderr}")


def _approve_all(issuer: Issuer, over: threading.Event) -> None:
    """A user who approves every device's request until `over` is set."""
    seen: set[str] = set()
    while not over.is_set():
        for code in set(issuer.pending_user_codes()) - seen:
            seen.add(code)
            approve(issuer.url + "/device", code, ca_file=issuer.ca_file)
        time.sleep(0.05)
