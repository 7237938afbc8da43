"""Text for people."""

from __future__ import annotations

import base64

import pytest

from osg_token_renewer.text import OUTSIDE_LIMIT, duration, escaped, instant, line, outside, plural


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        (" two  words\n", "two words"),
        ("one\r\ntwo\vthree\x85four\u2028five", "one two three four five"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("a\0b\x7fc", "a b c"),
        ("right\u202eleft", "right left"),
        ("zero\u200bwidth", "zero width"),
        ("half \ud800 a pair", "half a pair"),
        ("Grüße €", "Grüße €"),
    ],
)
def test_foreign_text_becomes_one_line_of_printable_characters(text: str, shown: str) -> None:
    assert outside(text) == shown


def test_long_foreign_text_is_cut_and_ends_in_an_ellipsis() -> None:
    just_enough = ("word " * OUTSIDE_LIMIT)[: OUTSIDE_LIMIT - 1] + "x"
    assert outside(just_enough) == just_enough
    assert outside(just_enough + "y") == just_enough[:-1] + "…"
    assert outside("abcdef", limit=4) == "abc…"


def test_a_secret_is_masked_before_foreign_text_is_cut() -> None:
    secret = "correct-horse"
    assert outside(f"you sent {secret}, {secret}", hide=(secret,)) == "you sent ***, ***"
    assert "correct" not in outside(("word " * OUTSIDE_LIMIT)[: OUTSIDE_LIMIT - 8] + secret, hide=(secret,))


@pytest.mark.parametrize(
    "echo",
    [
        'p%w/"r&d+é<',
        "p%25w/%22r%26d%2B%C3%A9%3C",
        "p%25w%2F%22r%26d%2B%C3%A9%3C",
        "p%25w%2f%22r%26d%2b%c3%a9%3c",
        "p%w/&quot;r&amp;d+é&lt;",
        'p%w/\\"r&d+é<',
        'p%w/\\"r&d+\\u00e9<',
        base64.b64encode('p%w/"r&d+é<'.encode()).decode(),
    ],
)
def test_a_secret_is_masked_however_it_is_encoded(echo: str) -> None:
    said = outside(f"you sent ({echo})", hide=('p%w/"r&d+é<',))
    assert (said[:13], len(said) < 20) == ("you sent (***", True)


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_a_secret_is_masked_at_any_offset_in_base64(before: str) -> None:
    echo = base64.b64encode(f"{before}correct-horse-battery{before}".encode()).decode()
    assert 3 <= len(outside(echo, hide=("correct-horse-battery",))) <= 15


def test_a_secret_is_masked_at_the_limit_of_very_long_text_too() -> None:
    for length in range(50 * OUTSIDE_LIMIT - 20, 50 * OUTSIDE_LIMIT + 1):
        assert "correct" not in outside(" " * length + "correct-horse", hide=("correct-horse",))


def test_an_address_that_a_person_needs_is_not_masked() -> None:
    address = f"https://issuer.example.org/{TOKEN}"
    assert (line(f" {address}\n"), line("ab\ncd"), line("abcdef", limit=4)) == (address, "ab cd", "abc…")


def test_characters_that_are_not_printable_are_escaped() -> None:
    assert escaped("/plain/é/path \\ ") == "/plain/é/path \\ "
    assert escaped("/a\x1b[2J\n\u202e\udcff\U000e0001\x85") == "/a\\x1b[2J\\n\\u202e\\udcff\\U000e0001\\x85"


TOKEN = "0123456789-abcdefghij_ABCDEFGHIJ~klmnopq"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"sent: {TOKEN}.", "sent: ***."),
        (f"Bearer {TOKEN * 10}==, again {TOKEN}", "Bearer ***, again ***"),
        # Most of this one would be cut off.
        (f"token {TOKEN * 1000}", "token ***"),
        # A JWT may be short and without a signature.
        ('{"token": "eyJhbGciOiJub25lIn0.e30."}', '{"token": "***"}'),
        ("eyJhbGciOiJub25lIn0.e30.c2ln, and no more", "***, and no more"),
        (f"{TOKEN[:-1]} is too short for one", f"{TOKEN[:-1]} is too short for one"),
        (
            "see https://issuer.example.org/a/b/c?d=e of eyes.example.org",
            "see https://issuer.example.org/a/b/c?d=e of eyes.example.org",
        ),
    ],
)
def test_whatever_looks_like_a_token_is_masked_in_foreign_text(text: str, shown: str) -> None:
    assert len(TOKEN) == 40
    assert outside(text) == shown


def test_an_empty_secret_masks_nothing() -> None:
    assert outside("text", hide=("",)) == "text"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (119, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86399, "23 h 59 min"),
        (86400, "1 d"),
        (97200, "1 d 3 h"),
        (90000 * 86400, "90000 d"),
        (-45, "45 s"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1767225599.9, "2025-12-31T23:59:59Z"),
        (253402300799, "9999-12-31T23:59:59Z"),
    ],
)
def test_an_instant_is_rfc_3339_in_utc(when: float, shown: str) -> None:
    assert instant(when) == shown


def test_a_noun_is_plural_unless_there_is_one() -> None:
    assert [plural(count, "token") for count in (0, 1, 2)] == ["0 tokens", "1 token", "2 tokens"]
