"""Registering a client at an issuer: what `osg-token-renewer-setup` does once it knows everything.

Secrets reach oidc-gen through files in memory that only the two processes have: not by its command line, its
environment or a disk. oidc-gen's output is read, not passed on: after a registration it may print the
client's secret."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Optional

from osg_token_renewer.accounts import login
from osg_token_renewer.accounts.login import Login
from osg_token_renewer.errors import Failure, Refused, TimedOut
from osg_token_renewer.model import Account, Secret, TokenSpec
from osg_token_renewer.sources import client_credentials
from osg_token_renewer.sources.base import Context
from osg_token_renewer.sources.oidc_agent import agent, messages
from osg_token_renewer.system import memory_files, process
from osg_token_renewer.system.process import Completed
from osg_token_renewer.system.users import User
from osg_token_renewer.text import OUTSIDE_LIMIT, line, outside

log = logging.getLogger(__name__)

# The authorization server of the device flow ends the wait (RFC 8628 section 3.2, expires_in); this bounds an
# oidc-gen that hangs then.
LONGEST_WAIT = 3600.0
# Before there is a code to show: discovery, registration and device authorization.
_REQUESTS_BEFORE_CODE = 3
# How many requests a run may have to finish before it lets go of an account.
_IN_USE = 3
# One of those that oidc-agent registers by itself; a given client must have it.
REDIRECT_URI = "http://localhost:4242"

# Of the address that a person is to visit.
_LONGEST_ADDRESS = 2000
_CODE = re.compile(r"visit:[^\S\n]*\n\s*(\S+)(?:.*?enter the code:\s*(\S+))?", re.DOTALL)
# What oidc-gen says around the issuer's own words when it could not register a client.
_REGISTRATION_NOISE = re.compile(
    r"The following error occurred during dynamic client registration:\s*|"
    r"Dynamic client registration not successful for this issuer and could not find a public client for this issuer\.?"
)
_BY_HAND = (
    f"have a client registered at the issuer (redirect URI {REDIRECT_URI}, device flow), then use --manual"
)
_AFTER_CODE = re.compile(r"enter the code:\s*\S+\s|QR code")


@dataclass(frozen=True)
class Client:
    """A client that exists at the issuer already."""

    client_id: str
    client_secret: Secret


@dataclass(frozen=True)
class Request:
    """What is to be registered. `client` None asks for dynamic registration (RFC 7591)."""

    account: str
    issuer: str = ""
    scope: str = ""
    audience: str = ""
    ca_file: Optional[str] = None
    client: Optional[Client] = None
    # What encrypts the account file.
    password: Secret = field(default=Secret(""))
    # Seconds that the person has, once the code is shown.
    longest_wait: float = LONGEST_WAIT


# Shows the person where to go and which code to enter there.
Show = Callable[[str, str], None]


def begun(account: str, user: Optional[User], timeout: float, again: bool) -> AbstractContextManager[Login]:
    """Has the account for one setup, or for a new login of an account that is there:
    `account_login.begun`."""
    return login.begin_login(account, user, _IN_USE * timeout if again else None)


def register(request: Request, login: Login, directory: str, timeout: float, show: Show) -> None:
    """Has a person log in by the device flow (RFC 8628), which makes the oidc-agent account; raises a
    Failure.

    `timeout` bounds each request, the person has as long as the issuer's code lives."""
    argv = [f"--iss={request.issuer}", f"--scope={request.scope}"]
    if request.audience:
        argv.append(f"--aud={request.audience}")
    if request.ca_file:
        argv.append(f"--cp={request.ca_file}")
    with ExitStack() as stack:
        descriptors = []
        if request.client is not None:
            descriptors = [
                stack.enter_context(memory_files.make_memory_file(_client_file(request, request.client)))
            ]
            argv.append(f"--file={memory_files.inherited_path(descriptors[0])}")
        _generate(request, login, argv, descriptors, directory, timeout, show)
    login.finish()


def reauthenticate(request: Request, login: Login, directory: str, timeout: float, show: Show) -> None:
    """The same for an account that is there, which gets a new refresh token; raises a Failure."""
    try:
        _generate(request, login, ["--reauthenticate"], [], directory, timeout, show)
    except Failure:
        if login.changed:
            log.warning("account %s has its new login all the same", request.account)
        raise
    login.finish()


def prove(account: Account, spec: TokenSpec) -> None:
    """Asks for one token by client credentials, and drops it; raises a Failure."""
    with client_credentials.ClientCredentials().session(account, Context()) as fetch:
        fetch(spec)


def _generate(
    request: Request,
    login: Login,
    options: Sequence[str],
    descriptors: Sequence[int],
    directory: str,
    timeout: float,
    show: Show,
) -> None:
    program = process.find("oidc-gen", agent.PACKAGE)
    shown: list[str] = []

    def watch(printed: str) -> Optional[float]:
        found = None if shown else address_and_code(printed)
        if found is None:
            return None
        shown.append(found[0])
        show(*found)
        return request.longest_wait

    limit = _REQUESTS_BEFORE_CODE * timeout
    password_line = f"{request.password.reveal()}\n".encode("utf-8", "surrogateescape")
    with (
        agent.start_agent(directory, login, login.user) as running,
        memory_files.make_memory_file(password_line) as password,
    ):
        argv = [
            program,
            "--flow=device",
            "--no-url-call",
            "--prompt=none",
            f"--pw-file={memory_files.inherited_path(password)}",
            *options,
            request.account,
        ]
        # Should this program be killed, its agent is ended at once, and oidc-gen when it misses that: nobody
        # will be told of a login.
        argv = agent.limited_to(limit + request.longest_wait + process.GRACE, argv)
        try:
            done = process.run(
                argv, running.env, limit, pass_fds=[*descriptors, password], user=login.user, watch=watch
            )
        except TimedOut as error:
            raise TimedOut(
                "the issuer did not answer in time" if not shown else "the authorization did not end", None
            ) from error
    # What it prints is not always what happened (it says "accepted" when the user denied): its exit status
    # is.
    if done.status != 0:
        raise failure(done, request, bool(shown))


def address_and_code(printed: str) -> Optional[tuple[str, str]]:
    """What oidc-gen wants to show the person: where to go, and which code to enter there; None while it is
    not all printed."""
    found = _CODE.search(printed)
    if not found or not _AFTER_CODE.search(printed):
        return None
    return line(found[1], _LONGEST_ADDRESS), line(found[2] or "")


def failure(done: Completed, request: Request, shown: bool) -> Failure:
    """What oidc-gen says after the QR code that it may have shown, but for the client configuration that it
    may print: a secret."""
    lines = done.stderr.splitlines()
    since = max((number + 1 for number, line in enumerate(lines) if "\x1b[" in line), default=0)
    words = [
        re.sub(r"^Error:\s*", "", line) for line in lines[since:] if line.strip() and line[0] not in '{}"\t '
    ]
    secrets = [request.password, *([request.client.client_secret] if request.client else [])]
    said = outside(" ".join(words), (secret.reveal() for secret in secrets), limit=10 * OUTSIDE_LIMIT)
    again = f"run it again: osg-token-renewer-setup {request.account}"
    if shown and "access_denied" in said:
        return Refused("the authorization was denied", again)
    if shown and re.search(r"expired_token|invalid_grant|not valid any ?more|expired", said):
        return Refused("the code expired before the authorization was given", again)
    if re.search(r"dynamic client registration", said, re.IGNORECASE):
        return Refused(
            f"the issuer registered no client ({outside(_REGISTRATION_NOISE.sub('', said)) or 'it does not offer that'})",
            _BY_HAND,
        )
    if request.client is not None and re.search(r"invalid_client|unauthorized_client", said):
        return Refused(
            f"the issuer refused the client ({outside(said)})",
            "check its id and secret, and that it may use the device flow",
        )
    return messages.explain(Completed(done.status, "", said), request.account, "registration failed")


def _client_file(request: Request, client: Client) -> bytes:
    """A client configuration in the form that oidc-gen's --file reads."""
    content = {
        "client_id": client.client_id,
        "client_secret": client.client_secret.reveal(),
        "issuer_url": request.issuer,
        "scope": request.scope,
        "redirect_uris": [REDIRECT_URI],
        **({"cert_path": request.ca_file} if request.ca_file else {}),
    }
    return json.dumps(content).encode()
