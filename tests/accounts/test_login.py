"""What `begin_login` ensures by itself. tests/commands/test_setup.py has what needs the real oidc-gen."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osg_token_renewer.accounts.login import begin_login
from osg_token_renewer.errors import Local
from tests.faults import apart


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OIDC_CONFIG_DIR", str(tmp_path))
    return tmp_path


def test_a_setup_that_ends_without_an_account_fails_and_what_it_made_for_it_learns_of_that(
    accounts: Path,
) -> None:
    """Whoever calls it cannot forget to look."""
    learnt: list[BaseException] = []

    @contextmanager
    def made_for_it() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            learnt.append(error)
            raise

    with (
        pytest.raises(Local, match="nothing was set up") as caught,
        begin_login("robot", None, None) as login,
    ):
        login.contexts.enter_context(made_for_it())
    assert learnt == [caught.value]
    assert list(accounts.iterdir()) == []


def test_a_login_that_is_not_given_leaves_the_account_as_it_was_and_fails(accounts: Path) -> None:
    before = "a form that only a later oidc-agent knows\n"
    (accounts / "robot").write_text(before)
    with pytest.raises(Local, match="the account is as it was"), begin_login("robot", None, 1.0):
        pass
    assert (accounts / "robot").read_text() == before
    assert [file.name for file in accounts.iterdir()] == ["robot"]


def test_an_account_whose_setup_was_killed_at_its_end_survives_a_login_that_fails() -> None:
    # Not tmp_path, which another user cannot reach.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        account = Path(name) / "accounts" / "robot"

        def body() -> None:
            account.parent.mkdir()
            account.write_text("a form that only a later oidc-agent knows\n")
            # The second name that the killed setup did not remove.
            os.link(account, account.parent / ".robot.new")
            account.chmod(0o400)
            os.environ["OIDC_CONFIG_DIR"] = str(account.parent)
            with pytest.raises(Local, match="Permission denied"), begin_login("robot", None, 1.0):
                pass
            assert account.exists()

        apart(body, unprivileged=True)
