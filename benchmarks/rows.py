"""One function a row of the table in README.md: it measures, and raises Broken when something did not
work."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.day import day
from benchmarks.figures import Figure, Goal, Result, ratios
from benchmarks.fleet import Fleet, credentials, write
from benchmarks.world import (
    HERE,
    SYSTEM_PYTHON,
    Arrivals,
    Broken,
    Cost,
    Wanted,
    World,
    check_published,
    check_same,
    environment,
    program,
    remove,
    section_of,
    wanted,
)
from testbed.issuer import Client, Counts
from tests.host import Host, section

# What a run that finds nothing due must not load.
HEAVY = ("requests", "urllib3", "jwt", "cryptography", "rich")
INTERPRETER = "import argparse, configparser, json"
MIB = 1024 * 1024

Row = Callable[[World], Result]


@dataclass(frozen=True)
class Asked:
    """One run of the program and what the issuer saw of it."""

    cost: Cost
    counts: Counts
    issuer_cpu: float
    others: float  # cores that were taken by what does not belong to the run, on average

    @property
    def seconds(self) -> float:
        return self.cost.seconds


def asking(world: World, tokens: Sequence[Wanted], run: Callable[[], Cost]) -> Asked:
    """One run with all tokens missing before and published after."""
    remove(tokens)
    world.issuer.reset_counts()
    before, busy = world.issuer_cpu(), world.busy()
    cost = run()
    spent = world.issuer_cpu() - before
    others = (world.busy() - busy - cost.cpu - spent) / cost.seconds
    counts = world.issuer.counts()
    check_published(tokens)
    return Asked(cost, counts, spent, max(0.0, others))


def slowly(world: World, tokens: Sequence[Wanted], run: Callable[[], Cost]) -> Asked:
    """The same against an issuer with latency."""
    with latency(world, world.sizes.latency_ms):
        return asking(world, tokens, run)


@contextmanager
def latency(world: World, milliseconds: int) -> Iterator[None]:
    world.issuer.settings(latency_ms=milliseconds)
    try:
        yield
    finally:
        world.issuer.settings(latency_ms=0)


def in_turn(rounds: int, *sides: Callable[[], None]) -> None:
    """Each side once a round; which comes first changes, so that none always has the warmer machine."""
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            side()


# through oidc-agent


def agent(world: World) -> Result:
    host, tokens = world.agent_host, agents_tokens(world)
    theirs = wanted(host, agents_accounts(world), world.sizes.agent_tokens, "reference")
    listed = list_of(host, "agents.list", theirs)
    floor = Floor(world)
    asked: list[Asked] = []
    references: list[float] = []
    in_turn(
        world.sizes.rounds,
        lambda: asked.append(agents_run(world, tokens)),
        lambda: references.append(slowly(world, theirs, lambda: world.reference(host, listed)).seconds),
        floor.measure,
    )
    seconds = [each.seconds for each in asked]
    return Result(
        "agent",
        f"{world.sizes.agent_accounts} accounts x {world.sizes.agent_tokens} tokens through oidc-agent, all due",
        [
            Figure("times faster than the reference", ratios(references, seconds), goal=Goal(6, least=True)),
            Figure("times the floor", ratios(seconds, floor.seconds(asked)), goal=Goal(1.3)),
            Figure("the program", seconds, "s"),
            Figure("the reference", references, "s"),
            Figure("key derivation on all cores, and then one lane's requests", floor.in_order(asked), "s"),
            Figure("the same, times the floor", ratios(floor.in_order(asked), floor.seconds(asked))),
            *floor.figures(asked),
        ],
    )


def agent_rotating(world: World) -> Result:
    tokens = agents_tokens(world)
    floor = Floor(world)
    asked: list[Asked] = []
    world.issuer.settings(rotate=True)
    try:
        in_turn(world.sizes.rounds, lambda: asked.append(agents_run(world, tokens)), floor.measure)
    finally:
        world.issuer.settings(rotate=False)
    seconds = [each.seconds for each in asked]
    return Result(
        "agent-rotating",
        "the same with an issuer that rotates refresh tokens",
        [
            Figure("times the floor", ratios(seconds, floor.seconds(asked)), goal=Goal(1.3)),
            Figure("the program", seconds, "s"),
            *floor.figures(asked),
        ],
    )


def agents_accounts(world: World) -> list[str]:
    return [f"account{number}" for number in range(world.sizes.agent_accounts)]


def agents_tokens(world: World) -> list[Wanted]:
    """All tokens of the host with oidc-agent's accounts, which is configured for them."""
    host, names = world.agent_host, agents_accounts(world)
    tokens = wanted(host, names, world.sizes.agent_tokens)
    accounts = [section(f"account {name}", {"password_file": host.root / f"{name}.pw"}) for name in names]
    write(host, [*accounts, *map(section_of, tokens)])
    return tokens


def agents_run(world: World, tokens: Sequence[Wanted]) -> Asked:
    asked = slowly(world, tokens, lambda: world.renew(world.agent_host, python=SYSTEM_PYTHON))
    adding, accounts = world.requests_of_adding, len({token.account for token in tokens})
    check_same("requests for tokens", asked.counts.token, len(tokens) + accounts * adding.get("token", 0))
    check_same("requests for metadata", asked.counts.discovery, accounts * adding.get("discovery", 0))
    return asked


def list_of(
    host: Host, name: str, tokens: Sequence[Wanted], added: str = "account", only_adding: bool = False
) -> Path:
    """What reference.sh reads: the accounts, then (unless they are only to be added) the tokens, in the order
    of the configuration.

    `added` is how it is to add an account."""
    lines: list[tuple[str, ...]]
    lines = [(added, name, str(host.root / f"{name}.pw")) for name in accounts_of(tokens)]
    if not only_adding:
        lines += [("token", token.account, token.audience, token.scope, str(token.path)) for token in tokens]
    return host.secret(name, "".join("\t".join(line) + "\n" for line in lines))


class Floor:
    """What a run through oidc-agent costs at least, whatever the program does; measured once a round, beside
    the run.

    The CPU time of the agent and its clients is that of reference.sh for one account, which starts little
    that is not needed, and derives no key that is not. As many run at a time as there are cores, for cores
    that share caches and a memory bus are slower together, and without latency."""

    def __init__(self, world: World) -> None:
        self._world = world
        names = agents_accounts(world)[: world.cores]
        host, tokens = world.agent_host, world.sizes.agent_tokens
        wants = [(name, wanted(host, [name], tokens, "floor")) for name in names]
        self._lists = [list_of(host, f"{name}.list", tokens, "barely") for name, tokens in wants]
        self._only_adding = [
            list_of(host, f"{name}.only", tokens, "barely", only_adding=True) for name, tokens in wants
        ]
        self._lanes: list[float] = []
        self._adding: list[float] = []

    def measure(self) -> None:
        for lists, values in ((self._lists, self._lanes), (self._only_adding, self._adding)):
            with ThreadPoolExecutor(len(lists)) as pool:
                costs = list(
                    pool.map(lambda listed: self._world.reference(self._world.agent_host, listed), lists)
                )
            values.append(statistics.mean(cost.cpu for cost in costs))

    def seconds(self, asked: Sequence[Asked]) -> list[float]:
        return [max(both) for both in zip(self._work(asked), self._waiting(asked))]

    def figures(self, asked: Sequence[Asked]) -> list[Figure]:
        return [
            Figure("the floor", self.seconds(asked), "s"),
            Figure(f"of it: the CPU time of all, on {self._world.cores} cores", self._work(asked), "s"),
            Figure("of it: one lane's requests, one after the other", self._waiting(asked), "s"),
            Figure("CPU time of oidc-agent and its clients, each account", self._lanes, "s"),
            Figure("of it: for oidc-add", self._adding, "s"),
            *circumstances(asked),
        ]

    def in_order(self, asked: Sequence[Asked]) -> list[float]:
        """What no order of the work goes below where tokens cost no key derivation: whichever lane is the
        last to derive its keys has all of its requests still before it. The issuer's work, which could fill
        the gaps, is left out."""
        accounts = self._world.sizes.agent_accounts
        return [
            adding * accounts / self._world.cores + waiting
            for adding, waiting in zip(self._adding, self._waiting(asked))
        ]

    def _work(self, asked: Sequence[Asked]) -> list[float]:
        accounts = self._world.sizes.agent_accounts
        return [
            (lane * accounts + each.issuer_cpu) / self._world.cores for lane, each in zip(self._lanes, asked)
        ]

    def _waiting(self, asked: Sequence[Asked]) -> list[float]:
        sizes = self._world.sizes
        return [each.counts.total / sizes.agent_accounts * sizes.latency_ms / 1000 for each in asked]


def circumstances(asked: Sequence[Asked]) -> list[Figure]:
    """What explains the time of a run."""
    return [
        Figure("CPU time of the program and all it started", [each.cost.cpu for each in asked], "s"),
        Figure("CPU time of the issuer", [each.issuer_cpu for each in asked], "s"),
        Figure("cores that something else took", [each.others for each in asked]),
        Figure("requests at a time, at most", [each.counts.max_in_flight for each in asked]),
        Figure("connections to the issuer", [each.counts.connections for each in asked]),
    ]


# client credentials


def client_credentials(world: World) -> Result:
    sizes = world.sizes
    host, tokens = credentials_host(
        world, "credentials", sizes.credentials_accounts, sizes.credentials_tokens
    )
    theirs = wanted(
        host, accounts_of(tokens), sizes.credentials_tokens // sizes.credentials_accounts, "reference"
    )
    listed = clients_list(world, host, theirs)
    asked: list[Asked] = []
    references: list[float] = []
    in_turn(
        sizes.rounds,
        lambda: asked.append(credentials_run(world, host, tokens, sizes.latency_ms)),
        lambda: references.append(slowly(world, theirs, lambda: world.reference(host, listed)).seconds),
    )
    seconds = [each.seconds for each in asked]
    return Result(
        "credentials",
        f"{len(tokens)} tokens by client credentials, {sizes.credentials_accounts} accounts, all due",
        [
            Figure("times faster than the reference", ratios(references, seconds), goal=Goal(25, least=True)),
            Figure("the program", seconds, "s"),
            Figure("the reference", references, "s"),
            *circumstances(asked),
        ],
    )


def memory(world: World) -> Result:
    sizes = world.sizes
    host, tokens = credentials_host(world, "memory", sizes.accounts_of_many, sizes.many)
    asked = [credentials_run(world, host, tokens, sizes.latency_ms) for _ in range(sizes.rounds)]
    return Result(
        "memory",
        f"peak memory of the program, {len(tokens)} tokens of {sizes.accounts_of_many} accounts, all due",
        [
            Figure("peak memory", [each.cost.peak / MIB for each in asked], "MiB", Goal(64)),
            Figure("the program", [each.seconds for each in asked], "s"),
            *circumstances(asked),
        ],
    )


def credentials_host(
    world: World, name: str, accounts: int, tokens: int, **options: object
) -> tuple[Host, list[Wanted]]:
    """A host whose tokens are all obtained in every run."""
    host, issuer = world.host(name), world.issuer
    names = [f"account{number}" for number in range(accounts)]
    found = wanted(host, names, tokens // accounts)
    sections = [
        credentials(issuer.url, issuer.ca_file, client, name) for name, client in zip(names, world.clients)
    ]
    write(host, [*sections, *map(section_of, found)], **options)
    return host, found


def credentials_run(world: World, host: Host, tokens: Sequence[Wanted], latency_ms: int = 0) -> Asked:
    with latency(world, latency_ms):
        asked = asking(world, tokens, lambda: world.renew(host))
    check_same("requests for tokens", asked.counts.token, len(tokens))
    check_same("requests of any kind", asked.counts.total, len(tokens))
    return asked


def accounts_of(tokens: Sequence[Wanted]) -> list[str]:
    return list(dict.fromkeys(token.account for token in tokens))


def clients_list(world: World, host: Host, tokens: Sequence[Wanted]) -> Path:
    clients = dict(zip(accounts_of(tokens), world.clients))
    where = (f"{world.issuer.url}/token", str(world.issuer.ca_file))
    lines = []
    for token in tokens:
        client = clients[token.account]
        lines.append(
            (
                "client",
                *where,
                client.client_id,
                client.client_secret or "",
                token.audience,
                token.scope,
                str(token.path),
            )
        )
    return host.secret("clients.list", "".join("\t".join(line) + "\n" for line in lines))


# nothing due, or little


def nothing_due(world: World) -> Result:
    sizes, large = world.sizes, many(world)
    small = Fleet(world.host("small"), sizes.many // 10, sizes.accounts_of_many // 10)
    modules = only_computes(large.host)
    ours_small, ours, interpreter = short_runs(
        world,
        lambda: quiet_run(world, small.host),
        lambda: quiet_run(world, large.host),
        lambda: world.cost(large.host, [SYSTEM_PYTHON, "-I", "-c", INTERPRETER], quiet=True),
    )
    return Result(
        "nothing-due",
        f"{len(large.tokens)} tokens of {sizes.accounts_of_many} accounts, none due",
        [
            Figure(f"times python3 -I -c '{INTERPRETER}'", ratios(ours, interpreter), goal=Goal(8)),
            Figure(
                f"the same with {len(small.tokens)} tokens", ratios(ours_small, interpreter), goal=Goal(3.5)
            ),
            Figure("the program", milli(ours), "ms"),
            Figure(f"the program with {len(small.tokens)} tokens", milli(ours_small), "ms"),
            Figure("the interpreter", milli(interpreter), "ms"),
            Figure("modules loaded", [modules]),
        ],
        [f"no process started, no socket made, and not loaded: {', '.join(HEAVY)}"],
    )


def ten_thousand(world: World) -> Result:
    sizes = world.sizes
    factor = sizes.most // sizes.many
    fleet, larger = (
        many(world).host,
        Fleet(world.host("most"), sizes.most, sizes.accounts_of_many * factor).host,
    )
    ours, ours_larger = short_runs(world, lambda: quiet_run(world, fleet), lambda: quiet_run(world, larger))
    return Result(
        "growth",
        f"{sizes.most} tokens of {sizes.accounts_of_many * factor} accounts, none due",
        [
            Figure(f"times the time for {sizes.many}", ratios(ours_larger, ours), goal=Goal(11)),
            Figure(f"{sizes.most} tokens", milli(ours_larger), "ms"),
            Figure(f"{sizes.many} tokens", milli(ours), "ms"),
        ],
    )


def quiet_run(world: World, host: Host) -> Cost:
    return world.renew(host, quiet=True, python=SYSTEM_PYTHON)


def five_due(world: World) -> Result:
    sizes = world.sizes
    fleet = Fleet(world.host("few"), sizes.many, sizes.accounts_of_many, sizes.due, world.issuer)
    alone = world.host("alone")
    write(alone, [*fleet.sections_of_due, *(section_of(token) for token in fleet.due)])
    with_all, without = short_runs(
        world,
        lambda: credentials_run(world, fleet.host, fleet.due, sizes.latency_ms).cost,
        lambda: credentials_run(world, alone, fleet.due, sizes.latency_ms).cost,
    )
    return Result(
        "few-due",
        f"{sizes.many} tokens of {sizes.accounts_of_many} accounts, {sizes.due} due",
        [
            Figure(f"times what those {sizes.due} alone cost", ratios(with_all, without), goal=Goal(1.5)),
            Figure("with all the others", milli(with_all), "ms"),
            Figure("alone", milli(without), "ms"),
        ],
    )


def many(world: World) -> Fleet:
    return world.once(
        "many", lambda: Fleet(world.host("many"), world.sizes.many, world.sizes.accounts_of_many)
    )


def short_runs(world: World, *sides: Callable[[], Cost]) -> list[list[float]]:
    """Seconds of each side, one value a round. A run of some milliseconds says little: each has some in turn,
    and their median counts."""
    values: list[list[float]] = [[] for _ in sides]
    for run in sides:
        run()  # caches of byte code and of files
    for _ in range(world.sizes.rounds):
        times: list[list[float]] = [[] for _ in sides]
        turns = [lambda run=run, of=of: of.append(run().seconds) for run, of in zip(sides, times)]
        in_turn(world.sizes.repeats, *turns)
        for side, of in zip(values, times):
            side.append(statistics.median(of))
    return values


def milli(seconds: Sequence[float]) -> list[float]:
    return [1000 * each for each in seconds]


def only_computes(host: Host) -> int:
    """Broken if a run starts a process, makes a socket, or loads what is heavy; returns how many modules it
    loads."""
    result = host.short / "watched.json"
    command = [SYSTEM_PYTHON, "-I", str(HERE / "watch.py"), str(result), *program(host)[2:]]
    subprocess.run(
        command,
        env=environment(host),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=600,
    )
    seen = json.loads(result.read_text())
    check_same("exit status", seen["status"], 0)
    if seen["events"]:
        raise Broken(f"nothing is due, and yet: {', '.join(sorted(set(seen['events'])))}")
    heavy = sorted(set(HEAVY) & set(seen["modules"]))
    if heavy:
        raise Broken(f"nothing is due, and yet it loads {', '.join(heavy)}")
    return len(seen["modules"])


# what the issuer sees


def requests(world: World) -> Result:
    """Every run of the other rows is checked as well; here are all kinds side by side."""
    sizes = world.sizes
    host, tokens = credentials_host(world, "requests", sizes.credentials_accounts, sizes.credentials_tokens)
    by_credentials = credentials_run(world, host, tokens)
    write(
        host,
        [
            host.config.read_text().partition("[token ")[0],
            *(section_of(token, min_lifetime=60) for token in tokens),
        ],
    )
    world.issuer.reset_counts()
    world.renew(host)
    fresh = world.issuer.counts()
    check_same("requests for fresh tokens", fresh.total, 0)
    agents = agents_tokens(world)
    by_agent = agents_run(world, agents)
    accounts, adding = len(accounts_of(agents)), world.requests_of_adding
    ours = by_agent.counts.total - accounts * sum(adding.values())
    metadata = by_agent.counts.discovery - accounts * adding.get("discovery", 0)
    return Result(
        "requests",
        "requests to the issuer",
        [
            Figure(
                "client credentials: for each due token",
                [by_credentials.counts.total / len(tokens)],
                goal=Goal(1),
            ),
            Figure("fresh tokens: in all", [fresh.total], goal=Goal(0)),
            Figure(
                "oidc-agent: for each due token, without those of oidc-add",
                [ours / len(agents)],
                goal=Goal(1),
            ),
            Figure("the program's own requests for metadata", [metadata], goal=Goal(1)),
            Figure("oidc-add: tokens for each account that nobody wants", [adding.get("token", 0)]),
            Figure("oidc-add: requests for metadata for each account", [adding.get("discovery", 0)]),
        ],
        [f"client credentials {asked_for(by_credentials.counts)}; oidc-agent {asked_for(by_agent.counts)}"],
    )


def asked_for(counts: Counts) -> str:
    return ", ".join(f"{number} {endpoint}" for endpoint, number in sorted(counts.endpoints.items()))


def connections(world: World) -> Result:
    sizes, workers = world.sizes, 8
    host, tokens = credentials_host(
        world, "connections", sizes.accounts_of_many, sizes.many // 5 or 1, workers=workers
    )
    asked = [credentials_run(world, host, tokens, sizes.latency_ms) for _ in range(sizes.rounds)]
    return Result(
        "connections",
        f"TLS connections, {len(tokens)} tokens by client credentials of {sizes.accounts_of_many} accounts, {workers} workers",
        [
            Figure(
                "connections for each worker",
                [each.counts.connections / workers for each in asked],
                goal=Goal(1),
            ),
            *circumstances(asked),
        ],
    )


# a dead issuer

ISSUERS = 10
ACCOUNTS_OF_ISSUER = 2
TOKENS_OF_ACCOUNT = 2


def dead_issuer(world: World) -> Result:
    rounds, timeout = world.sizes.rounds, world.sizes.timeout
    with_it: list[float] = []
    without: list[float] = []
    with dead() as url, latency(world, world.sizes.latency_ms):
        ill, well = issuers(world, "ill", url), issuers(world, "well")
        in_turn(rounds, lambda: with_it.append(last_good(*ill)), lambda: without.append(last_good(*well)))
    return Result(
        "dead-issuer",
        f"a dead issuer among {ISSUERS}, each with {ACCOUNTS_OF_ISSUER} accounts x {TOKENS_OF_ACCOUNT} tokens, a timeout of {timeout} s",
        [
            Figure(
                "time until the last good token, to that without the dead issuer",
                ratios(with_it, without),
                goal=Goal(1.1),
            ),
            Figure("with the dead issuer", with_it, "s"),
            Figure("without", without, "s"),
        ],
    )


@contextmanager
def dead() -> Iterator[str]:
    """The URL of an issuer whose host takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"https://localhost:{listener.getsockname()[1]}"


def issuers(world: World, name: str, dead_url: str = "") -> tuple[Host, list[Wanted], int]:
    """A host, its tokens that can be obtained, and how many can not. The accounts of the dead issuer come
    first in the configuration."""
    host, live = world.host(name), world.issuer
    good = [f"account{number}" for number in range((ISSUERS - 1) * ACCOUNTS_OF_ISSUER)]
    bad = [f"dead{number}" for number in range(ACCOUNTS_OF_ISSUER)] if dead_url else []
    sections = [
        credentials(dead_url, live.ca_file, world.clients[0], account, timeout=world.sizes.timeout)
        for account in bad
    ]
    # Who is alive has as long as it takes, however slow the machine.
    sections += [
        credentials(live.url, live.ca_file, client, account) for account, client in zip(good, cycled(world))
    ]
    tokens = wanted(host, good, TOKENS_OF_ACCOUNT)
    lost = wanted(host, bad, TOKENS_OF_ACCOUNT)
    write(host, [*sections, *map(section_of, [*lost, *tokens])])
    return host, tokens, len(lost)


def cycled(world: World) -> list[Client]:
    return [world.clients[number % len(world.clients)] for number in range(ISSUERS * ACCOUNTS_OF_ISSUER)]


def last_good(host: Host, tokens: Sequence[Wanted], lost: int) -> float:
    remove(tokens)
    run = Arrivals(host)
    check_published(tokens)
    said, every = "".join(run.said)[-2000:], "".join(run.said)
    check_same(f"{said}\ntokens that were renewed", len(run.renewed), len(tokens))
    failed = len(re.findall(r"^token dead\S+: ", every, re.MULTILINE))
    check_same(f"{said}\ntokens that failed", failed, lost)
    check_same(f"{said}\nexit status", run.status, 1 if lost else 0)
    return max(run.renewed.values())


ROWS: dict[str, Row] = {
    "agent": agent,
    "agent-rotating": agent_rotating,
    "credentials": client_credentials,
    "nothing-due": nothing_due,
    "growth": ten_thousand,
    "few-due": five_due,
    "memory": memory,
    "requests": requests,
    "connections": connections,
    "dead-issuer": dead_issuer,
    "day": day,
}
