"""Subprocesses that misbehave: real programs."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import pytest

from osg_token_renewer.errors import Local, ProgramMissing, TimedOut
from osg_token_renewer.system import memory_files, process
from tests.faults import apart
from tests.host import LONGEST, alive, until

# A limit that no test reaches: a program that ends earlier was not waited for.
ENOUGH = LONGEST
# A limit that the program reaches.
SHORT = 0.5


def python(program: str, timeout: float = ENOUGH, **options: Any) -> process.Completed:
    return process.run([sys.executable, "-c", program], process.environment(), timeout, **options)


def shell(program: str, timeout: float = ENOUGH, **options: Any) -> process.Completed:
    return process.run(["/bin/sh", "-c", program], process.environment(), timeout, **options)


def have_ended(*pids: int) -> None:
    """A process that was killed may need another moment to end."""
    until(lambda: not any(map(alive, pids)))


def written(path: Path) -> list[int]:
    """The process ids in a file, once they are there."""
    until(lambda: path.exists() and path.read_text().endswith(".\n"))
    return [int(word) for word in path.read_text().split()[:-1]]


def test_both_outputs_and_the_status_are_returned() -> None:
    assert shell("echo out; echo err >&2; exit 7") == process.Completed(7, "out\n", "err\n")


def test_a_program_that_a_signal_ended_has_a_negative_status() -> None:
    assert shell("kill -TERM $$").status == -signal.SIGTERM


# What a program is given


def test_a_program_does_not_read_our_standard_input(tmp_path: Path) -> None:
    (tmp_path / "typed").write_text("yes\n")
    before, typed = os.dup(0), os.open(tmp_path / "typed", os.O_RDONLY)
    os.dup2(typed, 0)
    try:
        assert shell("cat; echo end").stdout == "end\n"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(typed)


def test_a_program_has_its_own_session_and_process_group() -> None:
    done = python("import os; print(os.getpid(), os.getpgid(0), os.getsid(0))")
    pid, group, session = done.stdout.split()
    assert pid == group == session
    assert int(session) != os.getsid(0)


def test_the_files_of_a_program_are_private_to_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        shell(f"umask; : > '{tmp_path}/file'; mkdir '{tmp_path}/directory'")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "directory")] == [0o600, 0o700]


def test_our_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert shell("pwd").stdout == "/\n"


def test_the_environment_has_only_listed_and_given_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "CLIENT_SECRET",
        "BEARER_TOKEN",
        "CREDENTIALS_DIRECTORY",
        "SSH_AUTH_SOCK",
        "LD_PRELOAD",
        "PYTHONPATH",
    ):
        monkeypatch.setenv(name, "top-secret")
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.delenv("TZ", raising=False)

    seen = json.loads(python_with(process.environment(OIDC_SOCK="/socket")).stdout)

    assert "top-secret" not in seen.values()
    assert (seen["HOME"], seen["https_proxy"], seen["OIDC_SOCK"]) == (
        "/somewhere",
        "http://proxy.example.org:3128",
        "/socket",
    )
    assert "TZ" not in seen
    assert seen["PATH"] == os.environ["PATH"]


def python_with(environment: dict[str, str]) -> process.Completed:
    return process.run(
        [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"], environment, ENOUGH
    )


def test_only_descriptors_that_are_passed_are_inherited(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("passed")
    (tmp_path / "b").write_text("not passed")
    descriptors = [os.open(tmp_path / name, os.O_RDONLY) for name in "ab"]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        opened = shell("ls -l /proc/$$/fd", pass_fds=descriptors[:1])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert str(tmp_path / "a") in opened.stdout
    assert str(tmp_path / "b") not in opened.stdout


def test_a_program_can_read_an_inherited_memory_file_more_than_once_and_nobody_can_write_it() -> None:
    with memory_files.make_memory_file(b"hunter2\n") as descriptor:
        path = memory_files.inherited_path(descriptor)
        done = shell(
            f"cat {path} {path}; echo x >>{path}; echo x >{path}; cat {path}", pass_fds=(descriptor,)
        )
        assert done.stdout == 3 * "hunter2\n"
        assert len(done.stderr.splitlines()) == 2
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_arguments_reach_a_program_as_they_are() -> None:
    odd = ["", " ", "a b", "$HOME", "*", "'\"\\", "é", "\udcff", "--"]
    done = process.run(
        [sys.executable, "-c", "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]])", *odd],
        process.environment(),
        ENOUGH,
    )
    assert done.stdout == f"{[os.fsencode(argument) for argument in odd]}\n"


# What it prints


def test_both_pipes_full_at_once_are_drained_together() -> None:
    size = 700_000
    done = python(
        "import os, threading\n"
        f"write = lambda fd: [os.write(fd, b'x' * 7000) for _ in range({size // 7000})]\n"
        "threads = [threading.Thread(target=write, args=(fd,)) for fd in (1, 2)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
    )
    assert (len(done.stdout), len(done.stderr)) == (size, size)


@pytest.mark.parametrize("output", [1, 2])
def test_endless_output_is_cut_off(output: int) -> None:
    with pytest.raises(Local, match=r"^sh printed more than 1024 KiB$"):
        shell(f"while :; do echo 'Do you want to use it? [yes/no/quit]'; done >&{output}")


def test_endless_output_that_is_slow_is_ended_by_the_time_limit() -> None:
    with pytest.raises(TimedOut):
        shell("while :; do echo again; sleep 0.01; done", SHORT)


def test_output_that_is_not_utf_8_is_kept_with_replacement_characters() -> None:
    assert shell(r"printf 'a\377\376b\303'; printf '\200' >&2") == process.Completed(
        0, "a\ufffd\ufffdb\ufffd", "\ufffd"
    )


def test_a_program_may_close_its_outputs() -> None:
    assert shell("exec >&- 2>&-; exit 3") == process.Completed(3, "", "")


# Time limits


def test_a_program_that_does_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    # A child ignores SIGTERM, and a grandchild has other outputs than the program.
    program = (
        f"(trap '' TERM; sleep 1000 >/dev/null 2>&1 & echo $$ $! . > '{pids}'; echo begun; sleep 1000) & wait"
    )
    began = time.monotonic()

    with pytest.raises(TimedOut, match=r"^sh had not answered after \d+ s$"):
        shell(program, watch=lambda _begun: SHORT)

    assert time.monotonic() - began < ENOUGH
    assert len(written(pids)) == 2
    have_ended(*written(pids))


def test_a_program_that_closed_its_outputs_and_does_not_end_is_killed(tmp_path: Path) -> None:
    def watch(_begun: str) -> float:
        until((tmp_path / "closed").exists)
        return SHORT

    with pytest.raises(TimedOut, match=r"^sh had not ended after \d+ s$"):
        shell(
            f"echo $$ . > '{tmp_path}/pids'; "
            f"exec 2>&-; echo begun; exec >&-; : >'{tmp_path}/closed'; sleep 1000",
            watch=watch,
        )
    have_ended(*written(tmp_path / "pids"))


def test_no_process_of_the_group_outlives_the_program(tmp_path: Path) -> None:
    done = shell(f"sleep 1000 >/dev/null 2>&1 & echo $! . > '{tmp_path}/pids'; echo done")
    assert (done.status, done.stdout) == (0, "done\n")
    have_ended(*written(tmp_path / "pids"))


def test_a_program_that_ends_in_time_is_not_cut_off() -> None:
    assert shell("sleep 0.3; echo late", ENOUGH).stdout == "late\n"


def test_a_watch_sees_what_is_printed_so_far_and_extends_the_time_limit(tmp_path: Path) -> None:
    """The limit has passed when the program prints `code`; only the watch lets it go on."""
    seen: list[str] = []

    def watch(text: str) -> Optional[float]:
        seen.append(text)
        (tmp_path / f"seen{len(seen)}").touch()
        if "approved" in text:
            return None
        if "code" in text:
            return ENOUGH
        until((tmp_path / "shown").exists)
        return 0

    wait_for = f"until [ -e '{tmp_path}'/seen%d ]; do sleep 0.01; done; "
    done = shell(
        f"echo begun; {wait_for % 1}echo code >&2; : >'{tmp_path}/shown'; {wait_for % 2}echo approved",
        watch=watch,
    )

    assert done.stdout == "begun\napproved\n"
    assert [("code" in text, "approved" in text) for text in seen] == [
        (False, False),
        (True, False),
        (True, True),
    ]


def test_a_watch_shortens_the_time_limit_too() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut):
        shell("echo over; sleep 1000", ENOUGH * 10, watch=lambda _: 0.1)
    assert time.monotonic() - began < ENOUGH


def test_an_exception_of_a_watch_ends_the_program(tmp_path: Path) -> None:
    def watch(_text: str) -> Optional[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shell(f"echo $$ . > '{tmp_path}/pids'; echo; sleep 1000", watch=watch)
    have_ended(*written(tmp_path / "pids"))


# Programs that cannot be started


def no_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def not_executable(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o600)


def no_program(path: Path) -> None:
    path.write_bytes(b"\x7fnot a program")
    path.chmod(0o700)


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "kind", "because"),
    [
        (no_file, ProgramMissing, "is not installed"),
        (not_executable, Local, "could not be started: Permission denied"),
        (a_directory, Local, "could not be started: Permission denied"),
        (no_program, Local, "could not be started: Exec format error"),
    ],
)
def test_a_program_that_cannot_be_started_is_named(
    tmp_path: Path, make: Callable[[Path], None], kind: type[Local], because: str
) -> None:
    program = tmp_path / "program"
    make(program)
    before = os.listdir("/proc/self/fd")

    with pytest.raises(Local, match=f"^{program} {because}") as failure:
        process.run([str(program)], process.environment(), ENOUGH)

    assert type(failure.value) is kind
    # There may be fewer, if the collector closed some of an earlier test meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_a_program_that_is_not_on_path_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match=r"^some-program is not installed$") as failure:
        process.find("some-program", "some-package")
    assert failure.value.hint == "install the package some-package"
    not_executable(tmp_path / "some-program")
    with pytest.raises(ProgramMissing):
        process.find("some-program", "some-package")
    (tmp_path / "some-program").chmod(0o700)
    assert process.find("some-program", "some-package") == str(tmp_path / "some-program")


# Ending one


def started(program: str) -> process.Running:
    return process.start(["/bin/sh", "-c", program], process.environment())


def test_a_program_may_end_by_itself_after_sigterm(tmp_path: Path) -> None:
    running = started(
        f"trap 'echo tidied > {tmp_path}/tidied; exit 0' TERM; "
        f"echo $$ . > '{tmp_path}/pids'; while :; do sleep 0.05; done"
    )
    written(tmp_path / "pids")
    process.end(running, ENOUGH)
    assert (tmp_path / "tidied").read_text() == "tidied\n"
    assert running.process.returncode == 0


def test_a_program_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    running = started(f"trap '' TERM; sleep 1000 & echo $$ $! . > '{tmp_path}/pids'; wait; sleep 1000")
    pids = written(tmp_path / "pids")

    process.end(running, SHORT)

    have_ended(*pids)
    assert running.process.returncode == -signal.SIGKILL


def test_a_child_that_outlives_its_parent_is_ended_with_the_group(tmp_path: Path) -> None:
    running = started(f"sleep 1000 & echo $! . > '{tmp_path}/pids'")
    pids = written(tmp_path / "pids")
    running.process.wait(ENOUGH)
    process.end(running, SHORT)
    have_ended(*pids)


def test_ending_a_program_that_has_ended_leaves_no_descriptor_behind() -> None:
    before = os.listdir("/proc/self/fd")
    running = started("exit 5")
    running.process.wait(ENOUGH)
    process.end(running)
    assert running.process.returncode == 5
    # There may be fewer, if the collector closed some of an earlier test meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_process_that_finds_no_free_descriptor_is_a_failure_and_leaves_none_open(left: int) -> None:
    def body() -> None:
        # The tests before this one may have left many open.
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        taken: list[int] = []
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(taken.pop())
        with pytest.raises(Local, match="could not be started: Too many open files"):
            process.start(["/bin/true"], {})
        # With three, it is Popen that fails, which loses descriptors before Python 3.11.
        free = [os.open(os.devnull, os.O_RDONLY) for _ in range(left if left < 3 else 0)]
        for descriptor in (*free, *taken):
            os.close(descriptor)

    apart(body)
