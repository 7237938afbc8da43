"""The documents, checked against the programs and the source tree.

The man pages are the complete reference; tests/test_manual.py checks them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from osg_token_renewer import cli
from osg_token_renewer.commands import setup
from osg_token_renewer.config import load
from tests.host import ROOT
from tests.test_imports import MAY_IMPORT, PACKAGE, VOCABULARY

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
EXAMPLE = ROOT / "etc" / "osg" / "token-renewer" / "config.ini"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by the command's name."""
    (subparsers,) = (
        action for action in cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(subparsers.choices)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_each_option_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"(?<!\S)`?(--[a-z][a-z-]*)", re.sub(r"systemctl.*", "", README)))
    known = {
        option
        for parser in (*parsers().values(), setup.build_parser())
        for action in parser._actions
        for option in action.option_strings
    }
    assert named
    assert named - known == set()


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    assert names_in(README.split("```ini")[1].split("```")[0], tmp_path) == (
        ["myaccount", "probe"],
        ["ce", "monitoring"],
    )


def test_the_installed_example_configures_nothing(tmp_path: Path) -> None:
    assert names_in(EXAMPLE.read_text(), tmp_path) == ([], [])


def test_the_installed_example_is_valid_when_its_options_are_uncommented(tmp_path: Path) -> None:
    uncommented = re.sub(r"^#(?=\[|\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert names_in(uncommented, tmp_path) == (["ACCOUNT_SHORTNAME", "CLIENT_NAME"], ["TOKEN_NAME"])


def names_in(text: str, directory: Path) -> tuple[list[str], list[str]]:
    path = directory / "config.ini"
    path.write_text(text)
    found = load(str(path))
    assert [str(warning) for warning in found.warnings if "no such file" not in warning.what] == []
    return list(found.accounts), [token.name for token in found.tokens]


@pytest.mark.parametrize("document", [*DOCUMENTS, *(str(path.relative_to(ROOT)) for path in DECISIONS)])
def test_each_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    directory = (ROOT / document).parent
    links = [
        directory / target.partition("#")[0]
        for target in re.findall(r"\]\(([^)]+)\)", text)
        if "://" not in target and not target.startswith("#")
    ]
    folders = f"{PACKAGE}|completions|docs|libexec|sbin|systemd|testbed|tests|tools|etc"
    paths = [ROOT / path for path in re.findall(rf"(?<!Write )`((?:{folders})/[^`*]*)`", text)]
    named = [*links, *paths]
    # Only few decisions name files.
    assert named or document not in DOCUMENTS
    assert [str(path) for path in named if not path.exists()] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_each_make_command_of_a_document_has_its_target(document: str) -> None:
    named = set(re.findall(r"^    make ([\w-]+)", (ROOT / document).read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    assert named
    assert named - targets == set()


def test_contributing_shows_one_command_on_each_line() -> None:
    (commands,) = re.findall(r"\A# Contributing\n\n((?:    .*\n)+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert [line for line in commands.splitlines() if not re.match(r"    make [\w-]+ +# \S", line)] == []


def test_the_architecture_shows_the_table_of_imports_that_the_tests_enforce() -> None:
    rows = re.findall(r"^\| `(\w+)(?:\.py|/)` \| [^|]* \| ([^|]*) \|$", ARCHITECTURE, re.MULTILINE)
    shown = {folder: set(re.findall(r"`(\w+)`", may)) for folder, may in rows}
    there = {path.stem for path in (ROOT / PACKAGE).iterdir() if path.suffix == ".py" or path.is_dir()}
    known = there - {"__pycache__", *VOCABULARY}
    assert shown == {folder: may & known for folder, may in MAY_IMPORT.items() if folder in known}


def test_each_decision_has_its_number_and_its_three_parts() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for path in DECISIONS:
        text = path.read_text()
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
