"""A process that is stuck where no other limit holds: on a file system that never answers, or on an output
that nobody reads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osg_token_renewer.engine import run as engine
from osg_token_renewer.model import RenewerSettings
from osg_token_renewer.system import watchdog
from osg_token_renewer.system.signals import Stop
from testbed import Issuer
from tests.faults import apart, never_answering
from tests.host import LONGEST, NEVER, ROOT, Host, until

MESSAGE = (
    "this run was stuck, and is ended: what it did is not in the history, "
    "and what it had not done is for the next run; look for a file "
)

# The main thread waits for a process that opens the other end of a named pipe.
STUCK = """
import sys
from osg_token_renewer.system import log
from osg_token_renewer.system.signals import Stop, stop_on_signals
from osg_token_renewer.system.watchdog import Watchdog
log.set_up(0)
stop = Stop()
with Watchdog(stop) as watchdog, stop_on_signals(stop):
    watchdog.allow({seconds}, {to_stop})
    {before}
    print("stuck", flush=True)
    open(sys.argv[1])
"""


# Another thread receives the signal, but handlers run only in the main thread, which is stuck.
TAKEN = (
    "import signal, threading, time; threading.Thread(target=lambda: time.sleep(1000), daemon=True).start(); "
)
TAKEN += "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"


@contextmanager
def unread() -> Iterator[int]:
    """The end to write to of a pipe that is full and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        for size in (65536, 1):
            try:
                while True:
                    os.write(writing, b"x" * size)
            except BlockingIOError:
                continue
        os.set_blocking(writing, True)
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("seconds", "to_stop", "number", "status", "before"),
    [
        (0, NEVER, 0, 1, ""),
        (NEVER, 0, signal.SIGTERM, 143, ""),
        (NEVER, 0, signal.SIGINT, 130, ""),
        (NEVER, 0, signal.SIGTERM, 143, TAKEN),
    ],
)
def test_a_stuck_process_ends_at_its_limit_or_at_that_of_its_stop(
    tmp_path: Path, seconds: float, to_stop: float, number: int, status: int, before: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = STUCK.format(seconds=seconds, to_stop=to_stop, before=before)
    command = [sys.executable, "-c", program, str(tmp_path / "pipe")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        if number:
            process.send_signal(number)
        _, said = process.communicate(timeout=LONGEST)
    assert process.returncode == status
    assert said.splitlines()[-1].startswith(MESSAGE)


def test_a_thousand_watchdogs_leave_nothing_behind() -> None:
    stop = Stop()
    former = os.pipe()
    os.set_blocking(former[1], False)
    signal.set_wakeup_fd(former[1])
    try:
        before = threading.active_count(), os.listdir("/proc/self/fd")
        for _ in range(1000):
            with watchdog.Watchdog(stop) as last:
                last.allow(NEVER, NEVER)
        assert (threading.active_count(), os.listdir("/proc/self/fd")) == before
        assert signal.set_wakeup_fd(-1) == former[1]
    finally:
        signal.set_wakeup_fd(-1)
        for end in former:
            os.close(end)


def test_a_watchdog_ends_with_its_context_after_an_exception_too() -> None:
    before = threading.active_count(), os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError), watchdog.Watchdog(Stop()):
        raise ZeroDivisionError
    assert (threading.active_count(), os.listdir("/proc/self/fd")) == before


def limited(host: Host, account: str, run_timeout: int, token: str, state: Path) -> None:
    host.configure(
        account
        + token
        + f"[renewer]\nstate_dir = {state}\nruntime_dir = {host.runtime}\nrun_timeout = {run_timeout}\n"
    )


def test_a_run_that_is_stuck_on_a_file_system_ends_at_its_limit_and_when_it_is_stopped(
    host: Host, issuer: Issuer
) -> None:
    account = host.credentials_account(issuer, "probe", issuer.add_client(), timeout="1")
    place = host.root / "hung"
    place.mkdir(mode=0o700)

    def start(run_timeout: int, tokens: Path, state: Path) -> subprocess.Popen[str]:
        # Each run uses another name: a second request for the same name would wait for the first.
        name = f"{run_timeout}"
        limited(host, account, run_timeout, host.token("t", "probe", token_path=tokens / name), state / name)
        run = host.start()
        until(lambda: "fuse" in Path(f"/proc/{run.pid}/wchan").read_text() or run.poll() is not None)
        return run

    def body() -> None:
        never_answering(place)
        ended = [start(1, place, host.state), start(2, host.tokens, place)]
        stopped = [start(3599, place, host.state), start(3600, host.tokens, place)]
        for run in stopped:
            # Its handler cannot run: only the end of the process interrupts the main thread's system call.
            run.send_signal(signal.SIGINT)
        for run in ended + stopped:
            _, said = run.communicate(timeout=LONGEST)
            assert said.startswith(MESSAGE)
        assert [run.returncode for run in ended + stopped] == [1, 1, 130, 130]

    apart(body, tmpfs={})


def test_a_run_whose_messages_nobody_reads_ends_at_its_limit_and_when_it_is_stopped(
    host: Host, issuer: Issuer
) -> None:
    account = host.credentials_account(issuer, "probe", issuer.add_client(), timeout="1")
    with unread() as full:

        def start(
            run_timeout: int, token: str, state: Path, *arguments: str, stream: str = "stderr"
        ) -> subprocess.Popen[bytes]:
            limited(host, account, run_timeout, host.token(token, "probe"), state)
            out, err = (full if stream == name else subprocess.DEVNULL for name in ("stdout", "stderr"))
            run = subprocess.Popen(
                host.renewer(*arguments),
                env=host.environment({}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            # Its last message is stuck.
            until(
                lambda: "pipe_write" in Path(f"/proc/{run.pid}/wchan").read_text() or run.poll() is not None
            )
            return run

        ended = start(1, "one", host.state)
        silent = start(1, "none", host.state, "renew", "--dry-run", stream="stdout")
        stopped = start(3600, "two", host.root / "other")
        stopped.send_signal(signal.SIGTERM)
        assert [run.wait(LONGEST) for run in (ended, silent, stopped)] == [1, 1, 143]
    # The token was published, and the next run is not hindered.
    assert issuer.verify(host.read("two").strip())
    limited(host, account, 600, host.token("one", "probe"), host.state)
    assert host.run().status == 0


def test_a_run_that_uses_all_its_time_is_not_stuck() -> None:
    """It may wait for another run, then for its lanes, and must still record what it did."""
    for seconds in (1, 600, 3600):
        assert engine.longest(RenewerSettings(run_timeout=seconds)) > engine.LOCK_WAIT + seconds + min(
            watchdog.LINGER, seconds
        )
