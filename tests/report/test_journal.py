"""The lines of a run."""

from __future__ import annotations

import logging

import pytest

from osg_token_renewer.model import Outcome, State
from osg_token_renewer.report import journal
from tests.report.samples import spec

RENEWED = Outcome(spec("ce"), State.RENEWED, "renewed", "renewed, valid for 1 h")
FRESH = Outcome(spec("ce"), State.FRESH, "fresh", "50 min left")
FAILED = Outcome(
    spec("ce"), State.FAILED, "unavailable", "localhost:8443 cannot be reached: Connection refused"
)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (RENEWED, "token ce: renewed, valid for 1 h"),
        (FRESH, "token ce: fresh: 50 min left"),
        (FAILED, "token ce: failed (unavailable): localhost:8443 cannot be reached: Connection refused"),
        (
            Outcome(
                spec("ce"),
                State.FAILED,
                "refused",
                "the issuer refused it",
                "run: setup",
                "the published token is valid for 5 min more",
            ),
            "token ce: failed (refused): the issuer refused it: "
            "the published token is valid for 5 min more; run: setup",
        ),
        (
            Outcome(
                spec("ce"), State.RENEWED, "renewed", "renewed", notes=("lacks scope a", "lives only 30 s")
            ),
            "token ce: renewed; lacks scope a; lives only 30 s",
        ),
    ],
)
def test_a_line_says_what_happened_why_what_it_means_and_what_to_do(outcome: Outcome, line: str) -> None:
    assert journal.line(outcome) == line


def test_a_failure_is_an_error_and_a_note_is_a_warning_and_the_rest_is_information() -> None:
    noted = Outcome(spec("ce"), State.RENEWED, "renewed", "renewed", notes=("lacks scope a",))
    assert [journal.level(one) for one in (RENEWED, FRESH, noted, FAILED)] == [
        logging.INFO,
        logging.INFO,
        logging.WARNING,
        logging.ERROR,
    ]


def test_the_summary_counts_the_outcomes_and_names_the_failed_tokens() -> None:
    assert journal.summary([RENEWED]) == "1 token: 1 renewed, 0 fresh, 0 failed"
    assert journal.summary([FAILED, RENEWED, FRESH, FRESH]) == "4 tokens: 1 renewed, 2 fresh, 1 failed (ce)"
    assert journal.summary([]) == "no token is configured: nothing to do"


def test_a_summary_of_many_failures_stays_one_line_of_bounded_length() -> None:
    many = [Outcome(spec(f"token-{number}"), State.FAILED, "local", "no room") for number in range(5000)]
    summary = journal.summary(many)
    assert summary.startswith("5000 tokens: 0 renewed, 0 fresh, 5000 failed (token-0, token-1, ")
    assert summary.endswith("token-9 and 4990 more)")
    assert journal.summary(many[:10]).endswith("token-8, token-9)")
