"""Which expired tokens are removed, and which stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest

from osg_token_renewer.engine.expiry import is_removable
from osg_token_renewer.engine.outcomes import of_failure
from osg_token_renewer.engine.run import settle
from osg_token_renewer.errors import Unavailable
from osg_token_renewer.model import Found, Planned, Published
from osg_token_renewer.sinks.file import FileSink
from tests.engine.test_planner import NOW, OPAQUE, record, signed, spec
from tests.specs import plan
from tests.tokens.test_jwt import jws


def consequence(planned: Planned) -> str:
    """What it means, years after NOW, that the token is not renewed."""
    return settle(of_failure(planned.spec, Unavailable("no")), planned).consequence or ""


@pytest.mark.parametrize(
    ("left", "expired"),
    [(3600, False), (1, False), (0.001, False), (0, True), (-90, True), (None, False)],
)
@pytest.mark.parametrize("on_expiry", ["keep", "remove"])
def test_only_an_expired_token_is_removable_and_only_if_the_configuration_says_so(
    left: Optional[float], expired: bool, on_expiry: str
) -> None:
    wanted = spec(remove_expired=on_expiry == "remove")
    opaque = record(OPAQUE, expires_at=None if left is None else NOW + left)
    for planned in (plan(wanted, signed(left), None, NOW), plan(wanted, OPAQUE, opaque, NOW)):
        assert is_removable(planned, NOW) is (expired and on_expiry == "remove")


def test_a_file_that_is_no_token_is_never_removable() -> None:
    wanted = spec(remove_expired=True)
    expired = record(signed(-90), expires_at=NOW - 90)
    for found in Found:
        if found is not Found.TOKEN:
            assert not is_removable(plan(wanted, Published(found), expired, NOW), NOW)


def test_a_token_is_not_removable_if_only_the_record_of_another_token_says_that_it_expired() -> None:
    expired = record(signed(-90), expires_at=NOW - 90)
    assert not is_removable(plan(spec(remove_expired=True), OPAQUE, expired, NOW), NOW)


def test_only_the_very_token_that_was_planned_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    wanted = spec(path=str(path), remove_expired=True)
    path.write_text(jws({"exp": NOW - 90}))
    planned = plan(wanted, FileSink().read(wanted), None, NOW)

    path.write_text(jws({"exp": NOW + 3600}))
    assert consequence(planned).endswith(f" ago and stays: {path} has changed meanwhile")
    assert os.listdir(tmp_path) == ["x"]

    path.write_text(jws({"exp": NOW - 90}))
    assert consequence(planned) == "the expired token was removed"
    assert os.listdir(tmp_path) == []


def test_a_token_that_stays_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x"
    wanted = spec(path=str(path))
    path.write_text(jws({"exp": NOW - 90}))
    assert consequence(plan(wanted, FileSink().read(wanted), None, NOW)).endswith(" ago")
    assert os.listdir(tmp_path) == ["x"]
