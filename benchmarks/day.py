"""The row `day`: a simulated day of a large site, without and with `spread`. What do its issuers see, and how
much lifetime do its tokens have left?

All hosts obtain their first tokens within the same three minutes, as if a configuration management had set
them up, and each has the service's timer. The planner, the lanes, the file sink and the token files (in
memory, tmpfs) are real. The source and the time are simulated; each lane has a time of its own. The lock, the
history and the reading of unchanged files are left out, because they would take most of the time. Hosts share
nothing but the issuers, so each host is simulated by itself.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, repeat
from statistics import mean
from typing import Any, NamedTuple, Optional
from unittest import mock

from benchmarks.figures import Figure, Goal, Result
from benchmarks.world import Broken, World, check_same
from osg_token_renewer.engine import planner, workers
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.model import Account, Outcome, Secret, State, TokenRecord, TokenSpec
from osg_token_renewer.options import Option
from osg_token_renewer.sinks.file import FileSink
from osg_token_renewer.sources.base import Context, Fetch, Fetched, Source
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system.signals import Stop
from osg_token_renewer.text import duration
from tests.specs import file_token

HOUR, DAY = 3600, 86400
START = 20_000 * DAY
# Four intervals of the timer.
SPREAD = HOUR
# systemd/osg-token-renewer.timer
INTERVAL = 900
DELAY = 180
# The cores of a host; the seconds that one of them needs to open an account (oidc-agent derives a key); the
# seconds of a request.
CORES = 4
OPENING = 0.35
LATENCY = 0.3
# As long as an RS256 signature.
SIGNATURE = "A" * 342


class Kind(NamedTuple):
    """The lifetime of an issuer's tokens and the `min_lifetime` that the site wants of them, in seconds."""

    lifetime: int
    min_lifetime: int


# One for each issuer. The first issuer's tokens live hardly longer than an interval of the timer, so that
# they are due in every run.
ISSUERS = (
    Kind(1200, 1000),
    *[Kind(HOUR, 1800)] * 3,
    *[Kind(6 * HOUR, HOUR)] * 3,
    *[Kind(24 * HOUR, 4 * HOUR)] * 3,
)


class Request(NamedTuple):
    """`left`: seconds of lifetime that the replaced token had when the answer came; None for the first
    token."""

    issuer: int
    begin: float
    end: float
    left: Optional[float]


class Seen(NamedTuple):
    requests: Sequence[Request]
    sessions: int  # how often an account was opened


class Host(NamedTuple):
    name: str
    accounts: int
    tokens: int  # of each account
    spread: int


class Clock(threading.local):
    """Stands in for time.time. Each lane is a thread and has a time of its own, which starts with the run."""

    # All threads share it.
    began = 0.0

    def __init__(self) -> None:
        self.now = Clock.began

    def __call__(self) -> float:
        return self.now

    def begin(self, now: float) -> None:
        self.now = Clock.began = now


class Simulated(Source):
    """Accounts that take as long to open as oidc-agent's, and issuers that sign nothing and never fail."""

    NAME = MARKER = "simulated"
    OPTIONS: tuple[Option, ...] = ()
    OVERLAPS = False

    def __init__(self, clock: Clock) -> None:
        self.requests: list[Request] = []
        self.sessions = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._cores_free = [0.0] * CORES
        self._expiries: dict[str, int] = {}

    def settings(self, values: Mapping[str, Any]) -> Any:
        return values

    def issuer(self, account: Account, known: Optional[str]) -> str:  # noqa: ARG002
        return f"https://issuer{account.settings}.example.org"

    @contextmanager
    def session(self, account: Account, context: Context) -> Iterator[Fetch]:
        with self._lock:
            self.sessions += 1
            core = self._cores_free.index(min(self._cores_free))
            self._clock.now = self._cores_free[core] = max(self._clock.now, self._cores_free[core]) + OPENING

        def fetch(spec: TokenSpec) -> Fetched:
            with context.begin(0.0):
                return self._answer(account, spec)

        yield fetch

    def _answer(self, account: Account, spec: TokenSpec) -> Fetched:
        asked = self._clock.now
        now = self._clock.now = asked + LATENCY
        before, expires_at = self._expiries.get(spec.name), int(now) + ISSUERS[account.settings].lifetime
        self._expiries[spec.name] = expires_at
        self.requests.append(Request(account.settings, asked, now, None if before is None else before - now))
        claims = {
            "wlcg.ver": "1.0",
            "sub": account.name,
            "aud": spec.audience[0],
            "scope": " ".join(spec.scope),
            "iss": self.issuer(account, None),
            "jti": f"{spec.name} {now}",
            "nbf": int(now),
            "iat": int(now),
            "exp": expires_at,
        }
        parts = (
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "RS256"}, claims)
        )
        return Fetched(Secret(".".join((*parts, SIGNATURE))), clock_ahead=0.0)


def simulated(host: Host, where: str) -> Seen:
    """The day of one host, with a first run that finds no token. It replaces time.time, so it must have a
    process of its own."""
    clock = Clock()
    source = Simulated(clock)
    sources = {source.NAME: source}
    with (
        tempfile.TemporaryDirectory(prefix=f"{host.name}-", dir=where) as directory,
        mock.patch("time.time", clock),
        mock.patch.dict(SOURCES, sources),
    ):
        accounts = {
            f"account{n}": Account(f"account{n}", source.NAME, n % len(ISSUERS)) for n in range(host.accounts)
        }
        specs = [_spec(account, n, directory) for account in accounts.values() for n in range(host.tokens)]
        published = {spec.name: FileSink().read(spec) for spec in specs}
        records: dict[str, TokenRecord] = {}
        delays = random.Random(host.name)
        for tick in range(1 + DAY // INTERVAL):
            clock.begin(START + tick * INTERVAL + delays.uniform(0, DELAY))
            due = [
                spec
                for spec in specs
                if planner.decide(
                    spec, published[spec.name], records.get(spec.name), clock.now, spread=host.spread
                ).due
            ]
            where_to = Context(directory, directory)
            outcomes = list(
                workers.run_lanes(due, accounts, context=where_to, limits=Limits(600.0, Stop().requested))
            )
            ended = max((request.end for request in source.requests[-len(due) :]), default=clock.now)
            for outcome in outcomes:
                published[outcome.spec.name] = FileSink().read(outcome.spec)
                records[outcome.spec.name] = _record(outcome, ended)
    return Seen(source.requests, source.sessions)


def _spec(account: Account, n: int, directory: str) -> TokenSpec:
    name, (_, min_lifetime) = f"{account.name}.{n}", ISSUERS[account.settings]
    return file_token(
        name,
        account.name,
        f"{directory}/{name}",
        (f"https://service{n}.example.org",),
        ("compute.read",),
        min_lifetime,
    )


def _record(outcome: Outcome, now: float) -> TokenRecord:
    """The record that the history would have of it."""
    if outcome.state is not State.RENEWED:
        raise Broken(f"token {outcome.spec.name}: {outcome.message}")
    return TokenRecord(
        outcome.spec.name,
        outcome.fingerprint,
        outcome.spec.asked,
        expires_at=outcome.expires_at,
        obtained_at=now,
    )


class Load(NamedTuple):
    """What an issuer sees in the day after the first run, and the shortest lifetime in seconds that one of
    its tokens had left."""

    hourly: Sequence[int]
    minute: int  # the most requests that begin in one minute
    in_flight: int  # the most at the same time
    left: float

    def __str__(self) -> str:
        hour = f"{min(self.hourly):6} {mean(self.hourly):6.0f} {max(self.hourly):6}"
        return f"{hour}  {self.minute:9}  {self.in_flight:9}  {duration(self.left):>13}"


def load(requests: Sequence[Request]) -> Load:
    hours = Counter(int(each.begin - START - INTERVAL) // HOUR for each in requests)
    minutes = Counter(int(each.begin) // 60 for each in requests)
    changes = sorted([*((each.begin, 1) for each in requests), *((each.end, -1) for each in requests)])
    in_flight = max(accumulate(change for _, change in changes))
    left = min(each.left for each in requests if each.left is not None)
    return Load([hours[hour] for hour in range(DAY // HOUR)], max(minutes.values()), in_flight, left)


class Day:
    """What all hosts together asked. Raises Broken if a token had too little lifetime left."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        requests = [each for one in seen for each in one.requests]
        later = [each for each in requests if each.left is not None]
        self.first = len(requests) - len(later)
        self.requests = len(later)
        self.of_session = len(requests) / sum(one.sessions for one in seen)
        self.loads = [
            load([each for each in later if each.issuer == number]) for number in range(len(ISSUERS))
        ]
        for kind, each in zip(ISSUERS, self.loads):
            # The worst case: just enough at one run, the next run as late as possible, and a minute for it.
            if each.left < kind.min_lifetime - INTERVAL - DELAY - 60 or each.left <= 0:
                raise Broken(f"a token of {duration(kind.lifetime)} had only {duration(each.left)} left")

    def __str__(self) -> str:
        heading = "tokens of  an hour: least, mean, most  in a minute  in flight  shortest left"
        lines = (f"{duration(kind.lifetime):>9}  {each}" for kind, each in zip(ISSUERS, self.loads))
        return "\n  ".join((heading, *lines))


def day(world: World) -> Result:
    hosts, accounts, tokens = world.sizes.site
    memory = "/dev/shm"
    where = memory if os.access(memory, os.W_OK | os.X_OK) else str(world.directory)
    site = [
        Host(f"host{number}", accounts, tokens, spread) for spread in (0, SPREAD) for number in range(hosts)
    ]
    # A spawned process has none of the benchmark's own threads.
    with ProcessPoolExecutor(world.cores, multiprocessing.get_context("spawn")) as pool:
        seen = list(pool.map(simulated, site, repeat(where)))
    without, with_it = Day(seen[:hosts]), Day(seen[hosts:])
    for one in (without, with_it):
        check_same("requests of the first run", one.first, hosts * accounts * tokens)
    lived = [
        number
        for number, kind in enumerate(ISSUERS)
        if kind.lifetime - kind.min_lifetime > planner.ENOUGH * SPREAD
    ]
    peaks = [with_it.loads[number].minute / without.loads[number].minute for number in lived]
    return Result(
        "day",
        f"{hosts * accounts} accounts x {tokens} tokens on {hosts} hosts that started together,"
        f" a simulated day, spread = {SPREAD}",
        [
            Figure(
                "highest load in a minute, to that without spread (issuers whose tokens are moved, mean)",
                [mean(peaks)],
                goal=Goal(0.5),
            ),
            Figure(
                "requests, to those without spread", [with_it.requests / without.requests], goal=Goal(1.05)
            ),
            Figure("the same, of the issuer that gains least", [max(peaks)]),
            Figure("requests without spread", [without.requests]),
            Figure("requests with spread", [with_it.requests]),
            Figure("tokens for each opening of an account, without spread", [without.of_session]),
            Figure("tokens for each opening of an account, with spread", [with_it.of_session]),
        ],
        [
            "each issuer without spread (without the first run, which obtains all tokens):",
            str(without),
            "and with spread:",
            str(with_it),
        ],
    )
