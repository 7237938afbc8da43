"""Refresh tokens kept by oidc-agent: a private agent for each account, so that accounts are independent and renew in parallel.

The agent runs in the foreground on a socket that only this user can reach. It is given the account with `oidc-add` and asked with
`oidc-token`. To save a rotated refresh token it needs the password once more. It could keep that by itself (`--pw-store`), but would derive
another key for it, a third of what opening an account costs; so it has it in a file in memory, which nobody can change.
Versions 4.2.6 to 5.3; sources: oidc-agent(1), oidc-add(1), oidc-token(1).
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from osg_token_renewer import directories, options, process
from osg_token_renewer.errors import CutOff, DeadGrant, Died, Failure, Local, Refused, TimedOut, Unavailable, Unreachable
from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.process import Completed, User
from osg_token_renewer.sources import account_file, issuer_config
from osg_token_renewer.sources.base import Begin, Directories, Fetch, Fetched, Kept, at_any_time
from osg_token_renewer.sources.openings import TURNS
from osg_token_renewer.stop import undisturbed
from osg_token_renewer.text import line, outside, seconds

if TYPE_CHECKING:
    import subprocess

log = logging.getLogger(__name__)

NAME = "oidc-agent"
MARKER = "password_file"
OVERLAPS = False
OPTIONS = (Option("password_file", options.secret_file, required=True),)
PACKAGE = "oidc-agent-cli"

# An agent is ready after some 20 ms; a machine that is short of everything may need far longer.
_READY_WITHIN = 10.0
# One blank asks for the refresh token's default scopes; without the parameter some issuers (CILogon) answer with less.
_DEFAULT_SCOPES = " "
# What clients say when it ends while they wait for it; oidc-add says of an issuer that is out of reach what it says of that.
_HUNG_UP = re.compile("not receive any response|disconnected")
_AGENT_ENDED = "the next run starts another; if this lasts, see whether something ends it: journalctl -k"
# A request that is cut off may cost a rotating account: it is begun only while it has its timeout left, or so many seconds.
_UNCUT = 30.0
# As long as the agent lives it has the newest refresh token, also where there was no room to write it. Seconds between tries.
_WRITE_AGAIN = (0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Settings:
    password_file: SecretFile


@dataclass(frozen=True)
class Agent:
    """A running agent.

    `env` is what its clients must be started with; while a process has the descriptor `hold`, the agent is not ended, whatever becomes
    of the program.
    """

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


def opening_obtains_token() -> bool:
    return not _skips_check()


def settings(values: Mapping[str, Any]) -> Settings:
    return Settings(values["password_file"])


def issuer(account: Account, known: Optional[str]) -> Optional[str]:
    """As oidc-agent remembers it: 5.x all accounts of an issuer, 4.2.6 only its first one."""
    issuers = issuer_config.read()
    listed = next((url for url, accounts in issuers.items() if account.name in accounts), None)
    # Each account that oidc-gen makes has its issuer in there: where it is only one, it is that of all.
    return listed or known or (next(iter(issuers)) if len(issuers) == 1 else None)


def rescue(directory: str) -> bool:
    return account_file.rescue(directory)


def grant(account: Account) -> Optional[str]:
    return account_file.fingerprint(account.name)


@contextmanager
def session(
    account: Account,
    where: Directories,
    begin: Begin = at_any_time,
    kept: Optional[Kept] = None,  # noqa: ARG001  (an agent has one account)
) -> Iterator[Fetch]:
    password_file: SecretFile = account.settings.password_file
    # Before an agent is started: oidc-add would ask for what it cannot read.
    password_line = password_file.raw_line("password")
    copy = os.path.join(where.state, "accounts", account.name)
    # What an earlier run may have left has no more time than that.
    with begin(0.0) as left:
        wait = min(left, _client_limit(account) + _ORPHAN_GRACE)
    with account_file.guarded(account.name, copy, wait, begin) as guard, ExitStack() as stack:
        password = stack.enter_context(process.in_memory(password_line))
        with TURNS.turn(begin):
            running = stack.enter_context(agent(where.sockets, guard, descriptors=(password,)))
            _add(account, password, running, begin)
        guard.take_back()
        yield _Session(account, running, guard, begin).fetch


# Starts the agent, and beside it a watcher that does nothing as long as somebody holds the other end of its standard input: the program,
# and each client that it started. When the program was killed, its clients finish the request that is under way; then nothing is, and the
# agent can be ended without loss. What it made of the account file ($2, if it is whole) is then taken back ($3), as Guard does.
# $1 is the agent's directory, $4 a file to remove. What could not be taken back stays there for the next run.
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
_ORPHAN_GRACE = 5.0


@contextmanager
def agent(
    parent: str, guard: Optional[account_file.Guard] = None, user: Optional[User] = None, descriptors: Sequence[int] = ()
) -> Iterator[Agent]:
    """A private agent, ended on every way out, its directory (made in `parent`) removed. It inherits `descriptors`.

    When this program is killed, the agent ends by itself as soon as no client holds it any more, and removes its directory. What `guard`
    has is then let go of, too.
    """
    program = process.find("oidc-agent", PACKAGE)
    held = guard.descriptors if guard else ()
    with directories.private(parent, user) as (private, mark), process.pipe() as (watched, hold):
        path = os.path.join(private, "socket")
        said = os.path.join(private, "log")
        lent = guard.lend(private) if guard else {}
        env = process.environment(OIDC_SOCK=path, **lent, **({"HOME": user.home, "USER": user.name, "TMPDIR": private} if user else {}))
        files = [guard.watched, guard.path, guard.room] if guard else ["", "", ""]
        watcher = ["/bin/sh", "-c", _WATCHED, "oidc-agent", private, *files]
        argv = [program, "--console", "--no-autoload", "--no-autoreauthenticate", "--no-webserver", "--no-scheme"]
        command = [*watcher, *argv, f"--socket-path={path}"]
        running = None
        try:
            with undisturbed():
                running = process.start(command, env, stdin=watched, output=said, pass_fds=(mark, *held, *descriptors), user=user)
            _wait_for(path, running.process, said)
            yield Agent(env, hold, running.process, user)
        finally:
            if running is not None:
                process.end(running)
            if guard is not None and not guard.take_back():
                log.error(
                    "account %s: its agent did not write its file whole: a new refresh token may be lost; %s", guard.account, guard.remedy
                )


def _wait_for(path: str, started: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while not _answers(path, deadline):
        status = started.poll()
        if status is not None:
            with open(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8", errors="replace") as file:
                said = outside(file.read(4096))
            raise Local(f"oidc-agent ended at once with status {status}" + (f": {said}" if said else ""), _AGENT_ENDED)
        if time.monotonic() > deadline:
            raise Local(
                f"oidc-agent was not ready after {_READY_WITHIN:g} s", "the next run tries again; if this lasts, look at this host's load"
            )
        time.sleep(0.005)


def _answers(path: str, deadline: float) -> bool:
    """Whether the agent answers. It does so to an empty request as well; one that left without waiting for it would be logged."""
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


def _skips_check() -> bool:
    """Whether oidc-add can be kept from asking the issuer for a token that nobody wants: from 5.1 on."""
    return offers("oidc-add", "--skip-check")


def _add(account: Account, password: int, running: Agent, begin: Begin) -> None:
    """`password` is the descriptor of the file that has it; the agent remembers its name, and has it by the same number."""
    argv = [process.find("oidc-add", PACKAGE), f"--pw-file={process.path_of(password)}"]
    if _skips_check():
        argv.append("--skip-check")
    done = _run([*argv, account.name], running, account, begin, (password,))
    if done.status != 0:
        raise failure(done, account.name)


def limited_to(limit: float, argv: Sequence[str]) -> list[str]:
    """A command that ends by itself after so many seconds: oidc-agent's programs have no time limit, and this one may be killed."""
    return [process.find("timeout", "coreutils"), "--signal=KILL", f"{limit:g}", *argv]


def _client_limit(account: Account) -> float:
    """When a client is ended that this program did not end, because it was killed."""
    return account.timeout + process.GRACE


def _run(argv: Sequence[str], running: Agent, account: Account, begin: Begin, descriptors: Sequence[int] = ()) -> Completed:
    limited = limited_to(_client_limit(account), argv)
    with begin(min(account.timeout, _UNCUT)) as within:
        timeout = min(account.timeout, within)
        loss = "if the issuer rotates refresh tokens, the account may be lost; should the next run be refused, run: "
        loss += _REAUTHENTICATE.format(account=account.name)
        # Nothing is lost with one that is not there to be asked any more.
        asked = running.process.poll() is None
        try:
            done = process.run(limited, running.env, timeout, pass_fds=(running.hold, *descriptors), user=running.user)
        except TimedOut as error:
            what = f"the issuer of account {account.name} had not answered after {seconds(timeout)}"
            raise CutOff(what, f"its agent had to be ended: {loss}") from error
        if asked and done.status != 0 and _HUNG_UP.search(done.stderr) and running.has_ended():
            what = f"the oidc-agent of account {account.name} ended before the issuer had answered"
            raise Died(what, f"see whether something ends it: journalctl -k; {loss}")
        return done


class _Session:
    def __init__(self, account: Account, running: Agent, guard: account_file.Guard, begin: Begin) -> None:
        self._account = account
        self._agent = running
        self._guard = guard
        self._begin = begin
        self._program = process.find("oidc-token", PACKAGE)
        self._blank_scope = True

    def fetch(self, spec: TokenSpec) -> Fetched:
        """Also sees to it that a refresh token that came with the token is on the disk: the agent does not say when it is not."""
        fetched = self._fetch(spec, self._begin)
        for wait in _WRITE_AGAIN:
            if self._guard.take_back():
                break
            log.warning("account %s: its file was not written whole: asking again, so that oidc-agent does", self._account.name)
            self._guard.mend()
            time.sleep(wait)
            # Whatever the run's limits: the newest refresh token may be nowhere but in the agent.
            with suppress(Failure):
                fetched = self._fetch(spec, at_any_time)
        return fetched

    def _fetch(self, spec: TokenSpec, begin: Begin) -> Fetched:
        done = self._ask(spec, _DEFAULT_SCOPES if self._blank_scope else "", begin)
        if done.status != 0 and not spec.scope and self._blank_scope and "invalid_scope" in done.stderr:
            self._blank_scope = False
            done = self._ask(spec, "", begin)
        if done.status != 0:
            raise failure(done, self._account.name)
        return fetched(done.stdout)

    def _ask(self, spec: TokenSpec, default_scopes: str, begin: Begin) -> Completed:
        argv = [self._program, "--all"]
        if spec.audience:
            argv.append(f"--aud={' '.join(spec.audience)}")
        scope = " ".join(spec.scope) or default_scopes
        if scope:
            argv.append(f"--scope={scope}")
        if spec.min_lifetime:
            argv.append(f"--time={spec.min_lifetime}")
        return _run([*argv, self._account.name], self._agent, self._account, begin)


def fetched(printed: str) -> Fetched:
    """What `oidc-token --all` prints: token, issuer, and expiry in seconds since 1970 (0: unknown), a line each."""
    token, issuer, expiry = [*printed.splitlines(), "", "", ""][:3]
    expires_at = float(expiry) if re.fullmatch(r"\s*[1-9][0-9]{0,10}\s*", expiry, re.ASCII) else None
    return Fetched(Secret(token), expires_at, line(issuer) or None)


# What the programs print when they fail (4.2.6 and 5.3.3, several issuers), the first that fits; their exit status is always 1.
# The text is only a witness of what happened, so the patterns are loose and what fits none counts as temporary.
_SETUP = "osg-token-renewer-setup {account}"
_REAUTHENTICATE = "osg-token-renewer-setup --reauthenticate {account}"
_PATTERNS: tuple[tuple[str, type[Failure], str, Optional[str]], ...] = (
    # The issuer's own error codes (RFC 6749 section 5.2, RFC 8707 section 2) come first: what follows them is the issuer's text.
    (r"^invalid_grant", DeadGrant, "the issuer refused the refresh token ({said})", "run: " + _REAUTHENTICATE),
    (
        r"^(invalid_scope|invalid_target|access_denied)",
        Refused,
        "the issuer refused the scope or the audience ({said})",
        "check audience and scope of this token, or run: " + _REAUTHENTICATE,
    ),
    (r"^(invalid|unauthorized)_client", Refused, "the issuer refused the client ({said})", "register it anew: " + _SETUP),
    (
        r"^(invalid_request|received http status code 40[01])",
        Refused,
        "the issuer refused the request ({said})",
        "run: " + _REAUTHENTICATE,
    ),
    (
        r"maximum number of tries|wrong password|decrypt",
        Refused,
        "the password does not open the account file, or that file is damaged ({said})",
        "correct the first line of the password_file of [account {account}]",
    ),
    (r"no account config|no such account|oidc-dir does not exist", Refused, "oidc-agent has no account {account}", "run: " + _SETUP),
    (
        r"connect to oidc-agent|not receive any response|not loaded",
        Local,
        "the oidc-agent of account {account} ended, or lost the account ({said})",
        _AGENT_ENDED,
    ),
    (
        r"ssl|certificate",
        Unavailable,
        "the TLS certificate of the issuer of account {account} was not accepted ({said})",
        "register the account anew with the issuer's CA bundle: osg-token-renewer-setup --ca-file FILE {account}",
    ),
    (r"permission denied|no space|read-only", Local, "oidc-agent could not use its files ({said})", "look at the home of its user"),
    # Its own guesses at what may be the matter are of no help here.
    (r"configuration endpoint|connect to url|disconnected", Unreachable, "the issuer of account {account} cannot be reached", None),
    (r"received http status code 50[234]", Unreachable, "the issuer of account {account} is out of order ({said})", None),
    (r"json", Unavailable, "the answer of the issuer of account {account} makes no sense ({said})", None),
)

# What proves that the refresh token was not used: no endpoint was known yet, its host has no address, or the request was one too many.
# "Disconnected" does not: it is said of a connection that was refused, and of an answer that was lost.
_NOT_PROCESSED = re.compile(r"configuration endpoint|connect to url|received http status code 429", re.IGNORECASE)


def failure(done: Completed, account: str, what_failed: Optional[str] = None) -> Failure:
    """What a failed oidc-add, oidc-token or oidc-gen means."""
    # Only the first line is the error; advice for people at a prompt may follow, which is not ours.
    first = next((line for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()), "")
    said = outside(re.sub(r"^Error:\s*", "", first))
    for pattern, kind, what, hint in _PATTERNS:
        if re.search(pattern, said, re.IGNORECASE):
            return _repeatable(kind(what.format(account=account, said=said), hint and hint.format(account=account)), said)
    what_failed = what_failed or f"the issuer of account {account} could not be asked"
    return _repeatable(Unavailable(f"{what_failed} ({said or f'exit status {done.status}'})"), said)


def _repeatable(failure: Failure, said: str) -> Failure:
    if isinstance(failure, Unavailable) and _NOT_PROCESSED.search(said):
        failure.retry_after = 0.0
    return failure
