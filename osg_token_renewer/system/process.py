"""Subprocesses: the one way to start, bound and end them.

Each gets an argument list, an explicit environment, no standard input, and its own session, which is also a
process group: a person's Ctrl-C does not reach it, and ending it ends what it started.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from osg_token_renewer.errors import Local, ProgramMissing, TimedOut
from osg_token_renewer.system.locks import move_up
from osg_token_renewer.system.signals import defer_signals
from osg_token_renewer.system.users import User

if TYPE_CHECKING:
    import subprocess

# What a subprocess inherits of our environment: nothing that holds a secret.
_LANGUAGE = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "OIDC_CONFIG_DIR", *_LANGUAGE)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

# How many seconds a process has to end after SIGTERM before it is killed.
GRACE = 3.0
# None of the programs prints as many bytes; one that does is ended.
MOST_OUTPUT = 1024 * 1024


@dataclass(frozen=True)
class Completed:
    """What a subprocess left: its exit status (negative: the signal that ended it) and its outputs."""

    status: int
    stdout: str
    stderr: str


def environment(**extra: str) -> dict[str, str]:
    """The environment of a subprocess: the inheritable part of ours, and `extra`."""
    names = (*_INHERITED, *_PROXIES, *(name.upper() for name in _PROXIES))
    return {**{name: os.environ[name] for name in names if name in os.environ}, **extra}


def find(program: str, package: str) -> str:
    """The path of a program; raises ProgramMissing, which names the `package` to install."""
    import shutil

    if path := shutil.which(program):
        return path
    raise ProgramMissing(f"{program} is not installed", f"install the package {package}")


@dataclass(frozen=True)
class Running:
    """A started subprocess. Each process of its group holds the other end of `alive` until it ends."""

    process: subprocess.Popen[bytes]
    alive: int


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    stdin: Optional[int] = None,
    output: Optional[str] = None,
    pass_fds: Sequence[int] = (),
    user: Optional[User] = None,
) -> Running:
    """Starts a subprocess, which the caller must `end`. Raises ProgramMissing or Local.

    `stdin` is a descriptor. `output` is a new file for both outputs; without it each has a pipe.
    """
    import subprocess

    try:
        alive, low = os.pipe()
    except OSError as error:
        raise _not_started(argv, error) from error
    try:
        with (
            open(move_up(low), "wb", buffering=0) as held,
            open(output, "xb") if output else nullcontext(subprocess.PIPE) as target,
        ):
            process = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=target,
                stderr=target,
                pass_fds=(*pass_fds, held.fileno()),
                start_new_session=True,
                # Our working directory may be relative or unreadable.
                cwd="/",
                # oidc-agent creates its account files with what the umask leaves.
                umask=0o077,
                user=None if user is None else user.uid,
                group=None if user is None else user.gid,
                extra_groups=None if user is None else user.groups,
            )
    except OSError as error:
        os.close(alive)
        raise _not_started(argv, error) from error
    return Running(process, alive)


def _not_started(argv: Sequence[str], error: OSError) -> Local:
    if isinstance(error, FileNotFoundError):
        return ProgramMissing(f"{argv[0]} is not installed")
    # The file is the program's own, or the one for its output.
    about = f"{error.filename}: " if error.filename not in (None, argv[0]) else ""
    return Local(f"{argv[0]} could not be started: {about}{error.strerror}")


@contextmanager
def make_pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the descriptor to read from and the one to write to. Raises Local."""
    try:
        ends = os.pipe()
    except OSError as error:
        raise Local(f"no pipe can be made: {error.strerror}") from error
    with open(ends[0], "rb", buffering=0), open(ends[1], "wb", buffering=0):
        yield ends


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    timeout: float,
    *,
    pass_fds: Sequence[int] = (),
    user: Optional[User] = None,
    watch: Optional[Callable[[str], Optional[float]]] = None,
) -> Completed:
    """Runs a program to its end, and ends its whole process group.

    `timeout` is in seconds. Whenever there is more output, `watch` gets all of it so far. It returns how many
    seconds are left from then on, or None. Raises TimedOut, ProgramMissing, or Local if the program prints
    without end or does not start.
    """
    running = None
    try:
        with defer_signals():
            running = start(argv, env, pass_fds=pass_fds, user=user)
        return _drain(running.process, os.path.basename(argv[0]), timeout, watch or (lambda _: None))
    finally:
        if running is not None:
            end(running, grace=0)


def _drain(
    process: subprocess.Popen[bytes], name: str, timeout: float, watch: Callable[[str], Optional[float]]
) -> Completed:
    """Reads both outputs together, so that none fills up, until the process ends."""
    import selectors
    import subprocess

    printed = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr) if pipe is not None}
    started = time.monotonic()
    deadline = started + timeout
    with selectors.DefaultSelector() as selector:
        for pipe in printed:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                raise TimedOut(f"{name} had not answered after {time.monotonic() - started:.0f} s")
            for key, _events in ready:
                piece = os.read(key.fd, 64 * 1024)
                if not piece:
                    selector.unregister(key.fd)
                    continue
                printed[key.fd] += piece
                if len(printed[key.fd]) > MOST_OUTPUT:
                    # It may be a question that is asked again and again, for want of a standard input.
                    raise Local(f"{name} printed more than {MOST_OUTPUT // 1024} KiB")
                left = watch("\n".join(_decode(printed.values())))
                deadline = deadline if left is None else time.monotonic() + left
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{name} had not ended after {time.monotonic() - started:.0f} s") from error
    return Completed(status, *_decode(printed.values()))


def _decode(printed: Iterable[bytearray]) -> list[str]:
    return [text.decode("utf-8", "replace") for text in printed]


def end(running: Running, grace: float = GRACE) -> None:
    """Ends a process and its whole group: SIGTERM, `grace` seconds, SIGKILL. Without grace, only SIGKILL."""
    # The end of this context closes the process's outputs and waits for it.
    with running.process as process:
        for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, GRACE)):
            if wait and not _has_ended(running, 0):
                # No other group can have this id before the whole group has ended.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                _has_ended(running, wait)
    os.close(running.alive)


def _has_ended(running: Running, within: float) -> bool:
    """Whether the group ends within so many seconds. A zombie holds no pipe, so it counts as ended."""
    poll = select.poll()
    poll.register(running.alive, select.POLLHUP)
    return bool(poll.poll(within * 1000))
