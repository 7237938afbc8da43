"""Options: how a text becomes a value, or is refused by a message that does not show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from osg_token_renewer import options
from osg_token_renewer.options import Option


def refused(parse: Callable[[str], Any], value: str) -> str:
    """The message about a refused value."""
    with pytest.raises(ValueError) as caught:
        parse(value)
    said = str(caught.value)
    assert said
    assert len(value) < 3 or value not in said
    return said


@pytest.mark.parametrize(
    "value", ["a", "A.b-c_d", "ce.example.org:9619", "größe", "a..b", "...", "x" * 200, "a-", "%"]
)
def test_a_good_name_is_accepted(value: str) -> None:
    assert options.name(value) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("--help", "begin with '-'"),
        ("-", "begin with '-'"),
        ("../x", "contain '/'"),
        ("a/b", "contain '/'"),
        (".", "'.' or '..'"),
        ("..", "'.' or '..'"),
        ("two words", "white space"),
        ("a\tb", "white space"),
        ("a\nb", "white space"),
        ("no\u00a0break", "white space"),
        ("a\x1bb", "control characters"),
        ("a\u202eb", "control characters"),
        ("caf\udce9", "control characters"),
    ],
)
def test_a_bad_name_is_refused(value: str, problem: str) -> None:
    assert problem in refused(options.name, value)


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0), ("1800", 1800), ("007", 7), ("315360000", 315360000)]
)
def test_seconds_are_a_whole_number(value: str, seconds: int) -> None:
    assert options.seconds(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "1_000",
        " 7",
        "10 min",
        "٣",
        "315360001",
        "9" * 12,
        "9" * 5000,
        "abc",
    ],
)
def test_other_spellings_of_seconds_are_refused(value: str) -> None:
    assert "must be a number of seconds" in refused(options.seconds, value)


@pytest.mark.parametrize("value", ["0", "3601", "-1", "0.5", "soon"])
def test_a_time_limit_is_from_a_second_to_an_hour(value: str) -> None:
    assert "must be a number of seconds" in refused(options.time_limit, value)
    assert [options.time_limit(good) for good in ("1", "60", "3600")] == [1, 60, 3600]


@pytest.mark.parametrize(
    "value", ["condor", "0", "4294967293", "host$", "EXAMPLE\\domain users", "größe", "²"]
)
def test_a_good_owner_is_accepted(value: str) -> None:
    assert options.owner(value) == value


@pytest.mark.parametrize(
    "value",
    ["4294967294", "4294967295", "9" * 4000, "٣", "con\ndor", "con\0dor", "con\x1bdor", "con\udce9dor"],
)
def test_a_bad_owner_is_refused(value: str) -> None:
    # For chown(2), 4294967295 means "leave unchanged".
    assert "must " in refused(options.owner, value)


@pytest.mark.parametrize("value", ["0", "10001", "many"])
def test_a_count_is_from_1_to_10000(value: str) -> None:
    assert "must be a number" in refused(options.count, value)
    assert [options.count(good) for good in ("1", "10000")] == [1, 10000]


@pytest.mark.parametrize(
    ("value", "mode"), [("600", 0o600), ("0640", 0o640), ("0664", 0o664), ("2640", 0o2640), ("000", 0)]
)
def test_a_mode_is_octal(value: str, mode: int) -> None:
    assert options.mode(value) == mode


@pytest.mark.parametrize("value", ["0o600", "6", "00600", "0680", "rw-------", "-600", "600 "])
def test_other_spellings_of_a_mode_are_refused(value: str) -> None:
    assert "octal mode of three or four digits" in refused(options.mode, value)


@pytest.mark.parametrize("value", ["602", "0666", "0777", "1777", "003"])
def test_a_mode_must_not_let_others_write(value: str) -> None:
    assert refused(options.mode, value) == "must not let others write"


@pytest.mark.parametrize("value", ["/a", "/a/b.token", "/a b/c", "/a/../b", "//a", "/ü"])
def test_an_absolute_path_of_a_file_is_accepted(value: str) -> None:
    assert options.absolute_path(value) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("relative/path", "absolute"),
        ("~/token", "absolute"),
        ("/", "not of a directory"),
        ("/a/", "not of a directory"),
        ("/a/..", "not of a directory"),
        ("/a/.", "not of a directory"),
        ("/a\nb", "one line"),
        ("/a\0b", "one line"),
    ],
)
def test_other_paths_are_refused(value: str, problem: str) -> None:
    assert problem in refused(options.absolute_path, value)


@pytest.mark.parametrize(
    "value",
    [
        "https://issuer.example.org/token",
        "https://issuer.example.org:8443/t?x=1",
        "http://localhost:8080/token",
        "http://127.0.0.1/token",
        "http://[::1]:80/token",
    ],
)
def test_a_safe_endpoint_is_accepted(value: str) -> None:
    assert options.endpoint(value) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("http://issuer.example.org/token", "plain http is only for"),
        ("http://localhost.example.org/token", "plain http is only for"),
        ("http://127.0.0.1.example.org/token", "plain http is only for"),
        ("ftp://issuer.example.org", "must be an https URL"),
        ("issuer.example.org/token", "must be an https URL"),
        ("https:///token", "must be an https URL"),
        ("https://user:hunter2@issuer.example.org/", "must not hold a user name or password"),
        ("https://issuer.example.org:port/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("https://issuer.example.org/a b", "white space"),
        ("https://issuer.example.org/\nHost: x", "white space"),
        ("https://issuer.example.org/\0", "control characters"),
        ("https://issuer.example.org/\x1b[2J", "control characters"),
    ],
)
def test_an_unsafe_endpoint_is_refused(value: str, problem: str) -> None:
    assert problem in refused(options.endpoint, value)


def test_a_choice_lists_what_is_allowed() -> None:
    claims = options.choice("warn", "enforce")
    assert claims("enforce") == "enforce"
    assert refused(claims, "Enforce") == "must be one of warn, enforce"


def test_words_are_separated_by_any_white_space() -> None:
    assert options.words("one  two\n\tthree") == ("one", "two", "three")


@pytest.mark.parametrize("value", ["one t\0wo", "\x1b[31mred", "back\bspace", "delete\x7f"])
def test_words_must_not_have_control_characters(value: str) -> None:
    assert "must not contain control characters" in refused(options.words, value)


def test_a_text_must_not_have_a_nul() -> None:
    assert options.text("a b") == "a b"
    assert "must not contain a NUL character" in refused(options.text, "a\0b")


def test_a_secret_is_masked_in_every_format() -> None:
    secret = options.secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert (
        "hunter2"
        not in f"{secret} {secret!r} {[secret]} %s %r {Option('a', options.secret, default=secret)}"
        % (secret, secret)
    )


@pytest.mark.parametrize("value", ["credential:../shadow", "credential:a b", "credential:.."])
def test_a_credential_must_be_a_plain_name(value: str) -> None:
    assert "name of a credential" in refused(options.secret_file, value)
    with pytest.raises(ValueError, match="name of a credential"):
        options.secret_file("credential:")
