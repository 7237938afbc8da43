"""The dialogue with the person who sets up an account: asks for what the command line does not say.

Without a terminal nobody is asked: the answer is the default, where there is one.
"""

from __future__ import annotations

import getpass
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Optional

from osg_token_renewer import options
from osg_token_renewer.accounts.registration import Registration
from osg_token_renewer.errors import UsageError
from osg_token_renewer.model import Secret
from osg_token_renewer.net.metadata import discover
from osg_token_renewer.options import SecretFile
from osg_token_renewer.system.secret_files import read_secret
from osg_token_renewer.text import line

log = logging.getLogger(__name__)
# Characters of the issuer's scopes that are shown.
_LONGEST_LIST = 4000


def ask_registration(given: Mapping[str, Any]) -> Registration:
    """What is to be set up, from the options `given` (by name, as argparse has them), and from the person.

    Raises UsageError for an answer that cannot be right, Local for a secret file that cannot be read, and
    Unavailable if the issuer does not tell about itself.
    """
    account, timeout = given["account"], float(given["timeout"])
    if given["reauthenticate"]:
        return Registration(account, again=True, timeout=timeout)
    scope, audience = _words(given, "scope"), _words(given, "audience")
    issuer, ca_file = _ask_issuer(given), _ask_ca_file(given)
    if not given["client_credentials"]:
        _show_metadata(issuer, ca_file, timeout, scope)
        scope = _ask("--scope", scope, "Scopes", "openid offline_access")
        audience = _ask("--audience", audience, "Audience (empty: the issuer's default)", "")
    client = _ask_client(given) if given["manual"] or given["client_credentials"] else ("", Secret(""))
    return Registration(account, issuer, scope or "", audience or "", ca_file, *client, timeout=timeout)


def show_code(url: str, code: str) -> None:
    """Shows the person where to log in, and waits for nothing."""
    print(f"\nUsing a browser on any device, visit:\n\n    {url}\n")
    if code:
        print(f"and enter the code:\n\n    {code}\n")
    print("Waiting for you to log in and to approve …", flush=True)


def _ask(option: str, given: Optional[str], prompt: str, default: Optional[str] = None) -> str:
    """An option's value, or the person's answer; raises UsageError where an answer is needed."""
    if given is not None:
        return given
    if not sys.stdin.isatty() and default is not None:
        return default
    answer = input(f"{prompt} [{default}]: " if default else f"{prompt}: ").strip() or (default or "")
    if not answer and default is None:
        raise UsageError(f"{option}: is needed")
    if not answer.isprintable():
        raise UsageError(f"{option}: must not contain control characters")
    return answer


def _words(given: Mapping[str, Any], name: str) -> Optional[str]:
    value: Optional[str] = given[name]
    try:
        return None if value is None else " ".join(options.words(value))
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error


def _ask_issuer(given: Mapping[str, Any]) -> str:
    issuer = _ask("--issuer", given["issuer"], "Issuer URL")
    try:
        return options.endpoint(issuer)
    except ValueError as error:
        raise UsageError(f"--issuer: {error}") from error


def _ask_ca_file(given: Mapping[str, Any]) -> Optional[str]:
    path = _ask("--ca-file", given["ca_file"], "CA bundle of the issuer (empty: the system's)", "")
    if path and not os.access(path, os.R_OK):
        raise UsageError(f"--ca-file: {path} cannot be read")
    return os.path.abspath(path) if path else None


def _show_metadata(issuer: str, ca_file: Optional[str], timeout: float, scope: Optional[str]) -> None:
    """Shows the person the issuer's scopes, and says early what would fail late."""
    metadata = discover(issuer, ca_file, timeout)
    if not metadata.get("device_authorization_endpoint"):
        log.warning("the issuer's metadata does not offer the device flow: registration may fail")
    scopes = metadata.get("scopes_supported")
    if scope is None and isinstance(scopes, list):
        print("The issuer offers these scopes:", line(" ".join(map(str, scopes)), _LONGEST_LIST))


def _ask_client(given: Mapping[str, Any]) -> tuple[str, Secret]:
    client_id = _ask("--client-id", given["client_id"], "Client id")
    if not client_id:
        raise UsageError("--client-id: is needed")
    if secret_file := given["client_secret_file"]:
        return client_id, Secret(read_secret(SecretFile(secret_file), "client secret"))
    secret = getpass.getpass("Client secret (not shown): ")
    if not secret:
        raise UsageError("--client-secret-file: a client secret is needed")
    return client_id, Secret(secret)
