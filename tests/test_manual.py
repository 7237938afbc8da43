"""The man pages, checked against the parsers, the schema and the code: they are the complete reference."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from osg_token_renewer import cli, config, errors, model, options
from osg_token_renewer.commands import setup
from osg_token_renewer.config import schema
from osg_token_renewer.engine import workers
from osg_token_renewer.errors import Exit, Failure
from osg_token_renewer.options import Option
from osg_token_renewer.report import json, states
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system import paths, process
from osg_token_renewer.system.signals import ENDING
from tests.host import ROOT
from tests.report.test_json import KEYS
from tests.test_documents import names_in, parsers

MANUAL = ROOT / "docs" / "man"
RENEWER, SETUP, INI = "osg-token-renewer.8", "osg-token-renewer-setup.8", "osg-token-renewer.ini.5"
# The titles of the page about the configuration, and the options that the schema has under each.
PARTS = {
    "Accounts": schema.ACCOUNT,
    **{f"Accounts of {source.NAME}": source.OPTIONS for source in SOURCES.values()},
    "Tokens": (*schema.TOKEN, *(option for sink in SINKS.values() for option in sink.OPTIONS)),
    "The program": schema.RENEWER,
}
# Defaults that are not in the schema.
DEFAULTS = {"workers": workers.AT_ONCE}


def part(page: str, title: str) -> str:
    """The text under the title of a section (without its subsections) or of a subsection."""
    parts = re.split(r"^(\S.*)\n([=-])\2+\n", (MANUAL / f"{page}.rst").read_text(), flags=re.MULTILINE)
    found = dict(zip(parts[1::3], parts[3::3]))
    assert title in found, f"{page} has no {title!r}, but {list(found)}"
    return found[title]


def terms(text: str, pattern: str) -> list[str]:
    """The terms of a definition list that match the pattern."""
    return re.findall(rf"^(?:{pattern})(?=\n +\S)", text, re.MULTILINE)


def offered(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser as the pages show them: `-q, --quiet`, `--config FILE`."""
    return {
        f"{', '.join(one.option_strings)} {one.metavar or ''}".strip()
        for one in parser._actions
        if one.option_strings
    }


def described(text: str) -> set[str]:
    """The options that a page describes."""
    return set(re.findall(r"^ *(--?[a-z].*)(?=\n +\S)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("page", "titles"),
    [
        (
            RENEWER,
            [
                "Commands",
                "Options",
                "When a renewal fails",
                "Exit status",
                "Limits and retries",
                "Clocks",
                "The service and its timer",
                "The sandbox of the service",
                "Logs",
                "SELinux",
                "Upgrading from version 1",
                "Environment",
            ],
        ),
        (SETUP, ["Options", "Exit status", "Environment"]),
        (INI, ["Syntax", *PARTS, "Trusted files"]),
    ],
)
def test_a_page_has_the_usual_sections(page: str, titles: Sequence[str]) -> None:
    for title in ("Synopsis", "Description", *titles, "Files", "Examples", "See also"):
        assert part(page, title).strip()
    others = {RENEWER, SETUP, INI} - {page}
    named = part(page, "See also")
    assert [other for other in others if "**{}**\\({})".format(*other.rsplit(".", 1)) not in named] == []


# Commands and options


def test_each_option_before_the_command_is_described_and_no_other() -> None:
    assert described(part(RENEWER, "Options")) == offered(cli.build_parser())


def test_each_command_is_described_with_each_of_its_options_and_no_other() -> None:
    parts = re.split(r"^\*\*(\w+)\*\*.*\n", part(RENEWER, "Commands"), flags=re.MULTILINE)
    found = {name: described(text) for name, text in zip(parts[1::2], parts[2::2])}
    assert found == {name: offered(parser) - {"-h, --help"} for name, parser in parsers().items()}


def test_each_option_of_the_setup_is_described_and_no_other() -> None:
    assert described(part(SETUP, "Options")) == offered(setup.build_parser())


def test_the_synopsis_has_a_line_for_each_command_with_all_its_options() -> None:
    lines = part(RENEWER, "Synopsis").splitlines()
    for name, parser in parsers().items():
        (line,) = (line for line in lines if f" **{name}**" in line)
        known = {option for one in parser._actions for option in one.option_strings} - {"-h", "--help"}
        assert set(re.findall(r"\*\*(-[\w-]+)\*\*", line)) == known
        assert [
            one.metavar
            for one in parser._actions
            if not one.option_strings and f"*{one.metavar}*" not in line
        ] == []


@pytest.mark.parametrize("page", [RENEWER, SETUP])
def test_each_exit_status_is_described(page: str) -> None:
    found = {
        int(number)
        for term in terms(part(page, "Exit status"), r"\d+(?:, \d+)*")
        for number in term.split(", ")
    }
    assert {*Exit, *(128 + number for number in ENDING)} - found == set()


# What the program says


def test_each_reason_of_a_failure_is_explained_and_no_other() -> None:
    known = {
        kind.reason for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Failure)
    } - {Failure.reason}
    found = re.findall(r"\w+", " ".join(terms(part(RENEWER, "When a renewal fails"), r"\*\w+\*")))
    assert set(found) == {*known, model.BUG}


def test_each_state_is_explained_and_no_other() -> None:
    listed = re.findall(r"\w+", " ".join(terms(part(RENEWER, "Commands"), r" +\*\w+\*(?:, \*\w+\*)*")))
    assert set(listed) == {
        states.FRESH,
        states.DUE,
        states.EXPIRING,
        states.EXPIRED,
        states.FAILED,
        states.MISSING,
    }


def test_each_key_of_the_json_is_named() -> None:
    text = part(RENEWER, "Commands")
    assert [
        key for key in (*KEYS, "schema_version", "generated_at", "tokens") if f"**{key}**" not in text
    ] == []
    assert f"**schema_version** ({json.SCHEMA_VERSION})" in " ".join(text.split())


def test_each_environment_variable_that_is_read_is_described_and_no_other() -> None:
    found = set(
        re.findall(r"\w+", " ".join(terms(part(RENEWER, "Environment"), r"\*\*\w+\*\*(?:, \*\*\w+\*\*)*")))
    )
    handed_on = {*process._INHERITED, *process._PROXIES}
    assert variables() - found == set()
    assert found - variables() - handed_on == set()


def variables() -> set[str]:
    """The variables that the code reads from the environment."""
    texts = [path.read_text() for path in Path(cli.__file__).parent.rglob("*.py")]
    found = {
        name
        for text in texts
        for name in re.findall(
            r'(?:environ(?:\.get\(|\[)|_from_systemd\()"(\w+)"|"(\w+)" (?:not )?in os\.environ', text
        )
    }
    return {config.VARIABLE, *("".join(pair) for pair in found)}


def test_the_files_of_the_program_are_named() -> None:
    text = part(RENEWER, "Files")
    wanted = (config.MAIN, f"{setup.TOKENS}/", f"{paths.STATE}/", f"{paths.RUNTIME}/")
    assert [path for path in wanted if f"*{path}*" not in text] == []


# The configuration


def test_each_option_of_the_configuration_is_described_in_its_part_and_no_other() -> None:
    found = {title: {name for name, _, _ in entries(title)} for title in PARTS}
    assert found == {title: {option.name for option in wanted} for title, wanted in PARTS.items()}


def entries(title: str) -> Iterator[tuple[str, str, str]]:
    """Name, placeholder and description of each option that the page describes under this title."""
    for name, placeholder, text in re.findall(
        r"^\*\*(\w+) =\*\* \*(\w+)\*\n((?: {4}.*\n)+)", part(INI, title), re.MULTILINE
    ):
        yield name, placeholder, " ".join(text.split())


@pytest.mark.parametrize(
    ("title", "option"),
    [pytest.param(title, one, id=one.name) for title, wanted in PARTS.items() for one in wanted],
)
def test_an_option_is_described_with_its_type_and_its_default(title: str, option: Option) -> None:
    described = {name: (placeholder, text) for name, placeholder, text in entries(title)}
    assert option.name in described, f"add **{option.name} =** to {title!r} in {INI}.rst"
    placeholder, text = described[option.name]
    default = option.default or DEFAULTS.get(option.name)
    wanted = "Required." if option.required else f"Default: {default}" if default else "Default: "
    assert wanted in text
    for word in alternatives(option):
        assert f"*{word}*" in text
    assert (placeholder == "SECONDS") == ("seconds" in complaint(option))
    assert (placeholder == "SECRET_FILE") == (option.parse is options.secret_file)
    assert (placeholder == "PATH") == (option.parse is options.absolute_path)
    lowest, highest = limits(option)
    assert lowest == "0" or f"from {lowest} to {highest}" in text


def complaint(option: Option) -> str:
    """What the option's type says about a strange value; empty if it accepts it."""
    try:
        option.parse("99999999999 \0")
    except ValueError as error:
        return str(error)
    return ""


def alternatives(option: Option) -> list[str]:
    _, found, words = complaint(option).partition("must be one of ")
    return words.split(", ") if found else []


def limits(option: Option) -> tuple[str, str]:
    try:
        option.parse("999999999999")
    except ValueError as error:
        found = re.search(r"from (\d+) to (\d+)", str(error))
        return (found[1], found[2]) if found else ("0", "")
    return "0", ""


def test_the_configuration_in_the_page_is_valid(tmp_path: Path) -> None:
    example = re.sub(r"^ {4}", "", part(INI, "Examples").split("::\n")[1], flags=re.MULTILINE)
    assert names_in(example, tmp_path) == (["myaccount", "probe"], ["ce", "monitoring"])
