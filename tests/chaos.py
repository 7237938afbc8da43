"""Faults at random moments, again and again: what was lost, leaked or torn is counted. `make chaos` runs the
long versions.

Each trial is a function of the number of its tries that returns its figures; a short run of each is in
tests/e2e/test_chaos.py."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jwt

from testbed import Issuer
from tests.faults import apart
from tests.host import LONGEST, ROOT, Host, processes_of, until


@dataclass
class Figures:
    """`faults`: how many were really made; `lost`: accounts that renew no more; `leaked`: processes, sockets
    and files that stayed; `torn`: token files that hold something else than one whole token."""

    tries: int = 0
    faults: int = 0
    lost: int = 0
    leaked: int = 0
    torn: int = 0

    @property
    def well(self) -> bool:
        return self.lost == self.leaked == self.torn == 0

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))


ACCOUNTS = ("first", "second")
TOKENS = ("one", "two")


@contextmanager
def rotating(root: Path) -> Iterator[tuple[Issuer, Host]]:
    """A host with accounts whose refresh tokens are of one use, and tokens that are due in every run."""
    with Issuer(root / "issuer", settings={"device_interval": 0}) as issuer, Host.made(root / "host") as host:
        accounts = "".join(host.register(issuer, account) for account in ACCOUNTS)
        issuer.settings(rotate=True, latency_ms=50)
        issuer.reset_counts()
        host.configure(
            accounts
            + "".join(
                host.token(f"{account}-{name}", account, audience=name)
                for account in ACCOUNTS
                for name in TOKENS
            )
        )
        yield issuer, host


def torn(issuer: Issuer, host: Host) -> int:
    """How many token files are not one whole token of this issuer and a newline."""
    bad = 0
    for path in host.tokens.iterdir():
        if path.suffix == ".tmp":
            continue
        text = path.read_text()
        try:
            issuer.verify(text[:-1])
            bad += text[-1] != "\n"
        except (jwt.InvalidTokenError, IndexError):
            bad += 1
    return bad


def leaked(host: Host) -> int:
    """How many processes, sockets and files are there that should not be, when no run is at work."""
    until(lambda: not processes_of(host.home))
    places = (host.account_file(ACCOUNTS[0]).parent, host.state / "accounts")
    strange = [
        path
        for place in places
        for path in place.iterdir()
        if path.name.startswith(".") or path.suffix in (".new", ".newer")
    ]
    return len(host.leftovers()) + len(strange)


def duration(host: Host) -> float:
    """Seconds that an undisturbed run takes."""
    started = time.monotonic()
    assert host.run().status == 0
    return time.monotonic() - started


class Moments:
    """Random points of a run. How long one takes is learned from those that come to their end before: the
    first may have been slow."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._usual = duration(host)

    def run(self) -> subprocess.Popen[str]:
        """A run that has come to a random point."""
        started = time.monotonic()
        run = self._host.start()
        with suppress(subprocess.TimeoutExpired):
            run.wait(random.uniform(0, self._usual))
            self._usual = min(self._usual, time.monotonic() - started)
        return run


def killed(tries: int, root: Path) -> Figures:
    """The program is killed at random moments of runs with an issuer that rotates; each run begins at once
    after the one before. What a killed run leaves must be gone after the next one that comes to its end."""
    figures = Figures()
    with rotating(root) as (issuer, host):
        moments = Moments(host)
        for number in range(tries):
            figures.tries += 1
            run = moments.run()
            figures.faults += run.poll() is None
            run.send_signal(signal.SIGKILL)
            run.communicate()
            figures.torn += torn(issuer, host)
            if number % 10 == 9 or number == tries - 1:
                done = host.run()
                figures.lost += done.status != 0
                if done.status != 0:
                    sys.stderr.write(done.stderr)
                    return figures
                figures.leaked += leaked(host)
        figures.torn += torn(issuer, host)
    return figures


def filled(tries: int, root: Path) -> Figures:
    """The file system with the account files is full from a random moment of a rotating run on; what is freed
    is taken again at once."""
    figures = Figures()
    with rotating(root) as (issuer, host):
        accounts = host.account_file("first").parent
        outside = root / "accounts"
        shutil.copytree(accounts, outside)

        def body() -> None:
            shutil.copytree(outside, accounts, dirs_exist_ok=True)
            moments = Moments(host)
            for _ in range(tries):
                figures.tries += 1
                run = moments.run()
                with full(accounts) as took:
                    said = run.communicate()[1]
                figures.faults += took()
                figures.torn += torn(issuer, host)
                done = host.run()
                figures.lost += done.status != 0
                if done.status != 0:
                    sys.stderr.write(f"{said}---\n{done.stderr}")
                    break
                figures.leaked += leaked(host)
            figures.torn += torn(issuer, host)
            (root / "figures").write_text(json.dumps(asdict(figures)))

        apart(body, tmpfs={accounts: "mode=700,size=256k"}, longest=LONGEST * (1 + tries))
        return Figures(**json.loads((root / "figures").read_text()))


TOGETHER = 20


def together(tries: int, root: Path) -> Figures:
    """Twenty runs start at once, as a timer, cron, a daemon and a person might, and one of them is killed:
    each of the others renews, finds fresh what another has renewed, or leaves with a clear message."""
    figures = Figures()
    with rotating(root) as (issuer, host):
        host.write_config(host.config.read_text().replace("audience", "min_lifetime = 60\naudience"))
        for _ in range(tries):
            figures.tries += 1
            for path in host.tokens.iterdir():
                path.unlink()
            runs = [host.start() for _ in range(TOGETHER)]
            until(lambda: (host.state / "lock").exists())
            victim = random.choice([run for run in runs if run.poll() is None] or runs)
            figures.faults += victim.poll() is None
            victim.send_signal(signal.SIGKILL)
            for run in runs:
                said = run.communicate()[1]
                well = (
                    run.returncode == 0
                    or (run.returncode == 1 and "another run is at work" in said)
                    or run is victim
                )
                figures.lost += not well
                if not well:
                    sys.stderr.write(said)
            figures.lost += host.run().status != 0
            figures.torn += torn(issuer, host)
            figures.leaked += leaked(host)
        # No account was ever open twice.
        figures.lost += issuer.counts().max_in_flight > len(ACCOUNTS)
    return figures


# What an issuer may answer, or not answer, before it has acted on a request: nothing of it may cost an
# account.
FAULTS: Sequence[Mapping[str, object]] = (
    {"status": 502},
    {"status": 503, "headers": {"Retry-After": "1"}},
    {"status": 504, "body": "<html>upstream</html>"},
    {"status": 429, "headers": {"Retry-After": "2"}},
    {"status": 500, "body": ""},
    {"status": 200, "body": "garbage"},
    {"drop": True},
)


def failing(tries: int, root: Path) -> Figures:
    """The issuer fails in all ways, on any endpoint, also by being away; once it is well again, each account
    renews."""
    figures = Figures()
    with rotating(root) as (issuer, host):
        for _ in range(tries):
            figures.tries += 1
            for _ in range(random.randint(1, 4)):
                issuer.fault(
                    endpoint=random.choice(("discovery", "token", "*")),
                    times=random.randint(1, 3),
                    **random.choice(FAULTS),
                )
            before = issuer.counts().total
            away = random.random() < 0.3
            if away:
                issuer.pause()
            run = host.start()
            if away:
                time.sleep(random.uniform(0, 2))
                issuer.resume()
            said = run.communicate()[1]
            figures.faults += away or issuer.counts().total > before
            issuer.clear_faults()
            done = host.run()
            figures.lost += done.status != 0
            if done.status != 0:
                sys.stderr.write(f"{said}---\n{done.stderr}")
                break
            figures.torn += torn(issuer, host)
            figures.leaked += leaked(host)
    return figures


def fuzzed(tries: int, _root: Path) -> Figures:
    """Any input: property tests, with so many cases in all, new ones each time. What has no clear answer
    counts as lost."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:logging",
        "tests/properties",
        "--hypothesis-profile=long",
    ]
    environment = {**os.environ, "FUZZ_CASES": str(tries)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = re.search(
        r"any input: \d+ properties, (\d+) answers, (\d+) properties that do not hold", done.stdout
    )
    if done.returncode or found is None:
        sys.stderr.write(done.stdout)
        return Figures(tries, tries, lost=1)
    return Figures(int(found[1]), int(found[1]), lost=int(found[2]))


@contextmanager
def full(directory: Path) -> Iterator[Callable[[], bool]]:
    """Fills a file system and keeps it full; tells whether that was so."""
    filler = subprocess.Popen(
        [sys.executable, "-c", FILLER, str(directory / "issuer.config.filler")], stdout=subprocess.PIPE
    )
    assert filler.stdout is not None
    try:
        filler.stdout.readline()
        yield lambda: filler.returncode == -signal.SIGTERM
    finally:
        filler.terminate()
        filler.wait()
        filler.stdout.close()
        (directory / "issuer.config.filler").unlink()


FILLER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
said = False
while True:
    try:
        os.write(file, bytes(4096))
    except OSError:
        if not said:
            os.write(1, b"full\\n")
        said = True
"""


TRIALS: Mapping[str, tuple[Callable[[int, Path], Figures], int]] = {
    "killed": (killed, 300),
    "filled": (filled, 100),
    "failing": (failing, 100),
    "together": (together, 20),
    "fuzzed": (fuzzed, 100_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"{', '.join(TRIALS)} (default: all)")
    parser.add_argument("--tries", type=int, help="instead of the usual number")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    args = parser.parse_args()
    random.seed(args.seed)
    well = True
    for name in args.trials or TRIALS:
        trial, tries = TRIALS[name]
        with tempfile.TemporaryDirectory(prefix="chaos-") as root:
            figures = trial(args.tries or tries, Path(root))
        print(f"{name}: {figures} (seed {args.seed})", flush=True)
        well = well and figures.well
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
