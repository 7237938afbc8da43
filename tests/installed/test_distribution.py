"""The wheel and the source distribution: what they contain, and that they install and run."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from osg_token_renewer import __version__
from tests.host import ROOT, succeed

NAME = f"osg_token_renewer-{__version__}"
# What a checkout has besides the files of the repository.
MADE = (".*", "build", "demo", "dist", "node_modules", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that other tests do not find what a build leaves."""
    return Path(
        shutil.copytree(
            ROOT, tmp_path_factory.mktemp("source") / "tree", ignore=shutil.ignore_patterns(*MADE)
        )
    )


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    """The directory with both. `build` makes the wheel from the source distribution."""
    command([sys.executable, "-m", "build", "--outdir", "dist", "."], source)
    return source / "dist"


def command(arguments: list[str], directory: Path) -> str:
    """Runs a program that must succeed; returns what it prints."""
    # The program must not find the checkout by accident.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return succeed(arguments, directory, env)


def test_both_pass_the_checks_of_the_package_index(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == {f"{NAME}.tar.gz", f"{NAME}-py3-none-any.whl"}
    command([sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())], built)


def test_the_wheel_has_the_whole_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "osg_token_renewer").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == modules
    assert any(name.endswith("/LICENSE") for name in names)
    assert metadata["License-File"] == "LICENSE"
    assert "License :: OSI Approved :: Apache Software License" in metadata.get_all("Classifier", [])
    assert "# osg-token-renewer" in str(metadata.get_payload())


def test_the_source_distribution_has_every_file_of_a_checkout(built: Path, source: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {member.name.partition("/")[2]: member for member in archive if member.isfile()}
    wanted = [
        path
        for path in source.rglob("*")
        if path.is_file() and not {"dist", "osg_token_renewer.egg-info"} & set(path.parts)
    ]
    assert [
        str(path.relative_to(source)) for path in wanted if str(path.relative_to(source)) not in names
    ] == []
    programs = [path for path in wanted if os.access(path, os.X_OK)]
    assert programs
    assert [path.name for path in programs if not names[str(path.relative_to(source))].mode & 0o100] == []


def test_the_wheel_installs_with_its_dependencies_and_runs(built: Path, tmp_path: Path) -> None:
    programs = installed(built / f"{NAME}-py3-none-any.whl", tmp_path)
    runs(programs, tmp_path)
    # Also the modules that are imported late, with their libraries.
    modules = "osg_token_renewer.net.https, osg_token_renewer.report.table, osg_token_renewer.commands.setup"
    where = command(
        [str(programs / "python"), "-c", f"import {modules}; print(osg_token_renewer.__file__)"], tmp_path
    )
    assert where.startswith(str(tmp_path))


def test_the_source_distribution_installs_and_runs(built: Path, tmp_path: Path) -> None:
    # The test of the wheel installs the dependencies.
    runs(installed(built / f"{NAME}.tar.gz", tmp_path, "--no-deps"), tmp_path)


def installed(file: Path, directory: Path, *options: str) -> Path:
    """Installs into a fresh environment; returns the directory of its programs."""
    command([sys.executable, "-m", "venv", "--without-pip", "fresh"], directory)
    programs = directory / "fresh" / "bin"
    command(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(programs / "python"),
            "install",
            "--quiet",
            *options,
            str(file),
        ],
        directory,
    )
    return programs


def runs(programs: Path, directory: Path) -> None:
    """Both programs start, and the renewal program reads a configuration."""
    assert (
        command([str(programs / "osg-token-renewer"), "--version"], directory)
        == f"osg-token-renewer {__version__}\n"
    )
    assert "ACCOUNT" in command([str(programs / "osg-token-renewer-setup"), "--help"], directory)
    config = directory / "config.ini"
    config.write_text(
        "[account a]\npassword_file = /nonexistent/a.pw\n"
        "[token t]\naccount = a\ntoken_path = /nonexistent/t\n"
    )
    found = command([str(programs / "osg-token-renewer"), "--config", str(config), "check"], directory)
    assert found.splitlines()[-1] == f"{config}: 1 account, 1 token, 1 warning"
