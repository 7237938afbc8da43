"""The row of a dead issuer: how long the tokens of the other issuers wait for it."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

from benchmarks.figures import Figure, Goal, Result, ratios
from benchmarks.fleet import Wanted, check_published, remove, section_of, want, with_credentials, write
from benchmarks.measure import latency, take_turns
from benchmarks.world import World, check_same
from tests.host import Host

ISSUERS = 10
ACCOUNTS_OF_ISSUER = 2
TOKENS_OF_ACCOUNT = 2
_RENEWED = re.compile(r"token (\S+): renewed")
_FAILED = re.compile(r"token dead\S+: ")


def dead_issuer(world: World) -> Result:
    with_it: list[float] = []
    without: list[float] = []
    with prepare_dead_issuer(world) as run:
        well, tokens, _ = _configure(world, "well")
        take_turns(
            world.sizes.rounds,
            lambda: with_it.append(run()),
            lambda: without.append(_time_last_good(world, well, tokens, 0)),
        )
    return Result(
        "dead-issuer",
        f"a dead issuer among {ISSUERS}, each with {ACCOUNTS_OF_ISSUER} accounts x {TOKENS_OF_ACCOUNT}"
        f" tokens, a timeout of {world.sizes.timeout} s",
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
def prepare_dead_issuer(world: World) -> Iterator[Callable[[], float]]:
    """Yields a run of the program with a dead issuer: seconds until the last token that can be obtained.

    The dead issuer's host takes connections and answers nothing.
    """
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        latency(world, world.sizes.latency_ms),
    ):
        url = f"https://localhost:{listener.getsockname()[1]}"
        host, tokens, lost = _configure(world, "ill", url)
        yield lambda: _time_last_good(world, host, tokens, lost)


def _configure(world: World, name: str, dead_url: str = "") -> tuple[Host, list[Wanted], int]:
    """Configures a host; returns it, the tokens that it can obtain, and the number of those that it cannot.
    The accounts of the dead issuer come first in the configuration."""
    host, live = world.host(name), world.issuer
    good = [f"account{number}" for number in range((ISSUERS - 1) * ACCOUNTS_OF_ISSUER)]
    bad = [f"dead{number}" for number in range(ACCOUNTS_OF_ISSUER)] if dead_url else []
    # Only the dead issuer's accounts have a short timeout, so that a slow machine fails no other.
    client, timeout = world.clients[0], world.sizes.timeout
    sections = [with_credentials(account, dead_url, live.ca_file, client, timeout=timeout) for account in bad]
    sections += [
        with_credentials(account, live.url, live.ca_file, client)
        for account, client in zip(good, cycle(world.clients))
    ]
    tokens, lost = want(host, good, TOKENS_OF_ACCOUNT), want(host, bad, TOKENS_OF_ACCOUNT)
    write(host, [*sections, *map(section_of, [*lost, *tokens])])
    return host, tokens, len(lost)


def _time_last_good(world: World, host: Host, tokens: Sequence[Wanted], lost: int) -> float:
    """Runs the program once; returns the seconds until the last token was renewed. Raises Broken unless all
    `tokens` were renewed and `lost` others failed."""
    remove(tokens)
    status, lines = _follow(world.program(host), world.environment(host))
    check_published(tokens)
    renewed = [seconds for seconds, line in lines if _RENEWED.search(line)]
    failed = [line for _, line in lines if _FAILED.match(line)]
    said = "".join(line for _, line in lines)[-2000:]
    check_same(f"{said}\ntokens that were renewed", len(renewed), len(tokens))
    check_same(f"{said}\ntokens that failed", len(failed), lost)
    check_same(f"{said}\nexit status", status, 1 if lost else 0)
    return max(renewed)


def _follow(command: Sequence[str], env: dict[str, str]) -> tuple[int, list[tuple[float, str]]]:
    """Runs a command; returns its exit status and its messages, each with the seconds until it came."""
    lines = []
    started = time.monotonic()
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            lines = [(time.monotonic() - started, line) for line in process.stderr]
        except BaseException:
            process.terminate()
            raise
    return process.returncode, lines
