"""A machine ends with the tests, however these end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import ROOT, processes_with
from tests.machine.machine import remove_control_groups, until

BOOT = """\
import sys
from tests.machine.machine import Machine
with Machine(sys.argv[1]):
    print('booted', flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_machine_ends_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", BOOT, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"booted\n"
        (place,) = (path for path in tmp_path.iterdir() if path.is_dir())
        assert processes_with(f"PLACE={place}") != []
        starter.send_signal(number)
    until(lambda: processes_with(f"PLACE={place}") == [], "no process of the machine")
    until(lambda: remove_control_groups(place.name), "no process in its control groups")
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    if number is signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    else:
        assert list(place.rglob("*")) == []
