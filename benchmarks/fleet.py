"""Tokens and accounts of the rows: their configuration, their files, and a host whose tokens are fresh."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.world import Broken
from osg_token_renewer import config
from osg_token_renewer.history.store import History
from osg_token_renewer.model import Outcome, State
from osg_token_renewer.tokens import jwt as reader
from testbed import Client, Issuer
from tests.host import Host, section

# Far more than any min_lifetime here.
LIFETIME = 30 * 86400
MIN_LIFETIME = 3600
# Nobody listens there: a run that finds all tokens fresh must not notice.
NOWHERE = "https://localhost:1"


@dataclass(frozen=True)
class Wanted:
    """One token, as the program's configuration and the reference's list say it."""

    name: str
    account: str
    audience: str
    scope: str
    path: Path


def want(host: Host, accounts: Sequence[str], tokens: int, directory: str = "tokens") -> list[Wanted]:
    """`tokens` of each account. Each has an audience of its own, so that it needs a request of its own."""
    place = host.root / directory
    place.mkdir(mode=0o700, exist_ok=True)
    return [
        Wanted(
            f"{account}.{number}",
            account,
            f"https://service{number}.example.org",
            "compute.read",
            place / f"{account}.{number}.token",
        )
        for account in accounts
        for number in range(tokens)
    ]


def accounts_of(tokens: Iterable[Wanted]) -> list[str]:
    return list(dict.fromkeys(token.account for token in tokens))


def remove(tokens: Iterable[Wanted]) -> None:
    for token in tokens:
        token.path.unlink(missing_ok=True)


def check_published(tokens: Iterable[Wanted]) -> None:
    """Raises Broken unless each token is there and names its audience."""
    for token in tokens:
        try:
            claims = jwt.decode(token.path.read_text().strip(), options={"verify_signature": False})
        except (OSError, jwt.InvalidTokenError) as error:
            raise Broken(f"token {token.name}: {error}") from None
        if token.audience not in (claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]):
            raise Broken(f"token {token.name} is for {claims['aud']}, not for {token.audience}")


# configuration


def section_of(token: Wanted, **options: object) -> str:
    given = {
        "account": token.account,
        "token_path": token.path,
        "audience": token.audience,
        "scope": token.scope,
    }
    return section(f"token {token.name}", {**given, **options})


def with_credentials(name: str, url: str, ca_file: object, client: Client, **options: object) -> str:
    """An [account] section for client credentials at the issuer `url`."""
    given = {
        "issuer": url,
        "token_request_url": f"{url}/token",
        "client_id": client.client_id,
        "client_secret": client.client_secret,
        "ca_file": ca_file,
    }
    return section(f"account {name}", {**given, **options})


def with_agent(name: str, url: str, password_file: Path) -> str:
    """An [account] section for oidc-agent at the issuer `url`."""
    return section(f"account {name}", {"issuer": url, "password_file": password_file})


def write(host: Host, sections: Sequence[str], **options: object) -> None:
    """Writes the configuration; `options` go into its [renewer] section."""
    host.write_config("".join([*sections, section("renewer", options)]))


# fresh tokens


class Fleet:
    """A host with `tokens` of `accounts`; half of the accounts use oidc-agent, half client credentials.

    All tokens are fresh, except `due` of them, each of another account: every run obtains these from
    `issuer`.
    """

    def __init__(
        self, host: Host, tokens: int, accounts: int, due: int = 0, issuer: Optional[Issuer] = None
    ) -> None:
        self.host = host
        names = [f"account{number}" for number in range(accounts)]
        self.tokens = want(host, names, tokens // accounts)
        # Spread over the whole configuration; an even distance meets accounts with client credentials only.
        chosen = names[:: accounts // due][:due] if due else []
        self.due = [next(token for token in self.tokens if token.account == name) for name in chosen]
        live = {}
        if issuer:
            live = {
                name: with_credentials(name, issuer.url, issuer.ca_file, issuer.add_client())
                for name in chosen
            }
        self.sections_of_due = list(live.values())
        idle = [live.get(name) or _idle(host, name, number) for number, name in enumerate(names)]
        fresh = {"min_lifetime": MIN_LIFETIME}
        tokens_ = [section_of(token, **({} if token in self.due else fresh)) for token in self.tokens]
        write(host, [*idle, *tokens_])
        _publish(self.tokens)
        _remember(host)


def _idle(host: Host, name: str, number: int) -> str:
    """An account that no run opens."""
    if number % 2:
        return with_agent(name, NOWHERE, host.secret(f"{name}.pw", "not a real password\n"))
    nobody = Client("nobody", "not a real secret", {})
    return with_credentials(name, NOWHERE, host.secret("ca.pem", ""), nobody)


def _publish(tokens: Sequence[Wanted]) -> None:
    """Writes a signed token of the WLCG profile into each file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = int(time.time())
    for token in tokens:
        claims = {
            "wlcg.ver": "1.0",
            "sub": token.account,
            "aud": token.audience,
            "scope": token.scope,
            "iss": "https://issuer.example.org",
            "client_id": token.account,
            "jti": str(uuid.uuid4()),
            "nbf": now,
            "iat": now,
            "exp": now + LIFETIME,
        }
        headers = {"typ": "at+jwt", "kid": "testbed"}
        token.path.touch(mode=0o600)
        token.path.write_text(jwt.encode(claims, key, algorithm="RS256", headers=headers) + "\n")


def _remember(host: Host) -> None:
    """Records all tokens of the configuration in the history, as the run that obtained them would have."""
    outcomes = []
    for spec in config.load(str(host.config)).tokens:
        text = Path(spec.path).read_text(encoding="ascii")
        token = reader.parse(text)
        outcomes.append(
            Outcome(
                spec,
                State.RENEWED,
                "renewed",
                "",
                expires_at=token.expires_at,
                token=token,
                fingerprint=reader.fingerprint(text),
            )
        )
    History(str(host.state)).record(outcomes, time.time())
