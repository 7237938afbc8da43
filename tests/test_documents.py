"""What the documents say, against what the programs and the schema say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osg_token_renewer import cli
from osg_token_renewer.config import load, schema
from osg_token_renewer.options import Option
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.registry import SOURCES
from tests.host import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "etc" / "osg" / "token-renewer" / "config.ini"


def options() -> list[Option]:
    return [
        *schema.ACCOUNT,
        *schema.TOKEN,
        *schema.RENEWER,
        *(option for source in SOURCES.values() for option in source.OPTIONS),
        *(option for sink in SINKS.values() for option in sink.OPTIONS),
    ]


def test_the_readme_describes_each_option_of_the_configuration_and_no_other() -> None:
    rows = re.findall(r"^\| (?:`\[[^|]*`)? ?\| (`[^|]*) \| [^|]* \| [^|]*\|$", README, re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert described == {option.name for option in options()}


def test_the_readme_shows_each_command_line_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    block = README.split("## Commands")[1].split("```text")[1].split("```")[0]
    shown = set(re.findall(r"--[a-z-]+", block))
    for command in ([], ["renew"], ["check"], ["status"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help"])
    with pytest.raises(SystemExit):
        cli.setup_main(["--help"])
    offered = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert shown == offered - {"--help", "--version", "--verbose", "--quiet"}


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    assert names_in(README.split("```ini")[1].split("```")[0], tmp_path) == (
        ["myaccount", "probe"],
        ["ce", "monitoring"],
    )


def test_the_installed_example_has_no_section_as_it_is(tmp_path: Path) -> None:
    assert names_in(EXAMPLE.read_text(), tmp_path) == ([], [])


def test_the_installed_example_is_valid_once_its_options_are_uncommented(tmp_path: Path) -> None:
    uncommented = re.sub(r"^#(?=\[|\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert names_in(uncommented, tmp_path) == (["ACCOUNT_SHORTNAME", "CLIENT_NAME"], ["TOKEN_NAME"])


def names_in(text: str, directory: Path) -> tuple[list[str], list[str]]:
    path = directory / "config.ini"
    path.write_text(text)
    found = load(str(path))
    assert [str(warning) for warning in found.warnings if "no such file" not in warning.what] == []
    return list(found.accounts), [token.name for token in found.tokens]


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_each_file_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    links = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    paths = re.findall(
        r"`((?:osg_token_renewer|completions|docs|libexec|sbin|systemd|testbed|tests|tools|etc)/[^`*]*)`",
        text,
    )
    named = [path for path in (*links, *paths) if "discovered_client" not in path]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
