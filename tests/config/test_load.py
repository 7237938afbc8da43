"""Whole configurations: the main file, its drop-ins, and all their problems at once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from osg_token_renewer import config
from osg_token_renewer.errors import ConfigError
from tests.faults import apart

# Many mistakes in two files, with the reports beside them.
MAIN = """\
stray = 1                                 # 1: comes before any section
[account robot]
password_file = {path}/pw
colour = blue                             # 4: [account robot] colour: is not an option here and is ignored
[account --help]                          # 5: [account --help] a name must not begin with '-'
password_file = {path}/pw
[account probe]                           # 7: [account probe] client_id: is missing
token_request_url = http://example.org/   # 8: [account probe] token_request_url: must be https
client_secret = hunter2
nonsense                                  # 10: is neither a section, an option, nor a comment
[token a]
account = nobody
token_path = /a
[token ../b]                              # 14: [token ../b] a name must not contain '/', nor be '.' or '..'
account = robot
[token c]                                 # 16: [token c] account: is missing
token_path = c
min_lifetime = soon
mode = 9
[token d]
account = probe
token_path = /d
[tokken e]                                # 23: [tokken e] is not a section; did you mean token?
"""
DROP_IN = """\
[token a]
scope = %(gone)s
[token f]
account = robot
token_path = /d
[token f]
"""
WRONG = [
    "config.d/10.ini:2: [token a] scope: refers with %(…)s to an option that does not exist; "
    "write %% for a percent sign before a parenthesis",
    "config.d/10.ini:5: [token f] token_path: is also the path of [token d]",
    "config.d/10.ini:6: [token f] appears twice in this file, first in line 3",
    "config.ini:1: comes before any section",
    "config.ini:4: [account robot] colour: is not an option here and is ignored (warning)",
    "config.ini:5: [account --help] a name must not begin with '-' (warning)",
    "config.ini:7: [account probe] client_id: is missing",
    "config.ini:8: [account probe] token_request_url: "
    "must be https: plain http is only for this host's loopback",
    "config.ini:10: is neither a section, an option, nor a comment",
    "config.ini:12: [token a] account: there is no [account] section of this name",
    "config.ini:14: [token ../b] a name must not contain '/', nor be '.' or '..'",
    "config.ini:16: [token c] account: is missing",
    "config.ini:17: [token c] token_path: must be an absolute path",
    "config.ini:18: [token c] min_lifetime: must be a number of seconds",
    "config.ini:19: [token c] mode: must be an octal mode of three or four digits, as 0600",
    "config.ini:23: [tokken e] is not a section of this program; did you mean token?",
]
ACCOUNT = "[account robot]\npassword_file = {path}/pw\n"
TOKEN = "[token {name}]\naccount = robot\ntoken_path = {path}/{name}\n"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.VARIABLE, raising=False)


def write(file: Path, text: str, path: Path) -> str:
    """Writes a private file, without comments at line ends."""
    file.parent.mkdir(exist_ok=True)
    lines = (line.partition("  #")[0].rstrip() for line in text.splitlines())
    file.write_text("".join(f"{line}\n" for line in lines).replace("{path}", str(path)))
    file.chmod(0o600)
    return str(file)


def main(tmp_path: Path, text: str = ACCOUNT) -> str:
    """Writes a main file and the password file that it names."""
    (tmp_path / "pw").touch(mode=0o600)
    return write(tmp_path / "config.ini", text, tmp_path)


def drop_in(tmp_path: Path, file: str, text: str) -> None:
    write(tmp_path / "config.d" / file, text, tmp_path)


def problems(tmp_path: Path, file: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert caught.value.exit_status == 78
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_all_problems_of_all_files_are_reported_at_once_with_their_places(tmp_path: Path) -> None:
    file = main(tmp_path, MAIN)
    drop_in(tmp_path, "10.ini", DROP_IN)
    assert problems(tmp_path, file) == WRONG


def test_a_configuration_with_only_warnings_is_loaded(tmp_path: Path) -> None:
    found = config.load(main(tmp_path, ACCOUNT + "colour = blue\n"))
    assert [str(warning) for warning in found.warnings] == [
        f"{tmp_path}/config.ini:3: [account robot] colour: is not an option here and is ignored (warning)"
    ]


def test_drop_ins_add_sections_and_options_and_override_single_options(tmp_path: Path) -> None:
    file = main(tmp_path, ACCOUNT + TOKEN.replace("{name}", "x") + "scope = read\naudience = one\n")
    drop_in(tmp_path, "20.ini", "[token x]\nscope = write\n")
    drop_in(
        tmp_path,
        "10.ini",
        "[token x]\nscope = overridden\nmin_lifetime = 60\n" + TOKEN.replace("{name}", "y"),
    )
    found = config.load(file)
    assert [(token.name, token.scope, token.audience, token.min_lifetime) for token in found.tokens] == [
        ("x", ("write",), ("one",), 60),
        ("y", (), (), None),
    ]
    assert [Path(name).name for name in found.files] == ["config.ini", "10.ini", "20.ini"]


def test_a_drop_in_can_correct_the_main_file(tmp_path: Path) -> None:
    file = main(tmp_path, ACCOUNT + "[token x]\naccount = robot\nmode = wrong\n")
    drop_in(tmp_path, "a.ini", "[token x]\ntoken_path = /x\nmode = 0640\n")
    assert config.load(file).tokens[0].destination.mode == 0o640


def test_only_visible_ini_files_are_drop_ins(tmp_path: Path) -> None:
    file = main(tmp_path)
    for name in ("a.ini.rpmsave", "b.conf", ".hidden.ini", "c.ini~"):
        drop_in(tmp_path, name, "this is no INI file\n")
    assert list(config.load(file).accounts) == ["robot"]


def test_a_drop_in_directory_that_cannot_be_listed_is_the_only_problem() -> None:
    # Not tmp_path, which another user cannot reach.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        file = main(place, "")
        drop_in(place, "10.ini", "[token x]\n")
        (place / "config.d").chmod(0)

        def body() -> None:
            assert problems(place, file) == ["config.d: cannot be listed: Permission denied"]

        apart(body, unprivileged=True)
        (place / "config.d").chmod(0o700)


@pytest.mark.parametrize("kind", ["nothing", "file", "link to nothing"])
def test_without_a_drop_in_directory_there_is_only_the_main_file(tmp_path: Path, kind: str) -> None:
    file = main(tmp_path)
    if kind == "file":
        (tmp_path / "config.d").touch()
    elif kind == "link to nothing":
        (tmp_path / "config.d").symlink_to("nowhere")
    assert config.load(file).files == (file,)


def test_a_directory_name_is_not_a_pattern(tmp_path: Path) -> None:
    odd = tmp_path / "[a]*?"
    odd.mkdir()
    file = main(odd)
    drop_in(odd, "10.ini", TOKEN.replace("{name}", "x"))
    assert [token.name for token in config.load(file).tokens] == ["x"]


def test_the_variable_names_another_main_file_and_its_drop_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        main(tmp_path / name)
        drop_in(tmp_path / name, "10.ini", TOKEN.replace("{name}", name))
    monkeypatch.setenv(config.VARIABLE, str(tmp_path / "one" / "config.ini"))
    assert [token.name for token in config.load().tokens] == ["one"]
    assert [token.name for token in config.load(str(tmp_path / "two" / "config.ini")).tokens] == ["two"]


def test_the_usual_path_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.files()[0] == "/etc/osg/token-renewer/config.ini"
    monkeypatch.setenv(config.VARIABLE, "")
    assert config.files()[0] == "/etc/osg/token-renewer/config.ini"


@pytest.mark.parametrize("kind", ["gone", "directory", "link", "below a file"])
def test_a_main_file_that_cannot_be_read_is_the_only_problem(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "config.ini"
    why = "No such file or directory"
    if kind == "directory":
        file.mkdir()
        why = "Is a directory"
    elif kind == "link":
        file.symlink_to("nowhere")
    elif kind == "below a file":
        file.touch()
        file /= "config.ini"
        why = "Not a directory"
    if kind != "below a file":
        drop_in(tmp_path, "10.ini", "[token x]\naccount = not there\n")
    assert problems(tmp_path, str(file)) == [
        f"{str(file).replace(f'{tmp_path}/', '')}: cannot be read: {why}"
    ]


def test_a_drop_in_that_cannot_be_read_does_not_hide_other_problems(tmp_path: Path) -> None:
    file = main(tmp_path, ACCOUNT + "timeout = soon\n" + TOKEN.replace("{name}", "x"))
    (tmp_path / "config.d" / "10.ini").mkdir(parents=True)
    (tmp_path / "config.d" / "20.ini").symlink_to("nowhere")
    assert problems(tmp_path, file) == [
        "config.d/10.ini: cannot be read: Is a directory",
        "config.d/20.ini: cannot be read: No such file or directory",
        "config.ini:3: [account robot] timeout: must be a number of seconds",
    ]


def test_a_configuration_that_others_can_change_is_refused_with_all_other_problems(
    tmp_path: Path,
) -> None:
    file = main(tmp_path, ACCOUNT + TOKEN.replace("{name}", "x") + "mode = 0666\n")
    for name in ("10.ini", "20.ini"):
        drop_in(tmp_path, name, "# nothing\n")
    for name in ("config.ini", "pw", "config.d/10.ini"):
        (tmp_path / name).chmod(0o602)
    (tmp_path / "config.d").chmod(0o777)
    assert problems(tmp_path, file) == [
        "config.d/10.ini: others can write it: chmod o-w config.d/10.ini",
        "config.d/10.ini: others can write to config.d, where it is: chmod o-w config.d",
        "config.d/20.ini: others can write to config.d, where it is: chmod o-w config.d",
        "config.ini: others can write it: chmod o-w config.ini",
        "config.ini:2: [account robot] password_file: others can write it: chmod o-w pw",
        "config.ini:6: [token x] mode: must not let others write",
    ]


if os.geteuid() == 0:  # only root can give files away

    @pytest.mark.parametrize("name", ["config.ini", "config.d/10.ini"])
    def test_a_configuration_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
        file = main(tmp_path)
        drop_in(tmp_path, "10.ini", "# nothing\n")
        os.chown(tmp_path / name, 4242, 0)
        (found,) = problems(tmp_path, file)
        assert found.startswith(
            f"{name}: it belongs to 4242, neither to root nor to the service user: chown osg-token-svc "
        )


def test_an_empty_configuration_has_no_problem_and_no_token(tmp_path: Path) -> None:
    found = config.load(main(tmp_path, "# nothing yet\n"))
    assert (found.accounts, found.tokens, found.warnings) == ({}, (), ())


def test_the_installed_example_has_no_problem_even_if_its_lines_are_used(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "etc" / "osg" / "token-renewer" / "config.ini").read_text()
    file = tmp_path / "config.ini"
    file.write_text(example)
    assert config.load(str(file)).tokens == ()
    file.write_text(
        "".join(
            line[1:] + "\n"
            for line in example.splitlines()
            if line.startswith("#") and (" = " in line or line.startswith("#["))
        )
    )
    found = config.load(str(file))
    assert (len(found.accounts), len(found.tokens), found.tokens[0].min_lifetime) == (2, 1, 1800)
    # The files that it names are not on this host.
    assert {warning.what for warning in found.warnings} <= {"there is no such file"}
