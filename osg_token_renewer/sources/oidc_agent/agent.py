"""A private oidc-agent process: how it is started, watched and ended."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.sources.oidc_agent.messages import AGENT_ENDED
from osg_token_renewer.system import process
from osg_token_renewer.system.signals import defer_signals
from osg_token_renewer.system.users import User
from osg_token_renewer.text import outside

if TYPE_CHECKING:
    import subprocess

PACKAGE = "oidc-agent-cli"
# Seconds. An agent is ready after some 20 ms; a machine that is short of everything may need far longer.
_READY_WITHIN = 10.0
# Seconds for which the agent of a killed program may stay after the time limit of its last request.
ORPHAN_GRACE = process.GRACE + 5.0


@dataclass(frozen=True)
class Agent:
    """A running agent. Its clients must be started with the environment `env`, as `user`, and inherit the
    descriptor `hold`: while a process has that, the agent stays, even if this program is killed."""

    env: Mapping[str, str]
    hold: int
    process: subprocess.Popen[bytes]
    user: Optional[User] = None

    def has_ended(self) -> bool:
        """Whether it has ended or is about to: its connections close a moment before it can be waited for."""
        from subprocess import TimeoutExpired

        with suppress(TimeoutExpired):
            self.process.wait(1.0)
        return self.process.poll() is not None


# The agent must outlive a killed program for as long as a request is under way: the answer may bring a new
# refresh token. It must not stay for ever. So a watcher beside the agent reads from a pipe whose other end
# this program and its clients hold. When they have all ended, no request is under way, and the watcher ends
# the whole process group. What the agent wrote stays for the next run, unless `{remove}` says otherwise.
_WATCHED = """
exec 3<&0 </dev/null
(
    read -r _ <&3
    trap : TERM
    kill -TERM 0
    {remove}
    left=30
    while [ $left -gt 0 ] && kill -0 $$; do sleep 0.1; left=$((left - 1)); done
    kill -KILL 0
) &
exec 3<&-
exec "$@"
"""
_OPTIONS = ("--console", "--no-autoload", "--no-autoreauthenticate", "--no-webserver", "--no-scheme")


@contextmanager
def start_agent(
    directory: str,
    accounts: str,
    descriptors: Sequence[int],
    user: Optional[User] = None,
    remove_if_killed: Sequence[str] = (),
) -> Iterator[Agent]:
    """Runs an agent with its socket in the private `directory` and its files in `accounts`, as `user`; ends
    it on every way out. Raises ProgramMissing or Local.

    The agent inherits `descriptors`, so it keeps what they lock until it has ended. `remove_if_killed`: files
    and directories to be removed when this program was killed and the agent ends by itself.
    """
    import shlex

    socket, said = os.path.join(directory, "socket"), os.path.join(directory, "log")
    script = _WATCHED.replace("{remove}", shlex.join(("rm", "-rf", "--", *remove_if_killed)))
    command = ["/bin/sh", "-c", script, "oidc-agent", process.find("oidc-agent", PACKAGE)]
    command += [*_OPTIONS, f"--socket-path={socket}"]
    as_user = {"HOME": user.home, "USER": user.name, "TMPDIR": directory} if user else {}
    env = process.environment(OIDC_SOCK=socket, OIDC_CONFIG_DIR=accounts, **as_user)
    running = None
    with process.make_pipe() as (watched, hold):
        try:
            with defer_signals():
                running = process.start(
                    command, env, stdin=watched, output=said, pass_fds=descriptors, user=user
                )
            _wait_until_ready(socket, running.process, said)
            yield Agent(env, hold, running.process, user)
        finally:
            if running is not None:
                process.end(running)


def _wait_until_ready(socket: str, started: subprocess.Popen[bytes], said: str) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while not _answers(socket, deadline):
        status = started.poll()
        if status is not None:
            # The agent's user owns the directory, and could have put a link there.
            descriptor = os.open(said, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, encoding="utf-8", errors="replace") as file:
                why = outside(file.read(4096))
            ended = f"oidc-agent ended at once with status {status}"
            raise Local(f"{ended}: {why}" if why else ended, AGENT_ENDED)
        if time.monotonic() > deadline:
            hint = "the next run tries again; if this lasts, look at this host's load"
            raise Local(f"oidc-agent was not ready after {_READY_WITHIN:g} s", hint)
        time.sleep(0.005)


def _answers(path: str, deadline: float) -> bool:
    """Whether the agent answers an empty request. It would log a client that did not wait for the answer."""
    import socket

    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(path)
        probe.shutdown(socket.SHUT_WR)
        probe.settimeout(max(0.01, deadline - time.monotonic()))
        probe.recv(4096)
        return True
    return False


def offers(program: str, option: str) -> bool:
    """Whether this version of a program of oidc-agent has an option. The program's --help tells."""
    shown = process.run([process.find(program, PACKAGE), "--help"], process.environment(), 10)
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown.stdout + shown.stderr) is not None


def limit_time(limit: float, argv: Sequence[str]) -> list[str]:
    """A command that ends by itself soon after `limit` seconds, should this program be killed: oidc-agent's
    programs have no time limit of their own."""
    return [process.find("timeout", "coreutils"), "--signal=KILL", f"{limit + process.GRACE:g}", *argv]
