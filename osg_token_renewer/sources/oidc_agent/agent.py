"""A private oidc-agent process: how it is started, watched and ended."""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from osg_token_renewer.errors import Local
from osg_token_renewer.sources.oidc_agent import account_file
from osg_token_renewer.sources.oidc_agent.messages import AGENT_ENDED
from osg_token_renewer.system import private_directories, process
from osg_token_renewer.system.signals import defer_signals
from osg_token_renewer.system.users import User
from osg_token_renewer.text import outside

if TYPE_CHECKING:
    import subprocess

log = logging.getLogger(__name__)

PACKAGE = "oidc-agent-cli"

# An agent is ready after some 20 ms; a machine that is short of everything may need far longer.
_READY_WITHIN = 10.0


@dataclass(frozen=True)
class Agent:
    """A running agent.

    `env` is what its clients must be started with; while a process has the descriptor `hold`, the agent is
    not ended, whatever becomes of the program."""

    env: Mapping[str, str]
    hold: int
    process: subprocess.Popen[bytes]
    user: Optional[User] = None

    def has_ended(self) -> bool:
        """Whether it is gone, or about to be: its connections close a moment before it can be collected."""
        from subprocess import TimeoutExpired

        with suppress(TimeoutExpired):
            self.process.wait(1.0)
        return self.process.poll() is not None


# Starts the agent, and beside it a watcher that does nothing as long as somebody holds the other end of its
# standard input: the program, and each client that it started. When the program was killed, its clients
# finish the request that is under way; then nothing is, and the agent can be ended without loss. What it made
# of the account file ($2, if it is whole) is then taken back ($3), as Guard does. $1 is the agent's
# directory, $4 a file to remove. What could not be taken back stays there for the next run.
_WATCHED = """
exec 3<&0 </dev/null
(
    read -r _ <&3
    rm -f -- "$4"
    done=yes
    if [ -s "$2" ] && tail -n 1 "$2" | grep -Eq "^Generated using version: [0-9]+\\.[0-9]+\\.[0-9]+"; then
        { cat "$2" 1<>"$3" && truncate -s "$(wc -c <"$2")" "$3" && sync "$3"; } || done=
    fi
    trap : TERM
    kill -TERM 0
    [ -z "$done" ] || rm -rf -- "$1"
    left=30
    while [ $left -gt 0 ] && kill -0 $$; do sleep 0.1; left=$((left - 1)); done
    kill -KILL 0
) &
exec 3<&-
shift 4
exec "$@"
"""
# How long after its clients' end an agent whose program was killed may be there.
ORPHAN_GRACE = 5.0


@contextmanager
def start_agent(
    parent: str,
    guard: Optional[account_file.Guard] = None,
    user: Optional[User] = None,
    descriptors: Sequence[int] = (),
) -> Iterator[Agent]:
    """A private agent, ended on every way out, its directory (made in `parent`) removed. It inherits
    `descriptors`.

    When this program is killed, the agent ends by itself as soon as no client holds it any more, and removes
    its directory. What `guard` has is then let go of, too."""
    program = process.find("oidc-agent", PACKAGE)
    held = guard.descriptors if guard else ()
    with (
        private_directories.make_agent_directory(parent, user) as (private, mark),
        process.make_pipe() as (watched, hold),
    ):
        path = os.path.join(private, "socket")
        said = os.path.join(private, "log")
        lent = guard.lend(private) if guard else {}
        env = process.environment(
            OIDC_SOCK=path,
            **lent,
            **({"HOME": user.home, "USER": user.name, "TMPDIR": private} if user else {}),
        )
        files = [guard.watched, guard.path, guard.room] if guard else ["", "", ""]
        watcher = ["/bin/sh", "-c", _WATCHED, "oidc-agent", private, *files]
        argv = [
            program,
            "--console",
            "--no-autoload",
            "--no-autoreauthenticate",
            "--no-webserver",
            "--no-scheme",
        ]
        command = [*watcher, *argv, f"--socket-path={path}"]
        running = None
        try:
            with defer_signals():
                running = process.start(
                    command, env, stdin=watched, output=said, pass_fds=(mark, *held, *descriptors), user=user
                )
            _wait_for(path, running.process, said)
            yield Agent(env, hold, running.process, user)
        finally:
            if running is not None:
                process.end(running)
            if guard is not None and not guard.take_back():
                log.error(
                    "account %s: its agent did not write its file whole: a new refresh token may be lost; %s",
                    guard.account,
                    guard.remedy,
                )


def _wait_for(path: str, started: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while not _answers(path, deadline):
        status = started.poll()
        if status is not None:
            with open(
                os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8", errors="replace"
            ) as file:
                said = outside(file.read(4096))
            raise Local(
                f"oidc-agent ended at once with status {status}" + (f": {said}" if said else ""), AGENT_ENDED
            )
        if time.monotonic() > deadline:
            raise Local(
                f"oidc-agent was not ready after {_READY_WITHIN:g} s",
                "the next run tries again; if this lasts, look at this host's load",
            )
        time.sleep(0.005)


def _answers(path: str, deadline: float) -> bool:
    """Whether the agent answers. It does so to an empty request as well; one that left without waiting for it
    would be logged."""
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            probe.shutdown(socket.SHUT_WR)
            probe.settimeout(max(0.01, deadline - time.monotonic()))
            probe.recv(4096)
        except OSError:
            return False
        return True


@functools.cache
def offers(program: str, option: str) -> bool:
    """Whether this version of a program has an option: asked of it, not assumed."""
    shown = process.run([process.find(program, PACKAGE), "--help"], process.environment(), 10)
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown.stdout + shown.stderr) is not None


def skips_check() -> bool:
    """Whether oidc-add can be kept from asking the issuer for a token that nobody wants: from 5.1 on."""
    return offers("oidc-add", "--skip-check")


def limited_to(limit: float, argv: Sequence[str]) -> list[str]:
    """A command that ends by itself after so many seconds: oidc-agent's programs have no time limit, and this
    one may be killed."""
    return [process.find("timeout", "coreutils"), "--signal=KILL", f"{limit:g}", *argv]
