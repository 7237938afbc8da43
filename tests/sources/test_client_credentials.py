"""The client credentials grant, against the testbed's issuer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osg_token_renewer.model import Account
from osg_token_renewer.sources.client_credentials import ClientCredentials
from testbed import Client, Issuer
from tests.sources.test_token_endpoint import account_of, fetch, spec_of


@pytest.fixture
def client(issuer: Issuer) -> Client:
    return issuer.add_client()


def test_audience_and_scope_are_requested(issuer: Issuer, client: Client) -> None:
    fetched = fetch(
        account_of(issuer, client),
        spec_of(audience=("one", "https://two.example.org"), scope=("compute.read", "storage.read:/")),
    )
    claims = issuer.verify(fetched.text.reveal())
    assert claims["aud"] == ["one", "https://two.example.org"]
    assert set(claims["scope"].split()) == {"compute.read", "storage.read:/"}
    assert issuer.counts().grants == {"client_credentials": 1}


def test_without_audience_and_scope_the_issuer_chooses(issuer: Issuer) -> None:
    client = issuer.add_client(scope="compute.read compute.modify")
    claims = issuer.verify(fetch(account_of(issuer, client)).text.reveal())
    assert (claims["aud"], claims["scope"]) == (
        issuer.settings()["default_audience"],
        "compute.read compute.modify",
    )


def test_the_token_endpoint_stands_for_an_issuer_that_the_account_does_not_name(
    issuer: Issuer, client: Client
) -> None:
    account: Account = account_of(issuer, client)
    assert ClientCredentials().issuer(account, "https://other.example.org") == f"{issuer.url}/token"
    named = replace(account, issuer="https://named.example.org")
    assert ClientCredentials().issuer(named, "https://other.example.org") == "https://named.example.org"
