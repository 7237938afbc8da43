"""Reading INI files: the values of the standard ConfigParser, and a place for each value and problem."""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Optional, Union

import pytest

from osg_token_renewer.config import ini


def read(path: Path, *texts: Union[str, bytes]) -> tuple[dict[str, ini.Section], list[str]]:
    """The sections of the files 0, 1, … and their problems, with these numbers as paths."""
    files = []
    for number, text in enumerate(texts):
        file = path / str(number)
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        files.append(str(file))
    sections, problems = ini.read(files)
    broken = [problem for section in sections for problem in section.broken.values()]
    return {section.name: section for section in sections}, [
        str(problem).replace(f"{path}/", "") for problem in problems + broken
    ]


def values(sections: dict[str, ini.Section]) -> dict[str, dict[str, str]]:
    return {
        name: {option: value.text for option, value in section.options.items()}
        for name, section in sections.items()
    }


def one(path: Path, value: str) -> str:
    """The text of one option that is written as `value`."""
    sections, problems = read(path, f"[x]\noption = {value}\n")
    assert problems == []
    return sections["x"].options["option"].text


# Compared with the standard ConfigParser

CHAIN = "".join(f"o{n} = %(o{n + 1})s\n" for n in range(10))
TEXTS = [
    "",
    "# only a comment\n; and another\n",
    "[x]\na = 1\n",
    "[x]\na=1\nb:2\nc = = 3\nd : : 4\n",
    "[x]\nA = 1\n",
    "[x]\na b = c d\n",
    "[x]\na =\nb =   \n",
    "[x]\r\na = 1\r\nb = 2\r\n",
    "[x]\ra = 1\r",
    "[x]\na = 1",
    "  [x]\n  a = 1\n  b = 2\n",
    "[x]\na = 1\n  2\n\n  3\n# comment\n  4\n ; comment\n  5\nb = 6\n",
    "[x]\na =\n  1\n  b = 2\n  [y]\n",
    "[x]\n\ta = 1\n\t\tb = 2\n c = 3\n",
    "[x]\na = 1 ; not a comment # nor this\n",
    "[x] trailing text\na = 1\n",
    "[x] # comment\na = 1\n",
    "[x]y]\na = 1\n",
    "[ x ]\na = 1\n",
    "[x y  z]\na = 1\n",
    "[x]\n[y]\n[z]\n",
    "[x]\na = 'quoted'\nb = \"quoted\"\nc = \\n\\\\\n",
    "[x]\na = $HOME ${a} $$\n",
    "[x]\na = %%\nb = %%(a)s\nc = %(a)s%%%(b)s\n",
    "[x]\na = %(B)s\nB = 1\n",
    "[DEFAULT]\na = 1\nb = %(c)s\n[x]\nc = 2\n[y]\na = 3\nc = %(a)s\n",
    "[DEFAULT]\na = 1\n[DEFAULT]\nb = 2\n[x]\nc = 3\n",
    "[x]\na = 1\n[DEFAULT]\na = 2\nb = 3\n",
    "[DEFAULT]\n",
    "[default]\na = 1\n[x]\n",
    "[x]\n" + CHAIN + "o10 = end\n",
    "[x]\na = %(gone)s\nb = 1\n",
    "[x]\na = %(b)s\nb = %(a)s\n",
    "[x]\na = größe € 𝄞\n[ü]\nö = ä\n",
    "[x]\na = 1\x0b2\x0c3\x1c4\u20285\u00a0\n",
    "\x0c[x]\na = 1\n\x0b b\n",
    "[x]\na = " + "1" * 100_000 + "\n",
    "[x]\n" + "".join(f"a{n} = {n}\n" for n in range(2000)),
]


def standard(text: str) -> Optional[dict[str, dict[str, Optional[str]]]]:
    """What the standard parser reads: None for a broken option, and None if it refuses the text."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    read: dict[str, dict[str, Optional[str]]] = {}
    for section in parser.sections():
        read[section] = {}
        for option in parser.options(section):
            try:
                read[section][option] = parser.get(section, option)
            except configparser.InterpolationSyntaxError:
                # A single percent sign, which the standard refuses.
                read[section][option] = "lone"
            except configparser.InterpolationError:
                read[section][option] = None
    return read


def same(path: Path, text: str) -> bool:
    """Whether the standard parser accepts the text; asserts that ours then reads the same."""
    file = path / "config.ini"
    file.write_bytes(text.encode("utf-8"))
    # Both see the line ends that reading a file gives.
    expected = standard(file.read_text(encoding="utf-8"))
    sections, problems = ini.read([str(file)])
    if expected is None:
        assert problems, text
        return False
    assert problems == [], text
    assert [section.name for section in sections] == list(expected)
    for section in sections:
        wanted = expected[section.name]
        assert set(section.options) | set(section.broken) == set(wanted), text
        for option, value in wanted.items():
            if value is None:
                assert option in section.broken, text
            elif value != "lone":
                assert section.options[option].text == value, text
    return True


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_that_the_standard_parser_accepts_is_read_as_the_same(tmp_path: Path, text: str) -> None:
    assert same(tmp_path, text)


REFUSED = [
    "a = 1\n",
    "[x]\na\n",
    "[x]\n= 1\n",
    "[x]\na = 1\n[x]\n",
    "[x]\na = 1\nA = 2\n",
    "[]\na = 1\n",
    "[x\na = 1\n",
    "[DEFAULT]\na = 1\n[DEFAULT]\na = 2\n",
]


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_the_standard_parser_refuses_is_a_problem(tmp_path: Path, text: str) -> None:
    assert not same(tmp_path, text)


# Beyond the standard parser


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("100%", "100%"),
        ("50% off", "50% off"),
        ("%d %(x)d %x %", "%d %(x)d %x %"),
        ("a%%b%c%%%d", "a%b%c%%d"),
        ("%(unfinished", "%(unfinished"),
        ("%()s", "%()s"),
        ("%%(option)s", "%(option)s"),
        ("$HOME ${option} $$ $(x)", "$HOME ${option} $$ $(x)"),
        ("\"double\" 'single' `back`", "\"double\" 'single' `back`"),
        ("a;b ;c #d # e", "a;b ;c #d # e"),
        ("in ner  blanks\tand tabs", "in ner  blanks\tand tabs"),
        ("größe €", "größe €"),
        ("= : [x]", "= : [x]"),
        ("\\n \\\\", "\\n \\\\"),
    ],
)
def test_a_secret_is_read_unchanged(tmp_path: Path, written: str, meant: str) -> None:
    assert one(tmp_path, written) == meant


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    sections, problems = read(tmp_path, b"\xef\xbb\xbf[x]\na = 1\n")
    assert (values(sections), problems) == ({"x": {"a": "1"}}, [])
    assert sections["x"].place.line == 1


def test_bytes_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    sections, problems = read(tmp_path, b"# Gr\xfc\xdfe\n[x]\na = 1\n; \xff\xfe\nb = caf\xe9\n")
    assert (values(sections), problems) == ({"x": {"a": "1", "b": "caf\udce9"}}, [])


def test_each_section_and_option_has_its_place(tmp_path: Path) -> None:
    sections, _ = read(
        tmp_path, "# comment\n\n[x]\na = 1\n  more\n\nb = 2\n\n[y]\nc=3\n", "[y]\nd=4\n[DEFAULT]\ne=5\n"
    )
    places = {
        name: [str(section.place), *(str(value.place) for value in section.options.values())]
        for name, section in sections.items()
    }
    assert places == {
        "x": [f"{tmp_path}/{place}" for place in ("0:3", "0:4", "0:7", "1:4")],
        "y": [f"{tmp_path}/{place}" for place in ("0:9", "0:10", "1:2", "1:4")],
    }


def test_a_later_file_adds_sections_and_overrides_single_options(tmp_path: Path) -> None:
    sections, problems = read(
        tmp_path, "[x]\na = 1\nb = 2\n", "[x]\nB = 3\nc = 4\n[y]\na = 5\n", "[x]\nc = 6\n"
    )
    assert problems == []
    assert values(sections) == {"x": {"a": "1", "b": "3", "c": "6"}, "y": {"a": "5"}}
    assert str(sections["x"].options["b"].place) == f"{tmp_path}/1:2"
    assert str(sections["x"].options["c"].place) == f"{tmp_path}/2:2"


def test_a_later_file_may_write_other_blanks_in_a_sections_title(tmp_path: Path) -> None:
    sections, problems = read(
        tmp_path, "[token x]\na = 1\n", "[ token  x ]\nb = 2\n", "[token\tx]\na = 3\n[token\tx]\n"
    )
    assert values(sections) == {"token x": {"a": "3", "b": "2"}}
    assert problems == ["2:3: [token\\tx] appears twice in this file, first in line 1"]


def test_a_title_with_blanks_around_default_is_another_section(tmp_path: Path) -> None:
    sections, problems = read(tmp_path, "[ DEFAULT ]\na = 1\n[x]\n", "[DEFAULT]\nb = 2\n[ DEFAULT ]\n")
    assert (values(sections), problems) == ({" DEFAULT ": {"a": "1", "b": "2"}, "x": {"b": "2"}}, [])


def test_references_see_the_options_of_all_files(tmp_path: Path) -> None:
    sections, problems = read(
        tmp_path, "[DEFAULT]\nhost = one\n[x]\nurl = https://%(host)s/\n", "[x]\nhost = two\n"
    )
    assert (values(sections)["x"]["url"], problems) == ("https://two/", [])


def test_every_problem_of_every_file_is_found(tmp_path: Path) -> None:
    first = "before = any\n[x]\nneither\na = 1\na = 2\n[x]\nb = 3\n[y\n[z]\nc = %(gone)s\nd = %(d)s\n"
    second = "[x]\na = 4\n\n[x]\n= 5\n"
    _, problems = read(tmp_path, first, second)
    assert sorted(problems) == sorted(
        [
            "0:1: comes before any section",
            "0:3: is neither a section, an option, nor a comment",
            "0:5: [x] a: appears twice in this section, first in line 4",
            "0:6: [x] appears twice in this file, first in line 2",
            "0:8: is neither a section, an option, nor a comment",
            "0:10: [z] c: refers with %(…)s to an option that does not exist; "
            "write %% for a percent sign before a parenthesis",
            "0:11: [z] d: refers to itself, through other options",
            "1:4: [x] appears twice in this file, first in line 1",
            "1:5: is neither a section, an option, nor a comment",
        ]
    )


def test_a_line_before_the_first_section_is_a_problem_unless_blank_or_comment(tmp_path: Path) -> None:
    _, problems = read(tmp_path, "# comment\n\na = 1\n  b\n; comment\n[x]\nc = 2\n")
    assert problems == ["0:3: comes before any section", "0:4: comes before any section"]


def test_two_titles_that_differ_in_blanks_are_the_same_section(tmp_path: Path) -> None:
    _, problems = read(tmp_path, "[token x]\na = 1\n[ token  x ]\nb = 2\n")
    assert problems == ["0:3: [ token  x ] appears twice in this file, first in line 1"]


def test_a_file_that_cannot_be_opened_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.ini").write_text("[x]\na = 1\n")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    sections, problems = ini.read(
        [str(tmp_path / name) for name in ("a.ini", "gone", "directory", "pipe", "device")]
    )
    assert [section.name for section in sections] == ["x"]
    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/gone: cannot be read: No such file or directory",
        f"{tmp_path}/directory: cannot be read: Is a directory",
        f"{tmp_path}/pipe: cannot be read: not a regular file",
        f"{tmp_path}/device: cannot be read: not a regular file",
    ]


def test_a_first_file_that_cannot_be_read_is_the_only_problem(tmp_path: Path) -> None:
    (tmp_path / "a.ini").write_text("[x]\na\n")
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "pipe"):
        sections, problems = ini.read([str(tmp_path / name), str(tmp_path / "a.ini")])
        assert (sections, len(problems)) == ([], 1)


def test_an_option_that_others_refer_to_is_not_a_sections_own(tmp_path: Path) -> None:
    sections, _ = read(tmp_path, "[DEFAULT]\ncommon = 1\n[x]\na = %(helper)s\nhelper = 2\nb = 3\n")
    assert sections["x"].own == {"a", "b"}
