"""Subprocesses: the one way they are started, bounded and ended.

Each gets an argument list, an explicit environment, no standard input, and a session (so a process group) of
its own: a person's Ctrl-C does not reach it, and ending it ends what it started."""

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
from osg_token_renewer.system.locks import make_inheritable
from osg_token_renewer.system.signals import defer_signals
from osg_token_renewer.system.users import User

if TYPE_CHECKING:
    import subprocess

# What a program started from here may inherit: where programs and homes are, the language, proxies. Nothing
# that holds a secret.
_INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "OIDC_CONFIG_DIR",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

# How long a process may take to end after SIGTERM before it is killed.
GRACE = 3.0
# More than any of the programs has to say; what prints more is not read to its end.
MOST_OUTPUT = 1024 * 1024


@dataclass(frozen=True)
class Completed:
    status: int
    stdout: str
    stderr: str


def environment(**extra: str) -> dict[str, str]:
    """An explicit environment for a subprocess: the inheritable part of ours and what is given here."""
    proxies = (*_PROXIES, *(name.upper() for name in _PROXIES))
    inherited = {name: os.environ[name] for name in (*_INHERITED, *proxies) if name in os.environ}
    return {**inherited, **extra}


def find(program: str, package: str) -> str:
    """The path of a program; raises ProgramMissing, naming the package that has it."""
    import shutil

    path = shutil.which(program)
    if path is None:
        raise ProgramMissing(f"{program} is not installed", f"install the package {package}")
    return path


@dataclass(frozen=True)
class Running:
    """A subprocess that was started. Every process of its group holds the other end of the pipe `alive`,
    until it ends."""

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
    """A running subprocess, leader of its own session; the caller must `end` it. Raises ProgramMissing or
    Local.

    `stdin` is a descriptor, by default there is nothing to read; `output` is a new file that both its outputs
    are written to, by default each has a pipe of its own."""
    # Imported where it is used: a run with nothing due starts no process, and must not pay for being able to.
    import subprocess

    try:
        alive, held = _pipe_to_inherit()
    except OSError as error:
        raise _not_started(argv, error) from error
    try:
        with open(output, "xb") if output else nullcontext(subprocess.PIPE) as target:
            process = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=target,
                stderr=target,
                pass_fds=(*pass_fds, held),
                start_new_session=True,
                # A relative or unreadable working directory of ours must not matter to it.
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
    finally:
        os.close(held)
    return Running(process, alive)


def _pipe_to_inherit() -> tuple[int, int]:
    """A pipe whose writing end can be inherited by anything."""
    alive, low = os.pipe()
    return alive, make_inheritable(low)


def _not_started(argv: Sequence[str], error: OSError) -> Local:
    if isinstance(error, FileNotFoundError):
        return ProgramMissing(f"{argv[0]} is not installed")
    # Its own file, or the one for its output.
    about = f"{error.filename}: " if error.filename not in (None, argv[0]) else ""
    return Local(f"{argv[0]} could not be started: {about}{error.strerror}")


@contextmanager
def make_pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe, to read from and to write to; raises Local."""
    try:
        ends = os.pipe()
    except OSError as error:
        raise Local(f"no pipe can be made: {error.strerror}") from error
    try:
        yield ends
    finally:
        for descriptor in ends:
            os.close(descriptor)


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    timeout: float,
    *,
    pass_fds: Sequence[int] = (),
    user: Optional[User] = None,
    watch: Optional[Callable[[str], Optional[float]]] = None,
) -> Completed:
    """Runs a program to its end, at most `timeout` seconds.

    Both pipes are drained together; output that is not UTF-8 is kept with replacement characters. `watch` is
    called with all that was printed so far whenever there is more of it; what it returns, if not None, is the
    number of seconds left from then on. Raises TimedOut when the deadline passed, Local when the program
    printed without end, and ProgramMissing or Local when it could not be started. However this is left, the
    whole process group has ended."""
    running = None
    try:
        with defer_signals():
            running = start(argv, env, pass_fds=pass_fds, user=user)
        out, err = _drain(running.process, os.path.basename(argv[0]), timeout, watch or (lambda _: None))
    finally:
        if running is not None:
            end(running, grace=0)
    return Completed(running.process.returncode, out, err)


def _drain(
    process: subprocess.Popen[bytes], name: str, timeout: float, watch: Callable[[str], Optional[float]]
) -> tuple[str, str]:
    """What the process prints until it ends: stdout and stderr."""
    import selectors
    import subprocess

    printed = {process.stdout: bytearray(), process.stderr: bytearray()}
    started = time.monotonic()
    deadline = started + timeout
    with selectors.DefaultSelector() as selector:
        for pipe in printed:
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                raise TimedOut(f"{name} had not answered after {time.monotonic() - started:.0f} s")
            for key, _events in ready:
                piece = os.read(key.fd, 64 * 1024)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                text = printed[key.fileobj]  # type: ignore[index]
                text += piece
                if len(text) > MOST_OUTPUT:
                    # A program that asks a question again and again, and finds no answer on its standard
                    # input.
                    raise Local(f"{name} printed more than {MOST_OUTPUT // 1024} KiB")
                left = watch("\n".join(_decoded(printed.values())))
                deadline = deadline if left is None else time.monotonic() + left
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{name} had not ended after {time.monotonic() - started:.0f} s") from error
    out, err = _decoded(printed.values())
    return out, err


def _decoded(printed: Iterable[bytearray]) -> list[str]:
    return [text.decode("utf-8", "replace") for text in printed]


def end(running: Running, grace: float = GRACE) -> None:
    """Ends a process and its whole group: SIGTERM, `grace` seconds, SIGKILL. With no grace it is killed at
    once."""
    process = running.process
    if grace and not _ended(running, 0):
        _signal_group(process, signal.SIGTERM)
    if not _ended(running, grace):
        _signal_group(process, signal.SIGKILL)
        _ended(running, GRACE)
    process.wait()
    os.close(running.alive)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _ended(running: Running, within: float) -> bool:
    """Whether the whole group has ended: then nobody holds the pipe, also where no init collects the dead."""
    poll = select.poll()
    poll.register(running.alive, select.POLLHUP)
    return bool(poll.poll(within * 1000))


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """The group's id is the leader's, which no other process can have before the group has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
