"""The rows of client credentials: time beside curl, peak memory, connections, and the number of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agents import prepare_agents
from benchmarks.figures import Figure, Goal, Result, ratios
from benchmarks.fleet import Wanted, accounts_of, section_of, want, with_credentials, write
from benchmarks.measure import Asked, ask, circumstances, take_turns
from benchmarks.world import World, check_same
from testbed import Counts
from tests.host import Host

MIB = 1024 * 1024


def credentials(world: World) -> Result:
    sizes = world.sizes
    asked: list[Asked] = []
    references: list[float] = []
    with prepare_credentials(world) as run:
        refer = _reference(world)
        take_turns(sizes.rounds, lambda: asked.append(run()), lambda: references.append(refer().seconds))
    seconds = [each.seconds for each in asked]
    return Result(
        "credentials",
        f"{sizes.credentials_tokens} tokens by client credentials, {sizes.credentials_accounts} accounts,"
        " all due",
        [
            Figure("times faster than the reference", ratios(references, seconds), goal=Goal(25, least=True)),
            Figure("the program", seconds, "s"),
            Figure("the reference", references, "s"),
            *circumstances(asked),
        ],
    )


@contextmanager
def prepare_credentials(world: World) -> Iterator[Callable[[], Asked]]:
    """Yields a run of the program in which all tokens of the row `credentials` are due."""
    host, tokens = _few_accounts(world)
    yield lambda: renew_all(world, host, tokens, world.sizes.latency_ms)


def memory(world: World) -> Result:
    sizes = world.sizes
    host, tokens = _prepare_host(world, "memory", sizes.accounts_of_many, sizes.many)
    asked = [renew_all(world, host, tokens, sizes.latency_ms) for _ in range(sizes.rounds)]
    return Result(
        "memory",
        f"peak memory of the program, {len(tokens)} tokens of {sizes.accounts_of_many} accounts, all due",
        [
            Figure("peak memory", [each.cost.peak / MIB for each in asked], "MiB", Goal(64)),
            Figure("the program", [each.seconds for each in asked], "s"),
            *circumstances(asked),
        ],
    )


def connections(world: World) -> Result:
    sizes, workers = world.sizes, 8
    accounts, number = sizes.accounts_of_many, sizes.many // 5 or 1
    host, tokens = _prepare_host(world, "connections", accounts, number, workers=workers)
    asked = [renew_all(world, host, tokens, sizes.latency_ms) for _ in range(sizes.rounds)]
    return Result(
        "connections",
        f"TLS connections, {len(tokens)} tokens by client credentials of {accounts} accounts,"
        f" {workers} workers",
        [
            Figure(
                "connections for each worker",
                [each.counts.connections / workers for each in asked],
                goal=Goal(1),
            ),
            *circumstances(asked),
        ],
    )


def requests(world: World) -> Result:
    """The other rows check each of their runs, too; this one shows all kinds side by side."""
    host, tokens = _few_accounts(world)
    ours = renew_all(world, host, tokens).counts
    fresh = _requests_for_fresh(world, host, tokens)
    with prepare_agents(world) as run:
        agents = run().counts
    accounts, adding = world.sizes.agent_accounts, world.requests_of_adding
    each = (agents.total - accounts * sum(adding.values())) / (accounts * world.sizes.agent_tokens)
    metadata = agents.discovery - accounts * adding.get("discovery", 0)
    return Result(
        "requests",
        "requests to the issuer",
        [
            Figure("client credentials: for each due token", [ours.total / len(tokens)], goal=Goal(1)),
            Figure("fresh tokens: in all", [fresh], goal=Goal(0)),
            Figure("oidc-agent: for each due token, without those of oidc-add", [each], goal=Goal(1)),
            Figure("the program's own requests for metadata", [metadata], goal=Goal(1)),
            Figure("oidc-add: unused tokens for each account", [adding.get("token", 0)]),
            Figure("oidc-add: requests for metadata for each account", [adding.get("discovery", 0)]),
        ],
        [f"client credentials {_by_endpoint(ours)}; oidc-agent {_by_endpoint(agents)}"],
    )


def _requests_for_fresh(world: World, host: Host, tokens: Sequence[Wanted]) -> int:
    """How many requests a run makes for tokens that have enough lifetime left."""
    accounts = host.config.read_text().partition("[token ")[0]
    write(host, [accounts, *(section_of(token, min_lifetime=60) for token in tokens)])
    world.issuer.reset_counts()
    world.renew(host)
    total = world.issuer.counts().total
    check_same("requests for fresh tokens", total, 0)
    return total


def _by_endpoint(counts: Counts) -> str:
    return ", ".join(f"{number} {endpoint}" for endpoint, number in sorted(counts.endpoints.items()))


def renew_all(world: World, host: Host, tokens: Sequence[Wanted], latency_ms: int = 0) -> Asked:
    """A run that obtains these tokens by client credentials; raises Broken unless each took one request."""
    asked = ask(world, tokens, lambda: world.renew(host), latency_ms)
    check_same("requests for tokens", asked.counts.token, len(tokens))
    check_same("requests of any kind", asked.counts.total, len(tokens))
    return asked


def _few_accounts(world: World) -> tuple[Host, list[Wanted]]:
    sizes = world.sizes
    return _prepare_host(world, "credentials", sizes.credentials_accounts, sizes.credentials_tokens)


def _prepare_host(
    world: World, name: str, accounts: int, tokens: int, **options: object
) -> tuple[Host, list[Wanted]]:
    """Configures a host whose tokens are due in every run."""
    host, issuer = world.once(name, lambda: world.host(name)), world.issuer
    names = [f"account{number}" for number in range(accounts)]
    found = want(host, names, tokens // accounts)
    sections = [
        with_credentials(name, issuer.url, issuer.ca_file, client)
        for name, client in zip(names, world.clients)
    ]
    write(host, [*sections, *map(section_of, found)], **options)
    return host, found


def _reference(world: World) -> Callable[[], Asked]:
    """A run of the reference for as many tokens of the same accounts."""
    sizes = world.sizes
    host, ours = _few_accounts(world)
    tokens = want(
        host, accounts_of(ours), sizes.credentials_tokens // sizes.credentials_accounts, "reference"
    )
    listed = _list(world, host, tokens)
    return lambda: ask(world, tokens, lambda: world.reference(host, listed), sizes.latency_ms)


def _list(world: World, host: Host, tokens: Sequence[Wanted]) -> Path:
    """Writes what reference.sh reads."""
    clients = dict(zip(accounts_of(tokens), world.clients))
    lines = []
    for token in tokens:
        client = clients[token.account]
        where = (f"{world.issuer.url}/token", str(world.issuer.ca_file))
        who = (client.client_id, client.client_secret or "")
        lines.append("\t".join(("client", *where, *who, token.audience, token.scope, str(token.path))))
    return host.secret("clients.list", "\n".join(lines) + "\n")
