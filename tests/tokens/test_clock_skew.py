"""How far an issuer's clock is from this host's."""

from __future__ import annotations

from typing import Optional

import pytest

from osg_token_renewer.tokens import clock_skew


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
