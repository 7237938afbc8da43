"""Refresh tokens kept by oidc-agent: a private agent for each account, so that accounts are independent and
renew in parallel.

The agent runs in the foreground on a socket that only this user can reach. It is given the account with
`oidc-add` and asked with `oidc-token`. To save a rotated refresh token it needs the password once more. It
could keep that by itself (`--pw-store`), but would derive another key for it, a third of what opening an
account costs; so it has it in a file in memory, which nobody can change. Versions 4.2.6 to 5.3; sources:
oidc-agent(1), oidc-add(1), oidc-token(1)."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Optional

from osg_token_renewer import options
from osg_token_renewer.errors import CutOff, Died, Failure, TimedOut
from osg_token_renewer.model import Account, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.sources.base import Begin, Context, Fetch, Fetched, Source, at_any_time
from osg_token_renewer.sources.oidc_agent import account_file
from osg_token_renewer.sources.oidc_agent.agent import (
    ORPHAN_GRACE,
    PACKAGE,
    Agent,
    limited_to,
    skips_check,
    start_agent,
)
from osg_token_renewer.sources.oidc_agent.messages import REAUTHENTICATE, explain, read_token
from osg_token_renewer.system import memory_files, process, secret_files
from osg_token_renewer.system.process import Completed
from osg_token_renewer.text import seconds

log = logging.getLogger(__name__)

# One blank asks for the refresh token's default scopes; without the parameter some issuers (CILogon) answer
# with less.
_DEFAULT_SCOPES = " "
# What clients say when it ends while they wait for it; oidc-add says of an issuer that is out of reach what
# it says of that.
_HUNG_UP = re.compile("not receive any response|disconnected")
# A request that is cut off may cost a rotating account: it is begun only while it has its timeout left, or so
# many seconds.
_UNCUT = 30.0
# As long as the agent lives it has the newest refresh token, also where there was no room to write it.
# Seconds between tries.
_WRITE_AGAIN = (0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Settings:
    password_file: SecretFile


class OidcAgent(Source):
    NAME = "oidc-agent"
    MARKER = "password_file"
    OPTIONS = (Option("password_file", options.secret_file, required=True),)
    OVERLAPS = False

    def settings(self, values: Mapping[str, Any]) -> Settings:
        return Settings(values["password_file"])

    def grant(self, account: Account) -> Optional[str]:
        return account_file.fingerprint(account.name)

    def opening_obtains_token(self) -> bool:
        return not skips_check()

    def rescue(self, directory: str) -> bool:
        return account_file.rescue(directory)

    @contextmanager
    def session(self, account: Account, context: Context) -> Iterator[Fetch]:
        begin, password_file = context.begin, account.settings.password_file
        # Before an agent is started: oidc-add would ask for what it cannot read.
        password_line = secret_files.read_line(password_file, "password")
        copy = os.path.join(context.state, "accounts", account.name)
        # What an earlier run may have left has no more time than that.
        with begin(0.0) as left:
            wait = min(left, _client_limit(account) + ORPHAN_GRACE)
        with account_file.guard_account(account.name, copy, wait, begin) as guard, ExitStack() as stack:
            password = stack.enter_context(memory_files.make_memory_file(password_line))
            with context.turns.take(begin):
                running = stack.enter_context(start_agent(context.sockets, guard, descriptors=(password,)))
                _add(account, password, running, begin)
            guard.take_back()
            yield _Session(account, running, guard, begin).fetch


def _add(account: Account, password: int, running: Agent, begin: Begin) -> None:
    """`password` is the descriptor of the file that has it; the agent remembers its name, and has it by the
    same number."""
    argv = [process.find("oidc-add", PACKAGE), f"--pw-file={memory_files.inherited_path(password)}"]
    if skips_check():
        argv.append("--skip-check")
    done = _run([*argv, account.name], running, account, begin, (password,))
    if done.status != 0:
        raise explain(done, account.name)


def _client_limit(account: Account) -> float:
    """When a client is ended that this program did not end, because it was killed."""
    return account.timeout + process.GRACE


def _run(
    argv: Sequence[str], running: Agent, account: Account, begin: Begin, descriptors: Sequence[int] = ()
) -> Completed:
    limited = limited_to(_client_limit(account), argv)
    with begin(min(account.timeout, _UNCUT)) as within:
        timeout = min(account.timeout, within)
        loss = "if the issuer rotates refresh tokens, the account may be lost; should the next run be refused, run: "
        loss += REAUTHENTICATE.format(account=account.name)
        # Nothing is lost with one that is not there to be asked any more.
        asked = running.process.poll() is None
        try:
            done = process.run(
                limited, running.env, timeout, pass_fds=(running.hold, *descriptors), user=running.user
            )
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
        """Also sees to it that a refresh token that came with the token is on the disk: the agent does not
        say when it is not."""
        fetched = self._fetch(spec, self._begin)
        for wait in _WRITE_AGAIN:
            if self._guard.take_back():
                break
            log.warning(
                "account %s: its file was not written whole: asking again, so that oidc-agent does",
                self._account.name,
            )
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
            raise explain(done, self._account.name)
        return read_token(done.stdout)

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
