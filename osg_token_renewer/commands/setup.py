"""`osg-token-renewer-setup`: sets up an account, and says what to put into the configuration.

Run as root it works as the service user where oidc-agent is concerned, and as root only to read the password
file and to write files of the configuration.
"""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NoReturn, Optional

from osg_token_renewer import __version__, config, options
from osg_token_renewer.accounts import dialogue, setup_files
from osg_token_renewer.accounts.login import begin_login
from osg_token_renewer.commands.parser import Parser, add_config
from osg_token_renewer.errors import Exit, Failure, Local, RenewerError, UsageError
from osg_token_renewer.sources.oidc_agent import agent
from osg_token_renewer.system import process, users
from osg_token_renewer.system.signals import ENDING, handle_signals
from osg_token_renewer.system.users import User
from osg_token_renewer.text import escaped

PROGRAM = "osg-token-renewer-setup"
TOKENS = "/etc/osg/tokens"
# How many requests a run may have to finish before it lets go of an account.
_IN_USE = 3
# Options that do nothing in each mode. They are refused, because the person expects an effect.
_CLIENT = ("client_id", "client_secret_file")
_UNUSED = {
    "dynamic": _CLIENT,
    "manual": (),
    "client_credentials": ("create_pw_file",),
    "reauthenticate": ("create_pw_file", "issuer", "scope", "audience", "ca_file", *_CLIENT),
}
log = logging.getLogger(__name__)


def build_parser() -> Parser:
    about = "Register a client account at an issuer. What is needed and not given is asked for."
    parser = Parser(prog=PROGRAM, description=about)
    add, way = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add("account", metavar="ACCOUNT", help="a name for the account")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    add("-v", "--verbose", action="store_const", const=1, default=0, help="say more")
    given = "use a given client id and secret"
    way("--manual", action="store_true", help=f"{given} instead of dynamic registration")
    way("--client-credentials", action="store_true", help=f"{given}, and no refresh token")
    way("--reauthenticate", action="store_true", help="log in again for an account whose refresh token died")
    add("--pw-file", metavar="PATH", help=f"the account's encryption password (default: {TOKENS}/ACCOUNT.pw)")
    create = "write a strong random password to it if it is not there"
    add("--create-pw-file", action="store_true", help=create)
    add("--issuer", metavar="URL", help="the issuer")
    add("--scope", metavar="SCOPES", help="scopes, space separated; offline_access makes it last")
    add("--audience", metavar="AUDIENCES", help="limit all tokens of the account to these audiences")
    add("--client-id", metavar="ID", help="the given client's id")
    add("--client-secret-file", metavar="PATH", help="file whose first line is the given client's secret")
    add("--ca-file", metavar="PATH", help="CA bundle for the issuer (default: the system's)")
    limit = "limit of each request (default: %(default)s)"
    add("--timeout", metavar="SECONDS", type=_time_limit, default=60, help=limit)
    add("--service-user", metavar="NAME", default=users.SERVICE_USER, help="(default: %(default)s)")
    add("--write-config", action="store_true", help="add the section to config.d/ instead of printing it")
    add_config(parser)
    return parser


def _time_limit(value: str) -> int:
    try:
        return options.time_limit(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    if problem := options.find_name_flaw(args.account):
        raise UsageError(f"ACCOUNT: {problem}")
    _refuse_unused(args)
    _require_answers(args)
    account, progress = args.account, _Progress()
    with _end_on_signals(progress):
        user = _service_user(args.service_user)
        section = _prove_client(args, user) if args.client_credentials else _log_in(args, user, progress)
        progress.outcome = f"account {account} is ready, but its section may be missing in the configuration"
        setup_files.warn_unless_readable(section.get("password_file") or section["client_secret_file"], user)
        _conclude(args, section)
    return Exit.WELL


def _refuse_unused(args: argparse.Namespace) -> None:
    way = next((name for name in _UNUSED if getattr(args, name, False)), "dynamic")
    given = [_option(name) for name in _UNUSED[way] if getattr(args, name)]
    if given and way == "dynamic":
        raise UsageError(f"{', '.join(given)}: needs --manual or --client-credentials")
    if given:
        raise UsageError(f"{', '.join(given)}: is of no use with {_option(way)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require_answers(args: argparse.Namespace) -> None:
    """Without a terminal nobody can be asked: names everything that is missing, before anything is done."""
    needed = [] if args.reauthenticate else ["issuer"]
    if not args.reauthenticate and not args.client_credentials:
        needed.append("scope")
    if args.manual or args.client_credentials:
        needed += ["client_id", "client_secret_file"]
    missing = [_option(name) for name in needed if getattr(args, name) is None]
    if missing and not sys.stdin.isatty():
        raise UsageError(f"without a terminal to ask on, these options are needed: {', '.join(missing)}")


@dataclass
class _Progress:
    """What has become of the account: said if a signal ends the program."""

    outcome: str = "nothing was set up"


def _log_in(args: argparse.Namespace, user: Optional[User], progress: _Progress) -> dict[str, str]:
    """Makes the oidc-agent account, or gives it a new login; returns the options of its section."""
    pw_file = os.path.abspath(args.pw_file or os.path.join(TOKENS, f"{args.account}.pw"))
    setup_files.refuse_unsafe([args.client_secret_file, pw_file], user)
    process.find("oidc-gen", agent.PACKAGE)
    # The service user may not be able to enter root's $TMPDIR.
    sockets = "/tmp" if user else tempfile.gettempdir()  # noqa: S108
    with begin_login(args.account, user, _IN_USE * args.timeout if args.reauthenticate else None) as login:
        if not args.create_pw_file and not os.path.exists(pw_file):
            hint = "create it, or let it be created: osg-token-renewer-setup --create-pw-file …"
            raise Local(f"there is no password file {pw_file}", hint)
        registration = dialogue.ask_registration(vars(args))
        try:
            reading = setup_files.read_password(pw_file, args.create_pw_file, user)
            registration = replace(registration, password=login.contexts.enter_context(reading))
            registration.log_in(login, sockets, dialogue.show_code)
        except Failure:
            if login.changed:
                log.warning("account %s has its new login all the same", args.account)
            raise
        finally:
            if login.changed:
                progress.outcome = f"account {args.account} has its new login"
    return {"password_file": pw_file, "issuer": registration.issuer}


def _prove_client(args: argparse.Namespace, user: Optional[User]) -> dict[str, str]:
    """Proves that the given client gets tokens; returns the options of its section."""
    setup_files.refuse_unsafe([args.client_secret_file], user)
    registration = dialogue.ask_registration(vars(args))
    url = registration.prove_client()
    if args.client_secret_file:
        secret_file = os.path.abspath(args.client_secret_file)
    else:
        beside = os.path.dirname(os.path.abspath(args.pw_file)) if args.pw_file else TOKENS
        secret_file = os.path.join(beside, f"{args.account}.secret")
        setup_files.keep_secret(secret_file, registration.client_secret, user)
    return {
        "token_request_url": url,
        "client_id": registration.client_id,
        "client_secret_file": secret_file,
        "issuer": registration.issuer,
        "ca_file": registration.ca_file or "",
    }


def _conclude(args: argparse.Namespace, section: dict[str, str]) -> None:
    account, main = args.account, config.main_file(args.config)
    print(f"\nThe account {account} is ready.")
    lines = [f"{name} = {value.replace('%', '%%')}\n" for name, value in section.items() if value]
    text = "".join([f"[account {account}]\n", *lines])
    if known := setup_files.place_of_section(account, args.config):
        print(f"[account {account}] is in the configuration already, at {known}: nothing was added to it.")
    elif args.write_config:
        written = setup_files.write_section(account, text, main, args.service_user)
        print(f"Wrote its section to {escaped(written)}")
    else:
        print(f"Add the following section to {escaped(main)}:\n\n{text}")
    token = f"a [token NAME] section with account = {account} and a token_path"
    print(f"Then, if there is none yet, add {token};")
    print("check it with: osg-token-renewer check; renew with: systemctl start osg-token-renewer.service")


def _service_user(name: str) -> Optional[User]:
    """Whom oidc-agent is to run as; None if that is this process's own user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        hint = "install the package, or name another one with --service-user"
        raise Local(f"there is no user {name} on this host", hint) from None
    if os.geteuid() == entry.pw_uid:
        return None
    if os.geteuid() != 0:
        hint = f"or as {name} itself, or see --service-user"
        raise RenewerError(f"run this as root: accounts belong to the service user {name}", hint)
    return User(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)), entry.pw_dir)


@contextmanager
def _end_on_signals(progress: _Progress) -> Iterator[None]:
    """A signal ends the program through every cleanup, which a second signal does not interrupt."""

    def handle(number: int, _frame: object) -> NoReturn:
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        raise _Signal(number)

    try:
        with handle_signals(handle, ENDING):
            yield
    except _Signal as ended:
        raise _Interrupted(ended.args[0], progress.outcome) from None
    except EOFError:
        raise UsageError("the input ended before everything was answered") from None


class _Signal(BaseException):
    """Raised where a signal arrives, with its number; not an error that somebody could take for his own."""


class _Interrupted(RenewerError):
    """A signal ended the program; `outcome` says what has become of the account."""

    def __init__(self, number: int, outcome: str) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}: {outcome}")
        self.exit_status = 128 + number
