"""One machine and one issuer for all tests here, which are the steps of one administrator, in this order."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import Issuer
from tests.machine import packages
from tests.machine.machine import Machine


def pytest_configure() -> None:
    # So that the fixtures end what they started, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@dataclass(frozen=True)
class Built:
    """The packages, built twice."""

    first: list[Path]
    second: list[Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Its unit tests are run in the first build only."""
    directory = tmp_path_factory.mktemp("rpm")
    return Built(packages.build(directory / "first"), packages.build(directory / "second", "--nocheck"))


@pytest.fixture(scope="session")
def machine(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with two repositories, of which `site` has the packages and `original` the original's, and
    the sources."""
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
