"""Refresh tokens that oidc-agent keeps. Each account has a private agent, so that accounts are independent
and renew in parallel.

The agent runs in the foreground, with a socket that only this user can reach. `oidc-add` loads the account,
`oidc-token` asks for tokens. To save a rotated refresh token the agent needs the account's password again. It
could store that itself (`--pw-store`), but would derive one more key for it, a third of what opening an
account costs. So it reads the password from a file in memory, which nobody can change meanwhile, and which is
never on a disk or a command line. Versions 4.2.6 to 5.3; sources: oidc-agent(1), oidc-add(1), oidc-token(1).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Optional

from osg_token_renewer.errors import CutOff, Died, Failure, TimedOut
from osg_token_renewer.model import Account, TokenSpec
from osg_token_renewer.options import Option, SecretFile, secret_file
from osg_token_renewer.sources.base import Begin, Context, Fetch, Fetched, Source, at_any_time
from osg_token_renewer.sources.oidc_agent import account_file, agent, rotation
from osg_token_renewer.sources.oidc_agent.messages import REAUTHENTICATE, explain, read_token
from osg_token_renewer.sources.oidc_agent.turns import Turns
from osg_token_renewer.system import memory_files, process, secret_files
from osg_token_renewer.system.private_directories import make_agent_directory
from osg_token_renewer.system.process import Completed
from osg_token_renewer.text import seconds

log = logging.getLogger(__name__)

# What a client says when its agent ends meanwhile. oidc-add says the same of an issuer that is out of reach.
_HUNG_UP = re.compile("not receive any response|disconnected")
# Seconds that a request should have left before the run's end, unless its own timeout is shorter: a request
# that is cut off may cost an account whose refresh token rotates.
_UNCUT = 30.0
# Seconds before each try to have the agent write its copy again.
_WRITE_AGAIN = (0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Settings:
    password_file: SecretFile


class OidcAgent(Source):
    NAME = "oidc-agent"
    MARKER = "password_file"
    OPTIONS = (Option("password_file", secret_file, required=True),)
    OVERLAPS = False

    def settings(self, values: Mapping[str, Any]) -> Settings:
        return Settings(values["password_file"])

    def grant(self, account: Account) -> Optional[str]:
        return account_file.fingerprint(account.name)

    def opening_obtains_token(self) -> bool:
        """From 5.1 on, oidc-add can be kept from asking the issuer for a token that nobody wants."""
        # Each time anew: its --help takes milliseconds, and another version may be installed meanwhile.
        return not agent.offers("oidc-add", "--skip-check")

    def rescue(self, directory: str) -> bool:
        return rotation.rescue(directory)

    @contextmanager
    def session(self, account: Account, context: Context) -> Iterator[Fetch]:
        begin = context.begin
        # Before an agent is started: oidc-add would ask for a password that it cannot read.
        password = secret_files.read_line(account.settings.password_file, "password")
        copy = os.path.join(context.state, "accounts", account.name)
        with begin(0.0) as left:
            # The agent of a killed run has the account for no longer than that.
            wait = min(left, account.timeout + agent.ORPHAN_GRACE)
        with rotation.hold_account(account.name, copy, wait, begin) as held, ExitStack() as stack:
            secret = stack.enter_context(memory_files.make_memory_file(password))
            with context.shared.get(Turns).take(begin):
                directory, mark = stack.enter_context(make_agent_directory(context.sockets))
                lent = stack.enter_context(held.lend(directory))
                inherited = (mark, held.lock, secret)
                running = stack.enter_context(agent.start_agent(directory, lent.directory, inherited))
                session = _Session(account, running, held, lent, begin)
                session.load(secret, skip_check=not self.opening_obtains_token())
            yield session.fetch


@dataclass
class _Session:
    """An account and its agent: asks for one token after the other."""

    account: Account
    running: agent.Agent
    held: rotation.HeldAccount
    lent: rotation.Lent
    begin: Begin
    # A blank asks for the refresh token's default scopes. Without the parameter some issuers (CILogon) grant
    # fewer.
    default_scopes: str = " "

    def load(self, secret: int, skip_check: bool) -> None:
        """Has the agent open the account. `secret` is the descriptor of the password's file, which the agent
        has by the same number, and reads again whenever it saves a new refresh token."""
        # Whether it is missing is known before the issuer is asked.
        process.find("oidc-token", agent.PACKAGE)
        options = [f"--pw-file={memory_files.inherited_path(secret)}"]
        if skip_check:
            options.append("--skip-check")
        done = self._run("oidc-add", options, self.begin, (secret,))
        if done.status != 0:
            raise explain(done, self.account.name)
        self.held.take_back(self.lent)

    def fetch(self, spec: TokenSpec) -> Fetched:
        """Obtains one token, and makes sure that a new refresh token is saved. The agent does not report a
        failed write. It keeps the token in memory and writes it again after the next request."""
        fetched = self._fetch(spec, self.begin)
        for wait in _WRITE_AGAIN:
            if self.held.take_back(self.lent):
                break
            why = "its file was not written whole: asking again, so that oidc-agent does"
            log.warning("account %s: %s", self.account.name, why)
            self.held.mend(self.lent)
            time.sleep(wait)
            # Whatever the run's limits: the newest refresh token may be nowhere but in the agent.
            with suppress(Failure):
                fetched = self._fetch(spec, at_any_time)
        return fetched

    def _fetch(self, spec: TokenSpec, begin: Begin) -> Fetched:
        done = self._ask(spec, begin)
        if done.status != 0 and not spec.scope and self.default_scopes and "invalid_scope" in done.stderr:
            self.default_scopes = ""
            done = self._ask(spec, begin)
        if done.status != 0:
            raise explain(done, self.account.name)
        return read_token(done.stdout)

    def _ask(self, spec: TokenSpec, begin: Begin) -> Completed:
        scope = " ".join(spec.scope) or self.default_scopes
        wanted = {"aud": " ".join(spec.audience), "scope": scope, "time": spec.min_lifetime}
        options = [f"--{name}={value}" for name, value in wanted.items() if value]
        return self._run("oidc-token", ["--all", *options], begin)

    def _run(self, program: str, options: Sequence[str], begin: Begin, fds: Sequence[int] = ()) -> Completed:
        """Runs a client of the agent on the account; raises what `begin` raises, CutOff, Died or Local."""
        account, running = self.account, self.running
        then = f"should the next run be refused, run: {REAUTHENTICATE.format(account=account.name)}"
        loss = f"if the issuer rotates refresh tokens, the account may be lost; {then}"
        command = [process.find(program, agent.PACKAGE), *options, account.name]
        limited = agent.limit_time(account.timeout, command)
        with begin(min(account.timeout, _UNCUT)) as within:
            timeout = min(account.timeout, within)
            # A request that no agent could take lost nothing.
            asked = running.process.poll() is None
            try:
                done = process.run(limited, running.env, timeout, pass_fds=(running.hold, *fds))
            except TimedOut as error:
                what = f"the issuer of account {account.name} had not answered after {seconds(timeout)}"
                raise CutOff(what, f"its agent had to be ended: {loss}") from error
            if asked and done.status != 0 and _HUNG_UP.search(done.stderr) and running.has_ended():
                what = f"the oidc-agent of account {account.name} ended before the issuer had answered"
                raise Died(what, f"see whether something ends it: journalctl -k; {loss}")
            return done
