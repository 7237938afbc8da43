"""What a run sees of its issuers."""

from __future__ import annotations

import logging

import pytest

from osg_token_renewer.engine.issuers import IssuerTable
from osg_token_renewer.errors import NotAsked, TimedOut
from tests.engine.clock import agent, client

URL = "https://one.example.org"


def test_the_issuer_option_names_the_issuer_before_the_last_token_does() -> None:
    issuers = IssuerTable({"a": "https://two.example.org", "b": f"{URL}/"})
    assert issuers.find(agent("a", URL)).name == "one.example.org"
    assert issuers.find(agent("a", URL)) is issuers.find(agent("b"))
    assert issuers.find(agent("a")) is not issuers.find(agent("b"))


def test_the_issuer_of_client_credentials_is_the_whole_url_of_its_token_endpoint() -> None:
    issuers = IssuerTable({})
    first, same = client("a", f"{URL}/one/token"), client("b", f"{URL}/one/token")
    assert issuers.find(first) is issuers.find(same)
    other = issuers.find(client("c", f"{URL}/two/token"))
    assert (other.name, other is issuers.find(first)) == ("one.example.org", False)


def test_an_account_whose_issuer_nobody_knows_is_an_issuer_of_its_own() -> None:
    issuers = IssuerTable({})
    first, second = issuers.find(agent("a")), issuers.find(agent("b"))
    assert (first.name, second.name) == ("the issuer of account a", "the issuer of account b")
    assert issuers.find(agent("a")) is first
    for _ in range(2):
        first.count_failures(TimedOut("no answer"))
    assert (first.is_dead(), second.is_dead()) == (True, False)
    with pytest.raises(NotAsked, match=r"the issuer of account a was not asked any more, after 2 failures"):
        first.check()


@pytest.mark.parametrize("odd", ["https://[", "no url", "", "https://user@/x"])
def test_a_last_token_whose_issuer_is_no_url_names_no_issuer(odd: str) -> None:
    assert IssuerTable({"a": odd}).find(agent("a")).name == "the issuer of account a"


def test_the_name_of_an_issuer_holds_no_password() -> None:
    assert IssuerTable({"a": "https://user:password@Host.example.org:1/x"}).find(agent("a")).name == (
        "host.example.org:1"
    )


def test_any_answer_ends_a_row_of_failures() -> None:
    issuer = IssuerTable({}).find(client("a"))
    for answer in (issuer.note_token, issuer.note_answer):
        for _ in range(3):
            issuer.count_failures(TimedOut("no answer"))
            answer()
        issuer.check()


def test_the_clock_of_an_issuer_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    issuers = IssuerTable({})
    for account in (client("a"), client("b"), agent("c", URL)):
        issuers.find(account).report_clock("the issuer's clock is 300 s behind this host's")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        f"{host}: the issuer's clock is 300 s behind this host's"
        for host in ("issuer.example.org", "one.example.org")
    ]
