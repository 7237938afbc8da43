"""Many tokens that are published and fresh, as a host has them that has been renewing for a while: files,
configuration, history."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Optional

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.world import Wanted, section_of, wanted
from osg_token_renewer import config
from osg_token_renewer.history import History
from osg_token_renewer.model import Outcome, State
from osg_token_renewer.tokens import jwt as reader
from testbed import Client, Issuer
from tests.host import Host, section

# Far more than any min_lifetime here.
LIFETIME = 30 * 86400
MIN_LIFETIME = 3600
# Nobody listens there: a run that finds all fresh must not notice.
NOWHERE = "https://localhost:1"


def credentials(url: str, ca_file: object, client: Client, name: str, **options: object) -> str:
    given = {
        "token_request_url": f"{url}/token",
        "client_id": client.client_id,
        "client_secret": client.client_secret,
        "ca_file": ca_file,
    }
    return section(f"account {name}", {**given, **options})


def with_agent(host: Host, name: str) -> str:
    return section(f"account {name}", {"password_file": host.secret(f"{name}.pw", "not a real password\n")})


class Fleet:
    """`tokens` of `accounts`: half of the accounts are oidc-agent's, the other half client credentials.

    All are fresh but `due` of them, each of an account of its own, which are obtained from `issuer` in every
    run."""

    def __init__(
        self, host: Host, tokens: int, accounts: int, due: int = 0, issuer: Optional[Issuer] = None
    ) -> None:
        self.host = host
        names = [f"account{number}" for number in range(accounts)]
        self.tokens = wanted(host, names, tokens // accounts)
        # Spread over the whole configuration; an even distance keeps to accounts with client credentials.
        chosen = names[:: accounts // due][:due] if due else []
        self.due = [next(token for token in self.tokens if token.account == name) for name in chosen]
        self.sections_of_due = (
            [credentials(issuer.url, issuer.ca_file, issuer.add_client(), name) for name in chosen]
            if issuer
            else []
        )
        live = dict(zip(chosen, self.sections_of_due))
        nobody = Client("nobody", "not a real secret", {})
        ca_file = host.secret("ca.pem", "")
        sections = [
            live.get(name)
            or (with_agent(host, name) if number % 2 else credentials(NOWHERE, ca_file, nobody, name))
            for number, name in enumerate(names)
        ]
        sections += [
            section_of(token, **({} if token in self.due else {"min_lifetime": MIN_LIFETIME}))
            for token in self.tokens
        ]
        write(host, sections)
        publish(self.tokens)
        remember(host)


def write(host: Host, sections: Sequence[str], **options: object) -> None:
    """The configuration of these sections; `options` go into the [renewer] section."""
    host.write_config("".join([*sections, section("renewer", options)]))


def publish(tokens: Sequence[Wanted]) -> None:
    """A token of the WLCG profile in each file, signed as issuers sign."""
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
        token.path.touch(mode=0o600)
        token.path.write_text(
            jwt.encode(claims, key, algorithm="RS256", headers={"typ": "at+jwt", "kid": "testbed"}) + "\n"
        )


def remember(host: Host) -> None:
    """Puts all tokens of a configuration into the history, as the run that obtained them would have."""
    outcomes = []
    for spec in config.load(str(host.config)).tokens:
        with open(spec.path, encoding="ascii") as file:
            text = file.read()
        token = reader.parse(text)
        print_ = reader.fingerprint(text)
        outcomes.append(
            Outcome(
                spec,
                State.RENEWED,
                "renewed",
                "",
                expires_at=token.expires_at,
                token=token,
                fingerprint=print_,
            )
        )
    History(str(host.state)).record(outcomes, time.time())
