"""Refresh tokens kept by oidc-agent: a private agent for each account, so that accounts are independent and renew in parallel.

The agent runs in the foreground on a socket that only this user can reach. It is given the account with `oidc-add --pw-store`, so
that it can save a rotated refresh token, and asked with `oidc-token`. Versions 4.2.6 to 5.3; sources: oidc-agent(1), oidc-add(1),
oidc-token(1).
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from osg_token_renewer import options, process
from osg_token_renewer.errors import Failure, Local, Refused, TimedOut, Unavailable
from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.process import Completed, User
from osg_token_renewer.sources.base import Fetch, Fetched
from osg_token_renewer.stop import undisturbed
from osg_token_renewer.text import outside

if TYPE_CHECKING:
    import subprocess

NAME = "oidc-agent"
MARKER = "password_file"
OVERLAPS = False
OPTIONS = (Option("password_file", options.secret_file, required=True, summary="file whose first line is the encryption password"),)
PACKAGE = "oidc-agent-cli"

# An agent is ready after some 20 ms; a machine that is short of everything may need far longer.
_READY_WITHIN = 10.0
# One blank asks for the refresh token's default scopes; without the parameter some issuers (CILogon) answer with less.
_DEFAULT_SCOPES = " "
# Opening an account takes a core for 0.3 s and 67 MB; on 4.2.6 it also waits for the issuer, twice.
_OPENINGS_PER_CORE = 3
_opening = threading.BoundedSemaphore(_OPENINGS_PER_CORE * len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Settings:
    password_file: SecretFile


@dataclass(frozen=True)
class Agent:
    """A running agent; `env` is what its clients must be started with."""

    env: Mapping[str, str]
    user: Optional[User] = None


def settings(values: Mapping[str, Any]) -> Settings:
    return Settings(values["password_file"])


@contextmanager
def session(account: Account, directory: str) -> Iterator[Fetch]:
    password_file: SecretFile = account.settings.password_file
    # Proves that it can be read, before an agent is started: oidc-add would ask for the password instead.
    password_file.first_line("password")
    with agent(directory) as running:
        _add(account, os.path.abspath(password_file.path), running)
        yield _Session(account, running).fetch


@contextmanager
def agent(directory: str, user: Optional[User] = None) -> Iterator[Agent]:
    """A private agent, ended on every way out, its directory removed."""
    program = process.find("oidc-agent", PACKAGE)
    with _private_directory(directory, user) as private:
        path = os.path.join(private, "socket")
        env = process.environment(OIDC_SOCK=path, **({"HOME": user.home, "USER": user.name, "TMPDIR": private} if user else {}))
        argv = [program, "--console", "--no-autoload", "--no-autoreauthenticate", "--no-webserver", "--no-scheme"]
        running = None
        try:
            with undisturbed():
                running = process.start([*argv, f"--socket-path={path}"], env, output=os.path.join(private, "log"), user=user)
            _wait_for(path, running.process, os.path.join(private, "log"))
            yield Agent(env, user)
        finally:
            if running is not None:
                process.end(running)


@contextmanager
def _private_directory(parent: str, user: Optional[User]) -> Iterator[str]:
    import shutil
    import tempfile

    try:
        private = tempfile.mkdtemp(prefix="agent-", dir=parent)
    except OSError as error:
        raise Local(f"there can be no directory for an agent's socket in {parent}: {error.strerror}", "see runtime_dir") from error
    try:
        if user is not None:
            os.chown(private, user.uid, user.gid)
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _wait_for(path: str, started: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while not _answers(path, deadline):
        status = started.poll()
        if status is not None:
            with open(log, encoding="utf-8", errors="replace") as file:
                said = outside(file.read(4096))
            raise Local(f"oidc-agent ended at once with status {status}" + (f": {said}" if said else ""))
        if time.monotonic() > deadline:
            raise Local(f"oidc-agent was not ready after {_READY_WITHIN:g} s")
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


def _add(account: Account, password_file: str, running: Agent) -> None:
    argv = [process.find("oidc-add", PACKAGE), "--pw-store", f"--pw-file={password_file}"]
    # Without it, oidc-add asks the issuer for a token that nobody wants.
    if offers("oidc-add", "--skip-check"):
        argv.append("--skip-check")
    with _opening:
        done = _run([*argv, account.name], running, account)
    if done.status != 0:
        raise failure(done, account.name)


def _run(argv: Sequence[str], running: Agent, account: Account) -> Completed:
    try:
        return process.run(argv, running.env, account.timeout, user=running.user)
    except TimedOut as error:
        raise TimedOut(f"the issuer of account {account.name} had not answered after {account.timeout:g} s") from error


class _Session:
    def __init__(self, account: Account, running: Agent) -> None:
        self._account = account
        self._agent = running
        self._program = process.find("oidc-token", PACKAGE)
        self._blank_scope = True

    def fetch(self, spec: TokenSpec) -> Fetched:
        done = self._ask(spec, _DEFAULT_SCOPES if self._blank_scope else "")
        if done.status != 0 and not spec.scope and self._blank_scope and "invalid_scope" in done.stderr:
            self._blank_scope = False
            done = self._ask(spec, "")
        if done.status != 0:
            raise failure(done, self._account.name)
        # Token, issuer, and expiry in seconds since 1970 (0: unknown), a line each.
        lines = [*done.stdout.splitlines(), "", "", ""]
        expires_at = float(lines[2]) if re.fullmatch(r"[1-9][0-9]{0,10}", lines[2].strip()) else None
        return Fetched(Secret(lines[0]), expires_at, lines[1].strip() or None)

    def _ask(self, spec: TokenSpec, default_scopes: str) -> Completed:
        argv = [self._program, "--all"]
        if spec.audience:
            argv.append(f"--aud={' '.join(spec.audience)}")
        scope = " ".join(spec.scope) or default_scopes
        if scope:
            argv.append(f"--scope={scope}")
        if spec.min_lifetime:
            argv.append(f"--time={spec.min_lifetime}")
        return _run([*argv, self._account.name], self._agent, self._account)


# What the programs print when they fail (4.2.6 and 5.3.3, several issuers), the first that fits; their exit status is always 1.
# The text is only a witness of what happened, so the patterns are loose and what fits none counts as temporary.
_SETUP = "osg-token-renewer-setup {account}"
_REAUTHENTICATE = "osg-token-renewer-setup --reauthenticate {account}"
_PATTERNS: tuple[tuple[str, type[Failure], str, Optional[str]], ...] = (
    # The issuer's own error codes (RFC 6749 section 5.2, RFC 8707 section 2) come first: what follows them is the issuer's text.
    (r"^invalid_grant", Refused, "the issuer refused the refresh token ({said})", "run: " + _REAUTHENTICATE),
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
        None,
    ),
    (
        r"ssl|certificate",
        Unavailable,
        "the TLS certificate of the issuer of account {account} was not accepted ({said})",
        "register the account anew with the issuer's CA bundle: osg-token-renewer-setup --ca-file FILE {account}",
    ),
    (r"permission denied|no space|read-only", Local, "oidc-agent could not use its files ({said})", "look at the home of its user"),
    # Its own guesses at what may be the matter are of no help here.
    (r"configuration endpoint|disconnected", Unavailable, "the issuer of account {account} cannot be reached", None),
    (r"json", Unavailable, "the answer of the issuer of account {account} makes no sense ({said})", None),
)


def failure(done: Completed, account: str, what_failed: Optional[str] = None) -> Failure:
    """What a failed oidc-add, oidc-token or oidc-gen means."""
    # Only the first line is the error; advice for people at a prompt may follow, which is not ours.
    first = next((line for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()), "")
    said = outside(re.sub(r"^Error:\s*", "", first))
    for pattern, kind, what, hint in _PATTERNS:
        if re.search(pattern, said, re.IGNORECASE):
            return kind(what.format(account=account, said=said), hint and hint.format(account=account))
    what_failed = what_failed or f"the issuer of account {account} could not be asked"
    return Unavailable(f"{what_failed} ({said or f'exit status {done.status}'})")
