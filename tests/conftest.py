"""What all tests share: a real issuer, and for each test hosts of its own, where the real program runs."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from osg_token_renewer.system import log
from testbed import Issuer
from tests.host import Host


def pytest_configure() -> None:
    """Makes the programs under test react to Ctrl-C, which a shell lets its background jobs ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """In continuous integration, a test that cannot run has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome, report.longrepr = "failed", f"skipped in continuous integration: {report.longrepr}"


# The files with the longest tests, longest first.
SLOW = ("test_rotation.py", "test_chaos.py", "test_source.py", "test_secrets.py", "test_watchdog.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no worker starts one when the others have nothing left to do."""
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.name, len(SLOW)))


@pytest.fixture(autouse=True)
def _messages_as_in_a_new_process() -> None:
    """Undoes what a program's main() did to the logging if a test called it in this process: caplog would see
    nothing."""
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
    """A host with the oidc-agent account `robot`. Other hosts adopt it, because that takes no time, and a
    registration takes a second."""
    with Host.made(tmp_path_factory.mktemp("registry")) as host:
        host.register(running_issuer, "robot")
        yield host


@pytest.fixture(scope="session")
def registry_of_two(running_issuer: Issuer, registry: Host) -> Host:
    """The same host, which also has the account `drone`."""
    registry.register(running_issuer, "drone")
    return registry


@pytest.fixture
def issuer(running_issuer: Issuer) -> Iterator[Issuer]:
    """The session's issuer as it was at its start: without faults and counts, with its first settings."""
    before = running_issuer.settings()
    running_issuer.reset_counts()
    yield running_issuer
    running_issuer.clear_faults()
    running_issuer.settings(**before)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """An empty host. After the test, nothing that ran on it may be left."""
    with Host.made(tmp_path) as made:
        yield made
        assert made.leftovers() == []


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    """Makes as many hosts as a test needs, by name. After the test, nothing that ran on them may be left."""
    made: list[Host] = []

    def make(name: str) -> Host:
        one = Host(tmp_path / name)
        made.append(one)
        return one

    yield make
    for one in made:
        assert one.leftovers() == []
        one.remove()
