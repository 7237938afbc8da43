"""One run at a time, between real processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osg_token_renewer.errors import Exit, LockHeld
from osg_token_renewer.system import locks
from tests.host import LONGEST, ROOT

# Prints a line when it holds the lock, and keeps it until its standard input ends.
HOLDER = """
import sys
from osg_token_renewer.system.locks import hold_run_lock
with hold_run_lock(sys.argv[1], 10):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(LONGEST) == 0


def refused(path: Path, wait: float = 0, stopped: Callable[[], bool] = lambda: False) -> LockHeld:
    with pytest.raises(LockHeld) as held, locks.hold_run_lock(str(path), wait, stopped):
        raise AssertionError("two processes hold the lock")
    return held.value


def test_a_free_lock_is_taken_at_once_and_its_file_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with locks.hold_run_lock(str(tmp_path / "lock"), 0):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        held = refused(tmp_path / "lock", wait=0.2)
    assert f"another run is at work (process {process.pid}, {sys.executable} -c " in held.message
    assert "nothing was attempted" in held.message
    assert held.exit_status == Exit.FAILED


def test_a_second_process_waits_until_the_holder_has_ended(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        waited = []

        def has_to_wait() -> bool:
            waited.append(process.poll())
            let_go(process)
            return False

        with locks.hold_run_lock(str(tmp_path / "lock"), LONGEST, has_to_wait):
            # The holder still held the lock when this process began to wait, and then ended by itself.
            assert (waited, process.returncode) == ([None], 0)


def test_a_request_to_stop_ends_the_wait(tmp_path: Path) -> None:
    began = time.monotonic()
    with holder(tmp_path / "lock"):
        refused(tmp_path / "lock", wait=600, stopped=lambda: time.monotonic() > began + 0.3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_is_free_after_its_holder_was_killed(tmp_path: Path, number: int) -> None:
    with holder(tmp_path / "lock") as process:
        process.send_signal(number)
        process.wait(LONGEST)
        with locks.hold_run_lock(str(tmp_path / "lock"), 0):
            pass


def test_the_file_of_a_process_that_has_ended_is_no_lock(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(LONGEST)
    (tmp_path / "lock").write_text(f"{gone.pid}\nand more than a process id\n")
    with locks.hold_run_lock(str(tmp_path / "lock"), 0):
        # The old content is gone.
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    ("content", "holder_named"),
    [("", "unknown process"), ("garbage\n", "unknown process"), ("999999999999\n", "process 999999999999")],
)
def test_a_holder_whose_process_id_is_not_in_the_file_still_holds_the_lock(
    tmp_path: Path, content: str, holder_named: str
) -> None:
    with holder(tmp_path / "lock"):
        (tmp_path / "lock").write_text(content)
        held = refused(tmp_path / "lock")
    assert held.message.startswith(f"another run is at work ({holder_named})")


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    with locks.hold_run_lock(str(tmp_path / "lock"), 0):
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
    try:
        with locks.hold_run_lock(str(tmp_path / "lock"), 0):
            pass
    finally:
        child.communicate()


def test_an_exception_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold_run_lock(str(tmp_path / "lock"), 0):
        raise ZeroDivisionError
    with locks.hold_run_lock(str(tmp_path / "lock"), 0):
        pass


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious\n")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"), locks.hold_run_lock(str(tmp_path / "lock"), 0):
        raise AssertionError("followed")
    assert (tmp_path / "target").read_text() == "precious\n"
