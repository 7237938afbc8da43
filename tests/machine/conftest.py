"""One machine and one issuer for all tests here. The tests are the steps of one administrator, in order."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import Issuer
from tests.machine import packages
from tests.machine.machine import Machine


def pytest_configure() -> None:
    # SIGTERM lets the fixtures end what they started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@dataclass(frozen=True)
class Built:
    """The packages, built twice: the source package first, then the binary packages by name."""

    first: list[Path]
    second: list[Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Builds twice at the same time; only the first build runs the unit tests."""
    directory = tmp_path_factory.mktemp("rpm")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(packages.build, directory / "first")
        second = pool.submit(packages.build, directory / "second", "--nocheck")
        return Built(first.result(), second.result())


@pytest.fixture(scope="session")
def machine(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the sources and two repositories: `site` has our packages, `original` the original's."""
    shared = tmp_path_factory.mktemp("shared")
    made = tmp_path_factory.mktemp("made")
    packages.build_spec("debian-stand-in", made / "site", **packages.versions())
    packages.build_spec("original", made / "original")
    for name in ("site", "original"):
        (shared / name).mkdir()
        for package in (*(made / name).rglob("*.rpm"), *(built.first[1:] if name == "site" else ())):
            shutil.copy(package, shared / name)
        packages.repository(shared / name)
    (shared / "source").mkdir()
    shutil.copy(next(built.first[0].parent.parent.glob("SOURCES/*.tar.gz")), shared / "source")
    with Machine(shared) as booted:
        for name in ("site", "original"):
            enabled = int(name == "site")
            text = (
                f"[{name}]\nname={name}\nbaseurl=file:///srv/shared/{name}\ngpgcheck=0\nenabled={enabled}\n"
            )
            booted.write(f"/etc/yum.repos.d/{name}.repo", text)
        yield booted


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with Issuer(tmp_path_factory.mktemp("issuer"), settings={"device_interval": 0}) as running:
        yield running
