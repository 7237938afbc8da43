"""The rows of oidc-agent: all tokens of several accounts, beside a shell script and beside the floor."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Figure, Goal, Result, ratios
from benchmarks.fleet import Wanted, accounts_of, section_of, want, with_agent, write
from benchmarks.measure import Asked, ask, circumstances, take_turns
from benchmarks.world import SYSTEM_PYTHON, World, check_same
from tests.host import Host


def agent(world: World) -> Result:
    sizes, host = world.sizes, world.agent_host
    theirs = want(host, _accounts(world), sizes.agent_tokens, "reference")
    listed = _list(host, "agents.list", theirs)
    floor = Floor(world)
    asked: list[Asked] = []
    references: list[float] = []

    def refer() -> None:
        run = ask(world, theirs, lambda: world.reference(host, listed), sizes.latency_ms)
        references.append(run.seconds)

    with prepare_agents(world) as run:
        take_turns(sizes.rounds, lambda: asked.append(run()), refer, floor.measure)
    seconds = [each.seconds for each in asked]
    return Result(
        "agent",
        f"{sizes.agent_accounts} accounts x {sizes.agent_tokens} tokens through oidc-agent, all due",
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
    floor = Floor(world)
    asked: list[Asked] = []
    with prepare_rotating_agents(world) as run:
        take_turns(world.sizes.rounds, lambda: asked.append(run()), floor.measure)
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


@contextmanager
def prepare_agents(world: World) -> Iterator[Callable[[], Asked]]:
    """Yields a run of the program in which all tokens of oidc-agent's accounts are due."""
    host, names = world.agent_host, _accounts(world)
    tokens = want(host, names, world.sizes.agent_tokens)
    accounts = [with_agent(name, world.issuer.url, host.root / f"{name}.pw") for name in names]
    write(host, [*accounts, *map(section_of, tokens)])
    yield lambda: _run(world, host, tokens)


@contextmanager
def prepare_rotating_agents(world: World) -> Iterator[Callable[[], Asked]]:
    """The same while the issuer rotates refresh tokens."""
    world.issuer.settings(rotate=True)
    try:
        with prepare_agents(world) as run:
            yield run
    finally:
        world.issuer.settings(rotate=False)


def _accounts(world: World) -> list[str]:
    return [f"account{number}" for number in range(world.sizes.agent_accounts)]


def _run(world: World, host: Host, tokens: Sequence[Wanted]) -> Asked:
    asked = ask(world, tokens, lambda: world.renew(host, python=SYSTEM_PYTHON), world.sizes.latency_ms)
    adding, accounts = world.requests_of_adding, world.sizes.agent_accounts
    check_same("requests for tokens", asked.counts.token, len(tokens) + accounts * adding.get("token", 0))
    check_same("requests for metadata", asked.counts.discovery, accounts * adding.get("discovery", 0))
    return asked


def _list(
    host: Host, name: str, tokens: Sequence[Wanted], added: str = "account", only_adding: bool = False
) -> Path:
    """Writes what reference.sh reads: the accounts, added as `added` says, then (unless `only_adding`) the
    tokens."""
    lines: list[tuple[str, ...]]
    lines = [(added, name, str(host.root / f"{name}.pw")) for name in accounts_of(tokens)]
    if not only_adding:
        lines += [("token", token.account, token.audience, token.scope, str(token.path)) for token in tokens]
    return host.secret(name, "".join("\t".join(line) + "\n" for line in lines))


class Floor:
    """What a run through oidc-agent costs at least, whatever the program does. It is measured once a round.

    The CPU time of an agent and its clients is what reference.sh takes for one account: it starts little
    that is not needed and derives no key that is not needed. As many scripts run at the same time as there
    are cores, because cores that share caches and memory slow each other down.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        names = _accounts(world)[: world.cores]
        host, tokens = world.agent_host, world.sizes.agent_tokens
        wants = [(name, want(host, [name], tokens, "floor")) for name in names]
        self._lists = [_list(host, f"{name}.list", tokens, "barely") for name, tokens in wants]
        self._only_adding = [
            _list(host, f"{name}.only", tokens, "barely", only_adding=True) for name, tokens in wants
        ]
        self._lanes: list[float] = []
        self._adding: list[float] = []

    def measure(self) -> None:
        for lists, values in ((self._lists, self._lanes), (self._only_adding, self._adding)):
            with ThreadPoolExecutor(len(lists)) as pool:
                costs = list(pool.map(lambda one: self._world.reference(self._world.agent_host, one), lists))
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
        """Seconds that no order of the work can beat, unless each token costs a key derivation: the lane that
        derives its keys last still has to make all of its requests. The issuer's work is left out, because
        it could fill the gaps."""
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
