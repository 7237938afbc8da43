"""What oidc-gen prints, as far as it can be told without it: the rest is in tests/commands/test_setup.py."""

from __future__ import annotations

from osg_token_renewer.accounts import registration
from osg_token_renewer.accounts.registration import Client, Request
from osg_token_renewer.model import Secret
from osg_token_renewer.system.process import Completed

SHOWN = "Using a browser on any device, visit:\n\n{}\n\nAnd enter the code: {}\n"


def test_an_address_is_shown_to_the_person_as_it_is() -> None:
    """Also one that looks as if there were a token in it."""
    address = "https://issuer.example.org/device/" + "0123456789" * 5
    assert registration.address_and_code(SHOWN.format(address, "ABCD-EFGH")) == (address, "ABCD-EFGH")
    assert registration.address_and_code(SHOWN.format(address, "")) is None


def test_a_refused_client_is_told_without_its_secret_and_the_password() -> None:
    request = Request("robot", client=Client("robot", Secret("short")), password=Secret("my password"))
    done = Completed(1, "", "Error: invalid_client: short or my+password")
    failure = registration.failure(done, request, shown=False)
    assert failure.message == "the issuer refused the client (invalid_client: *** or ***)"
