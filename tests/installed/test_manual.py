"""The man pages as `make man` builds them and man(1) shows them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osg_token_renewer import __version__
from tests.host import ROOT

NAMES = {"osg-token-renewer.8", "osg-token-renewer-setup.8", "osg-token-renewer.ini.5"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built in a copy of their sources."""
    copy = tmp_path_factory.mktemp("copy")
    for directory in ("docs", "osg_token_renewer"):
        shutil.copytree(ROOT / directory, copy / directory)
    shutil.copy(ROOT / "Makefile", copy)
    rst2man = Path(sys.executable).with_name("rst2man")
    done = subprocess.run(
        ["make", "-C", str(copy), "man", f"RST2MAN={rst2man}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return copy / "build" / "man"


def test_each_page_is_built(pages: Path) -> None:
    assert {path.name for path in pages.iterdir()} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_man_shows_a_page_in_80_columns_without_a_warning(pages: Path, name: str) -> None:
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(pages / name)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    title, section = name.rsplit(".", 1)
    lines = done.stdout.splitlines()
    assert lines[0].lower().startswith(f"{title}({section})")
    assert lines[-1].startswith(f"osg-token-renewer {__version__} ")
    assert [line for line in lines if len(line) > 80] == []
    # Readers copy names, so no name is broken at the end of a line.
    assert [line for line in lines if re.search(r"[\w/][\N{HYPHEN}\N{SOFT HYPHEN}]$", line)] == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_apropos_finds_a_page(pages: Path, name: str) -> None:
    done = subprocess.run(["lexgrog", str(pages / name)], capture_output=True, text=True, check=False)
    assert f'"{name.rsplit(".", 1)[0]} - ' in done.stdout
