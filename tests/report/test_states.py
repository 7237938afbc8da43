"""Which word `status` has for a token."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from osg_token_renewer.model import Found, Published, TokenRecord
from tests.report.samples import EMPTY, NO_FILE, NOW, failed, planned, published, states

UNREADABLE = Published(Found.UNREADABLE, "cannot be read: Permission denied")
A_DIRECTORY = Published(Found.NOT_A_FILE, "a directory, not a file")
CHANGED = {"scope": ("storage.read:/",)}
EVERY_RUN = {"min_lifetime": None}


@pytest.mark.parametrize(
    ("found", "record", "options", "state", "reason", "well"),
    [
        (published(), None, {}, "fresh", "1 h left", True),
        (published(), failed(0), {}, "fresh", "1 h left", True),
        (published(), None, EVERY_RUN, "due", "no min_lifetime is set, so it is obtained in every run", True),
        (published(), None, CHANGED, "due", "scope is not what is asked for", True),
        (published("opaque-token"), None, {}, "due", "nobody said when it expires", True),
        (published(left=599), None, {}, "expiring", "9 min left, less than the 10 min of min_lifetime", True),
        (published(left=0), None, {}, "expired", "expired 0 s ago", False),
        (published(left=-60), failed(3), {}, "expired", "expired 1 min ago", False),
        (NO_FILE, None, {}, "missing", "no file", False),
        (NO_FILE, failed(), {}, "missing", "no file", False),
        (EMPTY, None, {}, "failed", "not a token: it is empty", False),
        (UNREADABLE, None, {}, "failed", "cannot be read: Permission denied", False),
        (A_DIRECTORY, None, {}, "failed", "a directory, not a file", False),
        (published(), failed(), {}, "failed", "the issuer refused the refresh token (invalid_grant)", False),
        (
            published(left=599),
            failed(2),
            {},
            "failed",
            "the issuer refused the refresh token (invalid_grant)",
            False,
        ),
        (published(), failed(1, failure_message=None), {}, "failed", "the last renewal failed", False),
    ],
)
def test_the_state_of(
    found: Published,
    record: Optional[TokenRecord],
    options: dict[str, Any],
    state: str,
    reason: str,
    well: bool,
) -> None:
    (shown,) = states([planned(found, record, **options)])
    assert (shown.state, shown.reason, shown.well) == (state, reason, well)


def test_the_time_left_is_negative_after_the_expiry_and_unknown_without_one() -> None:
    shown = states(
        planned(found) for found in (published(left=90), published(left=-90), published("opaque"), NO_FILE)
    )
    assert [one.seconds_left for one in shown] == [90, -90, None, None]
    assert [one.planned.expires_at for one in shown] == [NOW + 90, NOW - 90, None, None]


def test_an_opaque_token_expires_when_its_record_says_unless_it_is_another_token() -> None:
    opaque = published("opaque-token")
    record = TokenRecord("x", fingerprint=opaque.fingerprint, expires_at=NOW + 1200)
    (ours, another) = states([planned(opaque, record), planned(published("other-token"), record)])
    assert (ours.state, ours.seconds_left) == ("fresh", 1200)
    assert (another.state, another.seconds_left) == ("due", None)
