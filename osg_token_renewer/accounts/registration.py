"""Registering a client at an issuer: what `osg-token-renewer-setup` does once it knows everything.

Secrets reach oidc-gen through files in memory that only the two processes have: not by its command line, its
environment or a disk. oidc-gen's output is read, but not passed on: after a registration it may print the
client's secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Optional

from osg_token_renewer import options
from osg_token_renewer.accounts.login import Login
from osg_token_renewer.errors import Failure, Local, Refused, TimedOut
from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.net.metadata import discover
from osg_token_renewer.sources import client_credentials, token_endpoint
from osg_token_renewer.sources.base import Context, Kept
from osg_token_renewer.sources.oidc_agent import agent, messages
from osg_token_renewer.system import process
from osg_token_renewer.system.memory_files import inherited_path, make_memory_file
from osg_token_renewer.system.private_directories import make_agent_directory
from osg_token_renewer.system.process import Completed
from osg_token_renewer.text import OUTSIDE_LIMIT, line, outside

# Seconds. The issuer ends the wait for a person (RFC 8628 section 3.2, expires_in); this bounds an oidc-gen
# that hangs then.
LONGEST_WAIT = 3600.0
# Before there is a code to show: discovery, registration and device authorization.
_REQUESTS_BEFORE_CODE = 3
# One of those that oidc-agent registers by itself; a given client must have it.
REDIRECT_URI = "http://localhost:4242"

_LONGEST_ADDRESS = 2000
_CODE = re.compile(r"visit:[^\S\n]*\n\s*(\S+)(?:.*?enter the code:\s*(\S+))?", re.DOTALL)
_AFTER_CODE = re.compile(r"enter the code:\s*\S+\s|QR code")
# What oidc-gen says around the issuer's own words when it could not register a client.
_REGISTRATION_NOISE = re.compile(
    r"The following error occurred during dynamic client registration:\s*|"
    r"Dynamic client registration not successful for this issuer "
    r"and could not find a public client for this issuer\.?"
)
_BY_HAND = (
    f"have a client registered at the issuer (redirect URI {REDIRECT_URI}, device flow), then use --manual"
)

_NO_SECRET = Secret("")
# Shows the person where to go and which code to enter there.
Show = Callable[[str, str], None]


@dataclass(frozen=True)
class Registration:
    """What is to be set up. Without a `client_id`, a client is registered (RFC 7591). With `again`, an
    account that exists gets a new login, for which only its password is needed."""

    account: str
    issuer: str = ""
    scope: str = ""
    audience: str = ""
    ca_file: Optional[str] = None
    client_id: str = ""
    client_secret: Secret = _NO_SECRET
    again: bool = False
    # What encrypts the account file.
    password: Secret = _NO_SECRET
    # Seconds for each request, and those that the person has, once the code is shown.
    timeout: float = 60.0
    longest_wait: float = LONGEST_WAIT

    def log_in(self, login: Login, sockets: str, show: Show) -> None:
        """Has a person log in by the device flow (RFC 8628), which makes the oidc-agent account, or gives it
        a new refresh token. `sockets` is a directory for oidc-gen's files. Raises a Failure."""
        with ExitStack() as stack:
            password_line = f"{self.password.reveal()}\n".encode("utf-8", "surrogateescape")
            files = [stack.enter_context(make_memory_file(password_line))]
            given = [f"--pw-file={inherited_path(files[0])}", *self._options()]
            if self.client_id:
                files.append(stack.enter_context(make_memory_file(self._client_file())))
                given.append(f"--file={inherited_path(files[1])}")
            directory, mark = stack.enter_context(make_agent_directory(sockets, login.user))
            accounts = stack.enter_context(login.lend(directory)).directory
            inherited, temporary = (mark, *login.locked), (*login.temporary, directory)
            started = agent.start_agent(directory, accounts, inherited, login.user, temporary)
            self._generate(given, stack.enter_context(started), files, show)

    def _options(self) -> list[str]:
        if self.again:
            return ["--reauthenticate"]
        given = {"iss": self.issuer, "scope": self.scope, "aud": self.audience, "cp": self.ca_file}
        return [f"--{name}={value}" for name, value in given.items() if value or name in ("iss", "scope")]

    def _client_file(self) -> bytes:
        """A client configuration in the form that oidc-gen's --file reads."""
        content = {
            "client_id": self.client_id,
            "client_secret": self.client_secret.reveal(),
            "issuer_url": self.issuer,
            "scope": self.scope,
            "redirect_uris": [REDIRECT_URI],
            **({"cert_path": self.ca_file} if self.ca_file else {}),
        }
        return json.dumps(content).encode()

    def _generate(self, given: list[str], running: agent.Agent, files: list[int], show: Show) -> None:
        shown: list[str] = []

        def watch(printed: str) -> Optional[float]:
            found = None if shown else address_and_code(printed)
            if found is None:
                return None
            shown.append(found[0])
            show(*found)
            return self.longest_wait

        limit = _REQUESTS_BEFORE_CODE * self.timeout
        argv = [process.find("oidc-gen", agent.PACKAGE), "--flow=device", "--no-url-call", "--prompt=none"]
        # If this program is killed, its agent ends at once, and oidc-gen when it misses the agent.
        argv = agent.limit_time(limit + self.longest_wait, [*argv, *given, self.account])
        try:
            done = process.run(argv, running.env, limit, pass_fds=files, user=running.user, watch=watch)
        except TimedOut as error:
            what = "the authorization did not end" if shown else "the issuer did not answer in time"
            raise TimedOut(what) from error
        # Only its exit status tells what happened: it prints "accepted" even if the user denied.
        if done.status != 0:
            raise self.explain(done, bool(shown))

    def explain(self, done: Completed, shown: bool) -> Failure:
        """The Failure that a failed oidc-gen means. `shown`: whether the person was shown a code."""
        # What it says follows the QR code that it may have shown. The client configuration, which it may
        # print too, is a secret.
        lines = done.stderr.splitlines()
        since = max((number + 1 for number, line in enumerate(lines) if "\x1b[" in line), default=0)
        words = [line for line in lines[since:] if line.strip() and line[0] not in '{}"\t ']
        text = " ".join(re.sub(r"^Error:\s*", "", line) for line in words)
        secrets = (self.password.reveal(), self.client_secret.reveal())
        said = outside(text, secrets, limit=10 * OUTSIDE_LIMIT)
        command = messages.REAUTHENTICATE if self.again else messages.SETUP
        again = f"run it again: {command.format(account=self.account)}"
        if shown and "access_denied" in said:
            return Refused("the authorization was denied", again)
        if shown and re.search(r"expired_token|invalid_grant|not valid any ?more|expired", said):
            return Refused("the code expired before the authorization was given", again)
        if re.search(r"dynamic client registration", said, re.IGNORECASE):
            why = outside(_REGISTRATION_NOISE.sub("", said)) or "it does not offer that"
            return Refused(f"the issuer registered no client ({why})", _BY_HAND)
        if self.client_id and re.search(r"invalid_client|unauthorized_client", said):
            hint = "check its id and secret, and that it may use the device flow"
            return Refused(f"the issuer refused the client ({outside(said)})", hint)
        return messages.explain(Completed(done.status, "", said), self.account, "registration failed")

    def prove_client(self) -> str:
        """Obtains one token by client credentials, and drops it; returns the URL of the token endpoint.
        Raises a Failure."""
        endpoint = discover(self.issuer, self.ca_file, self.timeout).get("token_endpoint")
        try:
            url = options.endpoint(endpoint if isinstance(endpoint, str) else "")
        except ValueError as error:
            what = f"the issuer's metadata names no usable token endpoint: {error}"
            raise Local(what, "check the issuer's URL") from error
        settings = token_endpoint.TokenEndpoint(url, self.client_id, self.client_secret, ca_file=self.ca_file)
        source = client_credentials.ClientCredentials()
        account = Account(self.account, source.NAME, settings, self.timeout)
        spec = TokenSpec("setup", self.account, "", tuple(self.audience.split()), tuple(self.scope.split()))
        with Kept() as kept, Kept() as shared:
            context = Context(kept=kept, shared=shared)
            with source.session(account, context) as fetch:
                fetch(spec)
        return url


def address_and_code(printed: str) -> Optional[tuple[str, str]]:
    """Where oidc-gen sends the person, and which code to enter there; None until all of it is printed."""
    found = _CODE.search(printed)
    if not found or not _AFTER_CODE.search(printed):
        return None
    return line(found[1], _LONGEST_ADDRESS), line(found[2] or "")
