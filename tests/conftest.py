"""The parts that the tests share: a real issuer, and hosts of their own on which the real program runs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osg_token_renewer.system import log
from testbed import Issuer
from tests.host import Host


def pytest_configure() -> None:
    """A shell has its background jobs, and all that they start, ignore Ctrl-C; the programs under test are to
    heed it all the same."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: with several workers, the others do the rest meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_rotation.py")


@pytest.fixture(autouse=True)
def _messages_as_in_a_new_process() -> None:
    """Whoever called a program's main() in this process has set them up for that program, which caplog knows
    nothing of."""
    logger = logging.getLogger(log.ROOT)
    logger.handlers = []
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def running_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    # oidc-gen would sleep for a second before it asks whether the user has approved.
    with Issuer(tmp_path_factory.mktemp("issuer"), settings={"device_interval": 0}) as issuer:
        yield issuer


@pytest.fixture(scope="session")
def registry(running_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with the oidc-agent account `robot`, for other hosts to adopt: registering takes a second,
    adopting nothing."""
    with Host.made(tmp_path_factory.mktemp("registry")) as host:
        host.register(running_issuer, "robot")
        yield host


@pytest.fixture(scope="session")
def registry_of_two(running_issuer: Issuer, registry: Host) -> Host:
    """The same host, with the account `drone` too."""
    registry.register(running_issuer, "drone")
    return registry


@pytest.fixture
def issuer(running_issuer: Issuer) -> Iterator[Issuer]:
    """The session's issuer as it was when it started: no faults, no counts, its first settings."""
    before = running_issuer.settings()
    running_issuer.reset_counts()
    yield running_issuer
    running_issuer.clear_faults()
    running_issuer.settings(**before)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with nothing on it yet. When the test is over, nothing that was started on it may be left."""
    with Host.made(tmp_path) as made:
        yield made
        assert made.leftovers() == []


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    """As many hosts as a test needs, by name."""
    made: list[Host] = []

    def make(name: str) -> Host:
        one = Host(tmp_path / name)
        made.append(one)
        return one

    yield make
    for one in made:
        assert one.leftovers() == []
        one.remove()
