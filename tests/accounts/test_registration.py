"""How the output of oidc-gen is read. tests/commands/test_setup.py has what needs the real oidc-gen."""

from __future__ import annotations

from osg_token_renewer.accounts.registration import Registration, address_and_code
from osg_token_renewer.model import Secret
from osg_token_renewer.system.process import Completed

SHOWN = "Using a browser on any device, visit:\n\n{}\n\nAnd enter the code: {}\n"


def test_the_person_is_shown_the_address_unchanged() -> None:
    """Even if it looks as if it held a token."""
    address = "https://issuer.example.org/device/" + "0123456789" * 5
    assert address_and_code(SHOWN.format(address, "ABCD-EFGH")) == (address, "ABCD-EFGH")
    assert address_and_code(SHOWN.format(address, "")) is None


def test_the_failure_of_a_refused_client_shows_neither_its_secret_nor_the_password() -> None:
    wanted = Registration(
        "robot", client_id="robot", client_secret=Secret("short"), password=Secret("my password")
    )
    done = Completed(1, "", "Error: invalid_client: short or my+password")
    failure = wanted.explain(done, shown=False)
    assert failure.message == "the issuer refused the client (invalid_client: *** or ***)"
