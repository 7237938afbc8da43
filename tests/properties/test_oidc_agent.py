"""Any output of oidc-agent's programs is understood, or a failure with a harmless message."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from osg_token_renewer.accounts import registration
from osg_token_renewer.accounts.registration import Registration
from osg_token_renewer.errors import Failure
from osg_token_renewer.model import Secret
from osg_token_renewer.sources.base import Fetched
from osg_token_renewer.sources.oidc_agent import messages
from osg_token_renewer.system.process import Completed
from osg_token_renewer.tokens import jwt
from tests.properties import cases
from tests.tokens.test_jwt import jws

# Pieces of the programs' real output.
PIECES = st.sampled_from(
    [
        "Error: ", "\n", "\n\t", "invalid_grant", "invalid_scope: ", "invalid_client", "access_denied",
        "expired_token", "could not decrypt", "Could not connect to oidc-agent", "could not parse json",
        "Received Http Status Code 400", "No account configured", "visit:\n\n\t",
        "Using a browser on any device, visit:", "enter the code:", "QR code",
        "https://issuer.example.org/device", "ABCD-EFGH", "\x1b[7m  ", "1795348800",
        "The following error occurred during dynamic client registration:",
        '{"client_secret": "correct-horse"}', "correct-horse",
    ]
)  # fmt: skip
PRINTED = st.lists(st.one_of(PIECES, cases.DECODED), max_size=14).map("".join)
MEGABYTE = 1024 * 1024


@given(stdout=PRINTED, stderr=PRINTED, status=st.integers(-64, 255))
@example(stdout="", stderr="x" * MEGABYTE, status=1)
@example(stdout="", stderr="<3>\x1b[2J\u202e\nError: invalid_grant {account} {0}\r\n", status=1)
def test_any_output_of_a_failed_program_is_a_failure(stdout: str, stderr: str, status: int) -> None:
    failure = cases.answer(lambda: messages.explain(Completed(status, stdout, stderr), "robot"), Failure)
    assert cases.harmless(cases.said(failure))


@given(
    printed=st.one_of(
        PRINTED, st.builds("{}\n{}\n{}\n".format, st.just(jws({})), cases.DECODED, st.integers())
    )
)
@example(printed="token\nissuer\n\u0661\u0667\u0669\u0665\n")
@example(printed=f"token\n{'x' * MEGABYTE}\n{'9' * 5000}\n")
def test_any_output_in_place_of_a_token_is_read(printed: str) -> None:
    fetched = cases.answer(lambda: messages.read_token(printed), Failure)
    assert isinstance(fetched, Fetched)
    assert cases.harmless(fetched.issuer or "")
    try:
        token = jwt.parse(fetched.text.reveal(), fetched.expires_at, fetched.issuer)
    except ValueError as error:
        assert cases.harmless(str(error))
    else:
        assert token.expires_at is None or token.expires_at >= 0


MANUAL = Registration(
    "robot", client_id="robot", client_secret=Secret("correct-horse"), password=Secret("battery staple")
)


@given(printed=PRINTED, shown=st.booleans(), manual=st.booleans())
@example(printed="invalid_client: you sent correct-horse and battery+staple", shown=False, manual=True)
def test_any_output_of_a_failed_registration_is_a_failure(printed: str, shown: bool, manual: bool) -> None:
    wanted = MANUAL if manual else Registration("robot", password=MANUAL.password)
    failure = cases.answer(lambda: wanted.explain(Completed(1, printed, printed), shown), Failure)
    said = cases.said(failure)
    assert cases.harmless(said)
    assert not manual or "correct-horse" not in said
    assert "battery" not in said


@given(printed=PRINTED)
@example(printed="visit:" + "\n" * MEGABYTE)
@example(printed="visit:\n" * (MEGABYTE // 8))
@example(
    printed="visit:\n\n\thttps://issuer.example.org/\x1b[2J"
    + "x" * MEGABYTE
    + "\nenter the code:\n\n\tAB\u202eCD\n"
)
def test_any_output_before_a_person_acts_gives_an_address_and_a_code_or_nothing(
    printed: str,
) -> None:
    found = cases.answer(lambda: registration.address_and_code(printed), Failure)
    assert found is None or (
        isinstance(found, tuple) and all(cases.harmless(text, limit=2000) for text in found)
    )
