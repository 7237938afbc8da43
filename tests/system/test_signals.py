"""Signals that end a program, sent to this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from osg_token_renewer.system import process
from osg_token_renewer.system.signals import defer_signals
from tests.host import LONGEST, alive, until


class Ended(Exception):
    """What the handler of a program raises that ends at once."""


@pytest.fixture
def raising() -> Iterator[None]:
    def handle(_number: int, _frame: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGHUP, handle)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_signal_waits_until_what_must_not_be_disturbed_is_over(raising: None) -> None:
    reached = False
    with pytest.raises(Ended), defer_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        reached = True
    assert reached
    # The handler is back in its place.
    with pytest.raises(Ended):
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with defer_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_comes_while_a_program_is_started_leaves_none_behind(
    raising: None, tmp_path: Path
) -> None:
    program = f"echo $$ > '{tmp_path}/pid'; kill -HUP $PPID; exec sleep 1000"
    with pytest.raises(Ended):
        process.run(["/bin/sh", "-c", program], process.environment(), LONGEST)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))
