"""The completions, in real shells.

A key inserts all candidates into the line. The line then starts a program that writes down its arguments.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from osg_token_renewer import cli, config
from osg_token_renewer.commands import setup
from osg_token_renewer.config import VARIABLE
from tests.host import ROOT
from tests.terminal import Terminal

COMPLETIONS = ROOT / "completions"
# `insert-completions` of readline and `_all_matches` of zsh.
INSERT_ALL = "\x1b*"
PROMPT = "shell> "
BASH = (
    ["bash", "--norc", "--noprofile", "-i"],
    "source /usr/share/bash-completion/bash_completion; bind 'set bell-style none'; "
    "set -u; shopt -s failglob",
)
ZSH = (
    ["zsh", "-f", "-i"],
    "fpath=($ZSH_FUNCTIONS $fpath); autoload -Uz compinit; compinit -D -u; "
    "zle -C all complete-word _generic; bindkey '^[*' all; "
    "zstyle ':completion:all:*' completer _all_matches _complete; "
    "zstyle ':completion:all:*' insert true; unsetopt beep",
)
CONFIG = """\
[DEFAULT]
colour = [token value]
[account main]
[account probe:1]
[renewer]
[token alpha]
[token al:pha]
[ token \t spaced ] ; with a comment
# [token commented]
[token it's]
[token $(touch$IFS'pwned')]
[token `touch$IFS'pwned'`]
[token *]
[token a\\b]
account = [token of an option]
  [token continued]
[tokens plural]
[token two words]
[token]
"""
TOKENS = ["alpha", "al:pha", "spaced", "it's", "$(touch$IFS'pwned')", "`touch$IFS'pwned'`", "*", "a\\b"]


class Shell:
    def __init__(self, terminal: Terminal, answers: Path) -> None:
        self._terminal = terminal
        self._answers = answers
        self._count = 0

    def candidates(self, line: str) -> list[str]:
        """What the shell offers at the end of the line, sorted; fails if anything else is printed."""
        arguments = self._enter(f"{line}{INSERT_ALL} ")
        typed = shlex.split(line)[1:]
        if not line.endswith(" "):
            # The candidates replace the beginning of the last word.
            typed, begun = typed[:-1], typed[-1:]
            if arguments == typed + begun:
                return []
        assert [word for word in typed if not word.startswith("~")] == [
            word for word in arguments[: len(typed)] if word in typed
        ]
        return sorted(arguments[len(typed) :])

    def do(self, command: str) -> None:
        self._enter(f"{command}; osg-token-renewer ")

    def _enter(self, line: str) -> list[str]:
        self._count += 1
        end = f"<end{self._count}>\r\n"
        self._terminal.type(f"{line}end{self._count}\n")
        self._terminal.wait_for(end)
        shown, _, self._terminal.shown = self._terminal.shown.partition(end)
        # Input before the prompt would be echoed twice.
        self._terminal.wait_for(PROMPT)
        assert shown.count("\n") == 1, f"more than the typed line was shown:\n{shown}"
        return self._answers.read_text().splitlines()[:-1]


@pytest.fixture(scope="module", params=[BASH, ZSH], ids=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    home = tmp_path_factory.mktemp("home")
    command, start = request.param
    env = {
        "PATH": f"{programs(home)}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANSWERS": str(home / "answers"),
    }
    env["BASH_COMPLETION_USER_DIR"] = str(bash_completions(home))
    env["ZSH_FUNCTIONS"] = str(COMPLETIONS)
    with Terminal(["/usr/bin/env", *command], env) as terminal:
        # Typed in another form than shown, so that the echo is not taken for the prompt.
        terminal.type(f"cd; {start}; PS1=she''ll'> '\n")
        terminal.wait_for(PROMPT)
        terminal.shown = ""
        yield Shell(terminal, home / "answers")
        terminal.type("exit\n")
        assert terminal.end() == 0


def programs(home: Path) -> Path:
    """Two programs for PATH that write down their arguments and show the last one."""
    directory = home / "bin"
    directory.mkdir()
    for name in ("osg-token-renewer", "osg-token-renewer-setup"):
        (directory / name).write_text(
            '#!/bin/sh\nprintf "%s\\n" "$@" >"$ANSWERS"\nfor last; do :; done\necho "<$last>"\n'
        )
        (directory / name).chmod(0o755)
    return directory


def bash_completions(home: Path) -> Path:
    """The files as they are installed: bash-completion finds them by the name of the command."""
    directory = home / "bash-completion" / "completions"
    directory.mkdir(parents=True)
    for name in ("osg-token-renewer", "osg-token-renewer-setup"):
        (directory / name).symlink_to(COMPLETIONS / "osg-token-renewer.bash")
    return directory.parent


@pytest.fixture
def main(tmp_path: Path) -> Path:
    path = tmp_path / "config.ini"
    path.write_text(CONFIG)
    return path


def options(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(option for action in parser._actions for option in action.option_strings)


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (
        action for action in cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(subparsers.choices)


def test_the_commands_are_offered(shell: Shell) -> None:
    assert shell.candidates("osg-token-renewer ") == sorted(commands())
    assert shell.candidates("osg-token-renewer -q --config /nonexistent/c.ini s") == ["status"]


@pytest.mark.parametrize("command", [None, *commands()])
def test_each_option_of_a_command_is_offered_and_no_other(shell: Shell, command: Optional[str]) -> None:
    parser = commands()[command] if command else cli.build_parser()
    assert shell.candidates(f"osg-token-renewer {command + ' ' if command else ''}-") == options(parser)


def test_each_option_of_the_setup_is_offered_and_no_other(shell: Shell) -> None:
    assert shell.candidates("osg-token-renewer-setup -") == options(setup.build_parser())
    assert shell.candidates("osg-token-renewer-setup --client-c") == ["--client-credentials"]


def test_tokens_of_all_files_are_offered_unchanged_and_never_executed(shell: Shell, main: Path) -> None:
    drop_ins = main.parent / "config.d"
    drop_ins.mkdir()
    (drop_ins / "more.ini").write_text("[token dropped]\n[token alpha]\nmode = 0640\n")
    (drop_ins / "other.txt").write_text("[token no-drop-in]\n")
    (drop_ins / ".hidden.ini").write_text("[token hidden]\n")
    assert shell.candidates(f"osg-token-renewer --config {main} renew ") == sorted([*TOKENS, "dropped"])
    assert shell.candidates(f"osg-token-renewer --config={main} -v renew --force al") == ["al:pha", "alpha"]
    assert shell.candidates(f"osg-token-renewer --config={main} renew dropped al:p") == ["al:pha"]
    assert [path.name for path in Path(main.parent).iterdir() if "pwned" in path.name] == []
    shell.do("test ! -e pwned")


def test_the_expected_names_are_those_that_the_program_reads(main: Path) -> None:
    names = [section.name.split() for section in config.ini.read([str(main)])[0]]
    assert [words[1] for words in names if len(words) == 2 and words[0] == "token"] == TOKENS


def test_other_commands_offer_no_token(shell: Shell, main: Path) -> None:
    for command in set(commands()) - {"renew"}:
        assert shell.candidates(f"osg-token-renewer --config {main} {command} al") == []


def test_the_environment_or_the_option_names_the_configuration(shell: Shell, main: Path) -> None:
    other = main.with_name("other.ini")
    other.write_text("[token other]\n")
    shell.do(f"export {VARIABLE}={other}")
    assert shell.candidates("osg-token-renewer renew ") == ["other"]
    assert shell.candidates(f"osg-token-renewer --config {main} renew al") == ["al:pha", "alpha"]
    shell.do(f"unset {VARIABLE}")


def test_the_name_of_the_configuration_may_be_quoted(shell: Shell, main: Path) -> None:
    drop_ins = main.parent / "config.d"
    drop_ins.mkdir()
    (drop_ins / "more.ini").write_text("[token alto]\n")
    main.rename(main.with_name("my own.ini"))
    shell.do(f"before=$HOME; HOME={main.parent}; cd")
    for name in ('"my own.ini"', "my\\ own.ini", "'my own.ini'"):
        assert shell.candidates(f"osg-token-renewer --config {name} renew al") == ["al:pha", "alpha", "alto"]
    main.with_name("my own.ini").rename(main)
    assert shell.candidates("osg-token-renewer --config ~/config.ini renew al") == ["al:pha", "alpha", "alto"]
    shell.do("HOME=$before; cd")


def test_accounts_are_offered_for_a_new_login_and_not_for_a_new_account(shell: Shell, main: Path) -> None:
    assert shell.candidates(f"osg-token-renewer-setup --config {main} --reauthenticate ") == [
        "main",
        "probe:1",
    ]
    assert shell.candidates(f"osg-token-renewer-setup --reauthenticate --config={main} pro") == ["probe:1"]
    assert shell.candidates(f"osg-token-renewer-setup --config {main} ") == []


def test_files_are_offered_for_options_that_take_a_file(shell: Shell, main: Path) -> None:
    directory = main.parent / "files"
    directory.mkdir()
    for name in ("one.ini", "with blank"):
        (directory / name).touch()
    both = [str(directory / "one.ini"), str(directory / "with blank")]
    assert shell.candidates(f"osg-token-renewer --config {directory}/") == both
    assert shell.candidates(f"osg-token-renewer-setup --pw-file {directory}/o") == both[:1]
    assert shell.candidates(f"osg-token-renewer-setup --ca-file={directory}/w") == [f"--ca-file={both[1]}"]
    assert shell.candidates("osg-token-renewer-setup --service-user roo") == ["root"]
    assert shell.candidates("osg-token-renewer-setup --issuer ") == []


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "binary", "broken", "loop"])
def test_an_unusable_configuration_does_no_harm(shell: Shell, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.ini"
    (tmp_path / "config.d").mkdir()
    for one in (path, tmp_path / "config.d" / "x.ini"):
        spoil(one, kind)
    found = shell.candidates(f"osg-token-renewer --config {path} renew ")
    assert found == (["well"] if kind in ("binary", "broken") else [])


def spoil(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "binary":
        path.write_bytes(b"[token well] \xff\xfe\n[token \x00\n\x80\x81[token no]\n")
    elif kind == "broken":
        path.write_text("no section = yes\n[token well]\n[token\n]\n")
    elif kind == "loop":
        path.symlink_to(path)
