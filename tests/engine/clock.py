"""A clock for tests of limits and retries, and accounts for them."""

from __future__ import annotations

import threading
from typing import Optional

from osg_token_renewer.engine.issuers import IssuerTable
from osg_token_renewer.engine.limits import Limits
from osg_token_renewer.engine.retries import Requests
from osg_token_renewer.model import Account, Secret
from osg_token_renewer.options import SecretFile
from osg_token_renewer.sources import client_credentials
from osg_token_renewer.sources.oidc_agent import source
from osg_token_renewer.sources.token_endpoint import TokenEndpoint

# Seconds: far more than anything that has a limit takes, on any machine.
BOUND = 30.0


class Clock:
    """This host's time, as the engine sees it. It goes on only when somebody waits, and then at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Lanes:
    """What the lanes of one run share. `known`: the issuers of accounts' last tokens."""

    def __init__(
        self, seconds: float = 600.0, stopped: Optional[threading.Event] = None, **known: str
    ) -> None:
        self.limits = Limits(seconds, (stopped or threading.Event()).is_set)
        self.issuers = IssuerTable(known)

    def requests(self, account: Account) -> Requests:
        return Requests(self.limits, self.issuers.find(account), account.timeout)


def client(name: str, url: str = "https://issuer.example.org/token", timeout: float = 60.0) -> Account:
    settings = TokenEndpoint(url, "x", Secret("y"))
    return Account(name, client_credentials.ClientCredentials.NAME, settings, timeout)


def agent(name: str, issuer: Optional[str] = None) -> Account:
    settings = source.Settings(SecretFile("/nonexistent"))
    return Account(name, source.OidcAgent.NAME, settings, issuer=issuer)


def begin(requests: Requests, wanted: float = 0.0) -> float:
    """Makes a request; returns the seconds that it may take."""
    with requests.begin(wanted) as seconds:
        return seconds
