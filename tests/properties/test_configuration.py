"""Any configuration is read, or its problems are reported with their places and without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Union

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osg_token_renewer import config
from osg_token_renewer.errors import ConfigError
from osg_token_renewer.model import Config
from tests.config.test_ini import same
from tests.properties import cases

VALID = """\
[DEFAULT]
host = issuer.example.org

[account robot]
password_file = /etc/osg/tokens/robot.pw
timeout = 30

[account probe]
token_request_url = https://%(host)s/token
client_id = probe
client_secret = SECRET-1
client_auth = post
ca_file = /etc/ca.pem

[token a]
account = robot
token_path = /etc/osg/tokens/a
audience = https://ce.example.org
    another
min_lifetime = 600
mode = 0640
group = condor

[token b]
account = probe
token_path = /etc/osg/tokens/b
scope = compute.read  compute.create
claims = enforce

[renewer]
workers = 4
state_dir = /var/lib/osg
"""
LINES = VALID.splitlines()
# No message may show this. No option's name has capitals or digits.
SECRET = "SECRET-"
VALUES = st.one_of(
    cases.TEXT,
    st.from_regex(r"[0-9-]{1,30}", fullmatch=True),
    st.sampled_from(
        [
            "robot",
            "/etc/osg/tokens/a",
            "https://x/",
            "http://[::1",
            "http://x:port/",
            "credential:",
            "credential:x",
            "%(host)s",
        ]
    ),
)
NAMES = st.sampled_from([line.partition(" ")[0] for line in LINES if " = " in line])
HEADERS = st.one_of(
    st.sampled_from([line for line in LINES if line.startswith("[")]), cases.TEXT.map("[{}]".format)
)
NEW_LINES = st.one_of(
    st.builds("{} = {}".format, NAMES, VALUES),
    HEADERS,
    HEADERS.map(lambda header: header.replace(" ", "  ")),
    cases.TEXT,
    st.just("SECRET-2 in the wrong place"),
    st.just("  SECRET-3: wrapped"),
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The valid configuration with some lines removed, changed, added, repeated or indented."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["drop", "replace", "insert", "repeat", "indent", "cut"]))
        if change == "drop" and len(lines) > 1:
            del lines[at]
        elif change == "replace":
            lines[at] = draw(NEW_LINES)
        elif change == "insert":
            lines.insert(at, draw(NEW_LINES))
        elif change == "repeat":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif change == "indent":
            lines[at] = f"  {lines[at]}"
        else:
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("configuration") / "config.ini"
    (path.parent / "config.d").mkdir()
    yield path


def read(main: Path, *contents: bytes) -> Union[Config, ConfigError]:
    """Loads a main file and perhaps a drop-in; asserts that all problems are harmless."""
    files = [main, main.parent / "config.d" / "drop-in.ini"]
    for file, content in zip(files, (*contents, b"")):
        file.write_bytes(content)
    answer = cases.answer(lambda: config.load(str(main)), ConfigError)
    problems: Sequence[object] = answer.problems if isinstance(answer, ConfigError) else answer.warnings
    assert not isinstance(answer, ConfigError) or problems
    for problem in problems:
        assert str(problem).startswith(str(main.parent))
        assert cases.harmless(str(problem), limit=1000)
        assert SECRET not in str(problem).upper()
    return answer


def test_the_configuration_to_be_mutated_is_valid(main: Path) -> None:
    found = read(main, VALID.encode())
    assert isinstance(found, Config)
    assert (len(found.accounts), len(found.tokens)) == (2, 2)


@given(content=st.binary(max_size=400))
@example(content=b"[account x]\n\x1b[2J = 1\n")
@example(content="[\u202e\x1b[31m]\n".encode())
def test_any_bytes_are_read_or_refused(main: Path, content: bytes) -> None:
    read(main, content)


@given(text=mutated())
def test_a_configuration_with_changed_lines_is_read_or_refused(main: Path, text: str) -> None:
    read(main, text.encode("utf-8", "surrogatepass"))


@given(first=mutated(), second=st.lists(NEW_LINES, max_size=8).map("\n".join))
def test_a_drop_in_of_any_lines_is_read_or_refused(main: Path, first: str, second: str) -> None:
    read(main, first.encode("utf-8", "surrogatepass"), second.encode("utf-8", "surrogatepass"))


PIECES = [
    "[x]", "[y]", "[DEFAULT]", "[ DEFAULT ]", "a", "b", "C", " = ", ":", "=", "1", "%", "%%", "%(a)s",
    "%(b)s", "%(c)s", "%(", "$", "#", ";", '"', "\n", "\n\n", "\n  ", "\n\t", "\r\n", "\r", " ", "\x0b",
    "\x0c", "\x85", "\u2028", "ü", "]", "[", "a = 1\n", "b = %(a)s\n", "[x]\n", "c =\n",
]  # fmt: skip


@given(first=st.sampled_from(["", "[x]\n"]), text=st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_what_the_standard_parser_reads_is_read_as_the_same(main: Path, first: str, text: str) -> None:
    cases.answer(lambda: same(main.parent, first + text), ConfigError)
