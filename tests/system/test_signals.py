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
    """A handler raises this to end its program at once."""


@pytest.fixture
def raising() -> Iterator[None]:
    def handle(_number: int, _frame: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGHUP, handle)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_deferred_signal_is_handled_at_the_end_of_the_context(raising: None) -> None:
    reached = False
    with pytest.raises(Ended), defer_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        reached = True
    assert reached
    # The handler is installed again.
    with pytest.raises(Ended):
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with defer_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_during_the_start_of_a_program_leaves_no_process_behind(
    raising: None, tmp_path: Path
) -> None:
    program = f"echo $$ > '{tmp_path}/pid'; kill -HUP $PPID; exec sleep 1000"
    with pytest.raises(Ended):
        process.run(["/bin/sh", "-c", program], process.environment(), LONGEST)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))
