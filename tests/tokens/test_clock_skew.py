"""How far an issuer's clock is from this host's, and who is believed about it."""

from __future__ import annotations

from typing import Optional

import pytest

from osg_token_renewer.tokens import clock_skew, jwt
from tests.tokens.test_jwt import jws

NOW = 1_000_000.0
ADVICE = "see that both are set by NTP; on this host: timedatectl"


@pytest.mark.parametrize(
    ("clock_ahead", "claims", "said"),
    [
        (0.0, {}, None),
        (30.0, {"iat": NOW + 30}, None),
        (-30.0, {}, None),
        (31.0, {}, "the issuer's clock is 31 s ahead of this host's"),
        (-31.0, {}, "the issuer's clock is 31 s behind this host's"),
        # A token from the future is a witness, whatever the date says.
        (0.0, {"iat": NOW + 300}, "the issuer's clock is 300 s ahead of this host's"),
        (None, {"nbf": NOW + 300}, "the issuer's clock is 300 s ahead of this host's"),
        (-300.0, {"iat": NOW + 40}, "the issuer's clock is 40 s ahead of this host's"),
        # A token from the past is one only if there is no date.
        (0.0, {"iat": NOW - 300, "nbf": NOW - 300}, None),
        (None, {"nbf": NOW - 300}, None),
        (
            None,
            {"iat": NOW - 300},
            "the issuer's clock is 300 s behind this host's, or the issuer returned an earlier token again",
        ),
        (None, {"iat": "soon", "nbf": True}, None),
    ],
)
def test_a_clock_that_differs_by_more_than_the_limit_is_reported(
    clock_ahead: Optional[float], claims: dict[str, object], said: Optional[str]
) -> None:
    found = clock_skew.find_skew(jwt.parse(jws(claims)), clock_ahead, NOW)
    assert found == (said and f"{said}: {ADVICE}")


@pytest.mark.parametrize(("clock_ahead", "reported"), [(None, False), (5.0, False), (60.0, True)])
def test_of_an_opaque_token_only_the_answers_date_counts(
    clock_ahead: Optional[float], reported: bool
) -> None:
    found = clock_skew.find_skew(jwt.parse("opaque"), clock_ahead, NOW)
    assert (found is not None) == reported


@pytest.mark.parametrize(
    ("date", "asked_at", "answered_at", "ahead"),
    [
        (None, 1000.0, 1002.0, None),
        (1001.0, 1000.2, 1002.4, 0),
        # The date is cut to the second, and may be written as soon as the question is asked.
        (1000.0, 1000.9, 1002.4, 0),
        (1002.0, 1000.9, 1002.4, 0),
        (4602.0, 1000.0, 1002.0, 3600),
        (-2601.0, 1000.0, 1002.0, -3600),
    ],
)
def test_the_date_of_an_answer_is_compared_with_the_time_from_question_to_answer(
    date: Optional[float], asked_at: float, answered_at: float, ahead: Optional[float]
) -> None:
    assert clock_skew.ahead_by(date, asked_at, answered_at) == ahead
