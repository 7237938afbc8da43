"""The table of `status`, as wide as a terminal or without any limit."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len

from osg_token_renewer.model import Planned, Published
from osg_token_renewer.report import table
from tests.report.samples import EMPTY, NO_FILE, NOW, failed, planned, published, states

LONG_PATH = (
    "/etc/osg/tokens/of-an-experiment-with-a-long-name/"
    "monitoring-probe-production.a-token-with-a-long-name.token"
)
LONG_SCOPE = (
    "storage.read:/ storage.create:/experiment/user/production "
    "storage.modify:/experiment/user/scratch offline_access openid"
)
LONG: list[Planned] = [
    planned(published(), name="ce"),
    planned(published(scope=LONG_SCOPE), name="storage", path=LONG_PATH, min_lifetime=None),
    planned(
        published(left=300),
        name="a-token-with-quite-a-long-name",
        account="monitoring-probe-production",
        path=LONG_PATH,
    ),
    planned(
        published(left=-7260), failed(14, failure_message="the other party disconnected " * 8), name="old"
    ),
    planned(published(), failed(2), name="refused", path=LONG_PATH),
    planned(NO_FILE, name="new"),
]
STATES = {
    "ce": "fresh",
    "storage": "due",
    "a-token-with-quite-a-long-name": "expiring",
    "old": "expired",
    "refused": "failed",
    "new": "missing",
}
LEFT = {
    "ce": "1 h",
    "storage": "1 h",
    "a-token-with-quite-a-long-name": "5 min",
    "old": "-2 h 1 min",
    "refused": "1 h",
    "new": "-",
}


def render(plans: list[Planned], width: int | None = None, color: bool = False) -> str:
    return table.render(states(plans), NOW, width, color)


def one(found: Published, *given: Any, **options: Any) -> str:
    """The line of one token, without the heading."""
    _heading, line = render([planned(found, *given, **options)]).splitlines()
    return line


def test_a_table_without_tokens_says_so() -> None:
    assert render([]) == "no token is configured\n"


def test_without_a_terminal_each_token_is_one_line_that_is_never_cut() -> None:
    lines = render(LONG).splitlines()
    assert lines[0].split() == ["TOKEN", "ACCOUNT", "STATE", "LEFT", "GRANTS", "PATH", "LAST", "FAILURE"]
    assert [line.split()[0] for line in lines[1:]] == list(STATES)
    assert LONG_PATH in lines[2]
    assert f"{LONG_SCOPE} for ce" in lines[2]
    assert "3 min ago, 14 in a row, refused: the other party disconnected the other" in lines[4]
    assert "…" not in "".join(lines)


def test_a_line_shows_what_the_token_grants() -> None:
    assert "  compute.read compute.create for ce  /tokens/x  -" in one(published())
    assert "  compute.read for one two  /tokens/x  -" in one(
        published(scope="compute.read", aud=["one", "two"])
    )
    assert "  opaque  /tokens/x  -" in one(published("opaque-token"))
    assert "  -  /tokens/x  -" in re.sub(" +", "  ", one(published(scope=None, aud=None)))


def test_a_line_shows_the_last_failure() -> None:
    assert one(published(), failed()).endswith(
        "/tokens/x  3 min ago, refused: the issuer refused the refresh token (invalid_grant)"
    )
    assert one(published(), failed(3)).endswith(
        "/tokens/x  3 min ago, 3 in a row, refused: the issuer refused the refresh token (invalid_grant)"
    )
    # What is over is still told, but the state is well again.
    healed = one(published(), failed(0))
    assert healed.split()[2] == "fresh"
    assert healed.endswith("  3 min ago, refused: the issuer refused the refresh token (invalid_grant)")


def test_a_state_that_is_not_well_says_why_even_if_nothing_was_tried_or_something_else_failed_before() -> (
    None
):
    assert one(NO_FILE).endswith("/tokens/x  no file")
    assert one(EMPTY).endswith("/tokens/x  not a token: it is empty")
    assert one(EMPTY, failed(0)).endswith(
        "  not a token: it is empty; 3 min ago, refused: the issuer refused the refresh token (invalid_grant)"
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, 400, 1000])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    text = render(LONG, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    together = re.sub(r"[\s─]", "", text)
    for word in (LONG_PATH, "storage.modify:/experiment/user/scratch", "monitoring-probe-production", "14"):
        assert word in together


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, 400, 1000])
def test_token_state_and_time_left_stand_in_one_line_on_any_terminal(width: int) -> None:
    lines = render(LONG, width).splitlines()
    for name, state in STATES.items():
        (line,) = (line for line in lines if re.match(rf" ?{name} ", line))
        assert re.search(rf"{state} +{re.escape(LEFT[name])}( |$)", line)


def test_a_narrow_terminal_has_the_details_below_each_token() -> None:
    assert render(LONG[:1] + LONG[4:], 80) == (
        "TOKEN    STATE    LEFT  ACCOUNT\n"
        "ce       fresh    1 h   robot\n"
        "    path    /tokens/ce\n"
        "    grants  compute.read compute.create for ce\n"
        "refused  failed   1 h   robot\n"
        "    path    /etc/osg/tokens/of-an-experiment-with-a-long-name/monitoring-probe-p\n"
        "            roduction.a-token-with-a-long-name.token\n"
        "    grants  compute.read compute.create for ce\n"
        "    failure 3 min ago, 2 in a row, refused: the issuer refused the refresh token\n"
        "            (invalid_grant)\n"
        "new      missing  -     robot\n"
        "    path    /tokens/new\n"
        "    failure no file\n"
    )


def test_an_account_that_has_no_room_beside_its_token_is_a_detail() -> None:
    lines = render([planned(published(), name="t" * 40, account="a" * 30)], 80).splitlines()
    assert lines[0].split() == ["TOKEN", "STATE", "LEFT"]
    assert lines[2] == f"    account {'a' * 30}"


def test_a_name_longer_than_the_terminal_is_folded() -> None:
    text = render([planned(published(), name="t" * 100)], 60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("t") >= 100


def test_a_wide_terminal_has_one_line_for_each_token() -> None:
    lines = render(LONG[:1], 120).splitlines()
    assert len(lines) == 3
    assert lines[2].split()[:5] == ["ce", "robot", "fresh", "1", "h"]


def test_color_changes_nothing_but_color() -> None:
    for width in (80, 200, None):
        plain, colored = render(LONG, width), render(LONG, width, color=True)
        assert "\x1b[" not in plain
        assert "\x1b[1;31mfailed" in colored
        stripped = re.sub(r"\x1b\[[0-9;]*m", "", colored)
        assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()


def test_text_of_an_issuer_or_a_path_cannot_control_the_terminal() -> None:
    nasty = "\x1b]0;title\x07[bold]x[/bold]\u202e"
    for width in (80, None):
        text = render([planned(published(scope=nasty, aud=[nasty, "a\nb"]), path=f"/tokens/{nasty}")], width)
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "[bold]x[/bold]" in text.replace("\n", "")
        assert len(text.splitlines()) == (2 if width is None else 4)
