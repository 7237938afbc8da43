"""`osg-token-renewer-setup`: registers a client and says what to put into the configuration.

Run as root it works as the service user where oidc-agent is concerned, and as root only to read the password
file and to write files of the configuration."""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import pwd
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Optional

from osg_token_renewer import __version__, config, options
from osg_token_renewer.accounts import registration, setup_files
from osg_token_renewer.commands.parser import Parser, add_config
from osg_token_renewer.errors import ConfigError, Exit, Local, RenewerError, UsageError
from osg_token_renewer.model import Account, Place, Problem, Secret, TokenSpec
from osg_token_renewer.net.metadata import discover
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources import client_credentials, token_endpoint
from osg_token_renewer.sources.oidc_agent import agent
from osg_token_renewer.system import process, trusted_files, users
from osg_token_renewer.system.secret_files import read_secret
from osg_token_renewer.system.signals import ENDING
from osg_token_renewer.system.users import User
from osg_token_renewer.text import escaped, line

PROGRAM = "osg-token-renewer-setup"
# Of what an issuer offers.
_LONGEST_LIST = 4000
TOKENS = "/etc/osg/tokens"
log = logging.getLogger(__name__)


def build_parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Register a client account at an issuer. What is needed and not given is asked for.",
    )
    parser.add_argument("account", metavar="ACCOUNT", help="a name for the account")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-v", "--verbose", action="store_const", const=1, default=0, help="say more")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--manual",
        action="store_true",
        help="use a given client id and secret instead of dynamic registration",
    )
    how.add_argument(
        "--client-credentials",
        action="store_true",
        help="use a given client id and secret, and no refresh token",
    )
    how.add_argument(
        "--reauthenticate", action="store_true", help="log in again for an account whose refresh token died"
    )
    parser.add_argument(
        "--pw-file", metavar="PATH", help=f"the account's encryption password (default: {TOKENS}/ACCOUNT.pw)"
    )
    parser.add_argument(
        "--create-pw-file",
        action="store_true",
        help="write a strong random password to it if it is not there",
    )
    parser.add_argument("--issuer", metavar="URL", help="the issuer")
    parser.add_argument(
        "--scope", metavar="SCOPES", help="scopes, space separated; offline_access makes it last"
    )
    parser.add_argument(
        "--audience", metavar="AUDIENCES", help="limit all tokens of the account to these audiences"
    )
    parser.add_argument("--client-id", metavar="ID", help="the given client's id")
    parser.add_argument(
        "--client-secret-file", metavar="PATH", help="file whose first line is the given client's secret"
    )
    parser.add_argument("--ca-file", metavar="PATH", help="CA bundle for the issuer (default: the system's)")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_time_limit,
        default=60,
        help="limit of each request (default: %(default)s)",
    )
    parser.add_argument(
        "--service-user", metavar="NAME", default=users.SERVICE_USER, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--write-config", action="store_true", help="add the section to config.d/ instead of printing it"
    )
    add_config(parser)
    return parser


def _time_limit(value: str) -> int:
    try:
        return options.time_limit(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    problem = options.find_name_flaw(args.account)
    if problem:
        raise UsageError(f"ACCOUNT: {problem}")
    _refuse_unused(args)
    _require_answers(args)
    progress = _Progress()
    with _ended_by_signals(progress):
        this = _Setup(args, _service_user(args.service_user), progress)
        this.refuse_what_others_can_change()
        section = this.client_credentials() if args.client_credentials else this.device_flow()
        progress.is_ready(args.account)
        this.conclude(section)
    return Exit.WELL


# The options that some ways of setting up have no use for: who gives one expects something else to happen.
_UNUSED = {
    "dynamic": ("client_id", "client_secret_file"),
    "manual": (),
    "client_credentials": ("create_pw_file",),
    "reauthenticate": (
        "create_pw_file",
        "issuer",
        "scope",
        "audience",
        "ca_file",
        "client_id",
        "client_secret_file",
    ),
}


def _refuse_unused(args: argparse.Namespace) -> None:
    way = next(
        (name for name in ("manual", "client_credentials", "reauthenticate") if getattr(args, name)),
        "dynamic",
    )
    given = [_option(name) for name in _UNUSED[way] if getattr(args, name)]
    if given:
        hint = (
            "needs --manual or --client-credentials"
            if way == "dynamic"
            else f"is of no use with {_option(way)}"
        )
        raise UsageError(f"{', '.join(given)}: {hint}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require_answers(args: argparse.Namespace) -> None:
    """Without a terminal nobody can be asked: says everything that is missing, before anything is done."""
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
    """What has become of the account: said when a signal ends the program."""

    outcome: str = "nothing was set up"

    def is_ready(self, account: str) -> None:
        self.outcome = f"account {account} is ready, but its section may be missing in the configuration"


@dataclass(frozen=True)
class _Setup:
    args: argparse.Namespace
    # Whom oidc-agent runs as; None is this process's own user.
    user: Optional[User]
    progress: _Progress

    @property
    def pw_file(self) -> str:
        return os.path.abspath(self.args.pw_file or os.path.join(TOKENS, f"{self.args.account}.pw"))

    def refuse_what_others_can_change(self) -> None:
        """Raises ConfigError for a password or secret file that is there and that the programs would refuse
        later."""
        used = [self.args.client_secret_file, None if self.args.client_credentials else self.pw_file]
        problems: list[Problem] = []
        for path in filter(None, used):
            # What is not there, or cannot be looked at, is said when it is read.
            with suppress(OSError):
                problems += [
                    Problem(Place(path), flaw)
                    for flaw in trusted_files.find_flaws(path, self.user.uid if self.user else None)
                ]
        if problems:
            raise ConfigError(problems)

    def device_flow(self) -> dict[str, str]:
        """Makes the oidc-agent account; returns the options of its section."""
        args = self.args
        process.find("oidc-gen", agent.PACKAGE)
        pw_file = self.pw_file
        register = registration.reauthenticate if args.reauthenticate else registration.register
        # A $TMPDIR of root's own would be out of another user's reach.
        sockets = "/tmp" if self.user else tempfile.gettempdir()  # noqa: S108
        with registration.begun(args.account, self.user, args.timeout, args.reauthenticate) as login:
            if not args.create_pw_file:
                _require_file(pw_file)
            request = registration.Request(args.account) if args.reauthenticate else self._wanted()
            try:
                with self._password(pw_file) as password:
                    register(replace(request, password=password), login, sockets, args.timeout, _show)
            finally:
                if login.changed:
                    self.progress.outcome = f"account {args.account} has its new login"
        self.progress.is_ready(args.account)
        self._warn_unless_readable(pw_file)
        return {"password_file": pw_file}

    def client_credentials(self) -> dict[str, str]:
        """Proves the given client; returns the options of its section."""
        args = self.args
        try:
            audience, scope = options.words(args.audience or ""), options.words(args.scope or "")
        except ValueError as error:
            raise UsageError(f"--audience, --scope: {error}") from error
        issuer, ca_file = self._issuer(), self._ca_file()
        client_id = self._asked("--client-id", args.client_id, "Client id")
        secret = self._client_secret()
        endpoint = discover(issuer, ca_file, args.timeout).get("token_endpoint")
        try:
            url = options.endpoint(endpoint if isinstance(endpoint, str) else "")
        except ValueError as error:
            raise Local(
                f"the issuer's metadata names no usable token endpoint: {error}", "check the issuer's URL"
            ) from error
        settings = token_endpoint.TokenEndpoint(url, client_id, secret, ca_file=ca_file)
        account = Account(
            args.account, client_credentials.ClientCredentials.NAME, settings, float(args.timeout)
        )
        registration.prove(account, TokenSpec("setup", args.account, "", audience, scope))
        section = {
            "token_request_url": url,
            "client_id": client_id,
            "client_secret_file": self._kept_secret(secret),
        }
        return {**section, **({"ca_file": ca_file} if ca_file else {})}

    def conclude(self, section: dict[str, str]) -> None:
        account = self.args.account
        print(f"\nThe account {account} is ready.")
        main = config.main_file(self.args.config)
        known = setup_files.place_of_section(account, self.args.config)
        text = f"[account {account}]\n" + "".join(
            f"{name} = {value.replace('%', '%%')}\n" for name, value in section.items()
        )
        if known:
            print(
                f"[account {account}] is in the configuration already, at {known}: nothing was added to it."
            )
        elif self.args.write_config:
            print(
                f"Wrote its section to {escaped(setup_files.write_section(account, text, main, self.args.service_user))}"
            )
        else:
            print(f"Add the following section to {escaped(main)}:\n\n{text}")
        print(
            f"Then, where there is none yet, add a [token NAME] section with account = {account} and a token_path;"
        )
        print("check it with: osg-token-renewer check; renew with: systemctl start osg-token-renewer.service")

    def _wanted(self) -> registration.Request:
        """What dynamic or manual registration must know, from the options or the person."""
        args = self.args
        issuer, ca_file = self._issuer(), self._ca_file()
        self._look_at(issuer, ca_file)
        scope = self._asked("--scope", args.scope, "Scopes", default="openid offline_access")
        audience = self._asked(
            "--audience", args.audience, "Audience (empty: the issuer's default)", default=""
        )
        client = None
        if args.manual:
            client_id = self._asked("--client-id", args.client_id, "Client id")
            client = registration.Client(client_id, self._client_secret())
        return registration.Request(args.account, issuer, scope, audience, ca_file, client)

    def _look_at(self, issuer: str, ca_file: Optional[str]) -> None:
        """Shows the person the issuer's scopes, and says early what would fail late."""
        metadata = discover(issuer, ca_file, self.args.timeout)
        if not metadata.get("device_authorization_endpoint"):
            log.warning("the issuer's metadata does not offer the device flow: registration may fail")
        scopes = metadata.get("scopes_supported")
        if self.args.scope is None and isinstance(scopes, list):
            print("The issuer offers these scopes:", line(" ".join(map(str, scopes)), _LONGEST_LIST))

    def _issuer(self) -> str:
        issuer = self._asked("--issuer", self.args.issuer, "Issuer URL")
        try:
            return options.endpoint(issuer)
        except ValueError as error:
            raise UsageError(f"--issuer: {error}") from error

    def _ca_file(self) -> Optional[str]:
        given = self._asked(
            "--ca-file", self.args.ca_file, "CA bundle of the issuer (empty: the system's)", default=""
        )
        if given and not os.access(given, os.R_OK):
            raise UsageError(f"--ca-file: {given} cannot be read")
        return os.path.abspath(given) if given else None

    def _client_secret(self) -> Secret:
        given = self.args.client_secret_file
        if given:
            return Secret(read_secret(SecretFile(given), "client secret"))
        secret = getpass.getpass("Client secret (not shown): ")
        if not secret:
            raise UsageError("--client-secret-file: a client secret is needed")
        return Secret(secret)

    def _asked(self, option: str, given: Optional[str], prompt: str, default: Optional[str] = None) -> str:
        """An option's value, or the person's answer; without a terminal the default."""
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

    @contextmanager
    def _password(self, path: str) -> Iterator[Secret]:
        """The encryption password; a file that was made for it goes again when the account cannot be made."""
        created = not os.path.exists(path) and self.args.create_pw_file
        if created:
            setup_files.write_private(path, secrets.token_urlsafe(32) + "\n", self.user)
            print(f"Wrote a random password to {escaped(path)}")
        try:
            yield Secret(read_secret(SecretFile(path), "password"))
        except BaseException:
            if created:
                with suppress(OSError):
                    os.unlink(path)
            raise

    def _kept_secret(self, secret: Secret) -> str:
        """The path of a file that holds the client's secret: the given one, or a new one."""
        given: Optional[str] = self.args.client_secret_file
        if given:
            path = os.path.abspath(given)
            self._warn_unless_readable(path)
            return path
        beside = os.path.dirname(os.path.abspath(self.args.pw_file)) if self.args.pw_file else TOKENS
        path = os.path.join(beside, f"{self.args.account}.secret")
        if os.path.exists(path) and read_secret(SecretFile(path), "client secret") == secret.reveal():
            # An earlier try got as far as this.
            return path
        setup_files.write_private(path, secret.reveal() + "\n", self.user)
        print(f"Wrote the client secret to {escaped(path)}")
        return path

    def _warn_unless_readable(self, path: str) -> None:
        """The service must read the file later, as its own user."""
        if (
            self.user
            and process.run(
                [process.find("test", "coreutils"), "-r", path], process.environment(), 10, user=self.user
            ).status
            != 0
        ):
            log.warning(
                "the service user %s cannot read %s: chown %s %s", self.user.name, path, self.user.name, path
            )


def _show(url: str, code: str) -> None:
    print(f"\nUsing a browser on any device, visit:\n\n    {url}\n")
    if code:
        print(f"and enter the code:\n\n    {code}\n")
    print("Waiting for you to log in and to approve …", flush=True)


def _service_user(name: str) -> Optional[User]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        hint = "install the package, or name another one with --service-user"
        raise Local(f"there is no user {name} on this host", hint) from None
    if os.geteuid() == entry.pw_uid:
        return None
    if os.geteuid() != 0:
        raise RenewerError(
            f"run this as root: accounts belong to the service user {name}",
            f"or as {name} itself, or see --service-user",
        )
    return User(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)), entry.pw_dir)


@contextmanager
def _ended_by_signals(progress: _Progress) -> Iterator[None]:
    """Each signal that ends a program ends it through every cleanup, which a second one does not
    interrupt."""

    def handle(number: int, _frame: object) -> None:
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        raise _Interrupted(signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in ENDING}
    try:
        yield
    except _Interrupted as interrupted:
        interrupted.message += f": {progress.outcome}"
        raise
    except EOFError:
        raise UsageError("the input ended before everything was answered") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Interrupted(RenewerError):
    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.exit_status = 128 + number  # type: ignore[assignment]


def _require_file(path: str) -> None:
    if not os.path.exists(path):
        raise Local(
            f"there is no password file {path}",
            f"create it, or let it be created: {PROGRAM} --create-pw-file …",
        )
