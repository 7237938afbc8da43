"""Fixtures for the rules of the engine."""

from __future__ import annotations

import pytest

from osg_token_renewer.engine import limits, retries
from tests.engine.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of limits and retries, which no test has to wait for."""
    made = Clock()
    for module in (limits, retries):
        monkeypatch.setattr(module, "time", made)
    return made
