"""The guard of an account file: a pure matter of files, so the file here only looks like oidc-agent's."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from osg_token_renewer.errors import Local, Unavailable
from osg_token_renewer.sources.oidc_agent import account_file
from osg_token_renewer.sources.oidc_agent.account_file import Guard
from osg_token_renewer.system import private_directories
from tests.faults import apart, mount
from tests.host import ROOT


def complete(text: str = "old", version: str = "5.3.3") -> bytes:
    return f"750\nnonce\nsalt\n24:16:16:32:1:2:67108864:2\n{text * 400}\nkey\nGenerated using version: {version}".encode()


NEW = complete("new")
# What a write that ran out of room, or a power cut, leaves.
DAMAGED = {
    "empty": b"",
    "cut": NEW[:700],
    "cut in its first line": NEW[:2],
    "cut after its first line's number": NEW[:3],
    "cut after its first line": NEW[:4],
    "zeros after its beginning": NEW[:3] + bytes(1162),
    "cut in its last line": NEW[:-2],
    "zeros": bytes(1165),
    "zeros at its end": NEW[:1024] + bytes(141),
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    made = tmp_path / "accounts"
    made.mkdir()
    monkeypatch.setenv("OIDC_CONFIG_DIR", str(made))
    (made / "robot").write_bytes(complete())
    yield made
    assert [path.name for path in made.iterdir()] in (["robot"], [])


@pytest.fixture
def lent(tmp_path: Path) -> Path:
    """What an agent has: its own directory, and in that a copy of the account file, once it was lent."""
    private = tmp_path / "agent"
    private.mkdir()
    return private / "oidc-agent" / "robot"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "state" / "accounts" / "robot"


def guarded(copy: Path, wait: float = 0.0) -> AbstractContextManager[Guard]:
    return account_file.guard_account("robot", str(copy), wait)


def test_room_is_kept_beside_the_file_and_given_back(directory: Path, copy: Path) -> None:
    with guarded(copy) as guard:
        assert (directory / ".robot.room").stat().st_size > len(complete())
        assert guard.take_back()


def test_what_the_agent_wrote_is_taken_back_and_a_copy_kept_for_this_user_alone(
    directory: Path, copy: Path, lent: Path
) -> None:
    inode = (directory / "robot").stat().st_ino
    with guarded(copy) as guard:
        assert copy.read_bytes() == complete()
        assert guard.lend(str(lent.parent.parent)) == {"OIDC_CONFIG_DIR": str(lent.parent)}
        assert lent.read_bytes() == complete()
        for content in (NEW, complete("x" * 9), complete("y")):
            lent.write_bytes(content)
            assert guard.take_back()
            assert copy.read_bytes() == (directory / "robot").read_bytes() == content
    # The file is held by what it is, not by its name.
    assert (directory / "robot").stat().st_ino == inode
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in copy.parent.iterdir()] == ["robot"]


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_an_agent_did_not_write_whole_is_not_taken_back(
    directory: Path, copy: Path, lent: Path, content: bytes
) -> None:
    with guarded(copy) as guard:
        guard.lend(str(lent.parent.parent))
        lent.write_bytes(content)
        assert not guard.take_back()
    assert (directory / "robot").read_bytes() == copy.read_bytes() == complete()


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_noticed_and_its_copy_put_back(
    directory: Path, copy: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    with guarded(copy):
        (directory / "robot").write_bytes(content)
    assert (directory / "robot").read_bytes() == copy.read_bytes() == complete()
    (directory / "robot").write_bytes(content)
    with guarded(copy):
        assert (directory / "robot").read_bytes() == complete()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2
    for line in said:
        assert line.startswith(
            f"account robot: its file {directory}/robot is damaged; the copy of the last complete one was put back; "
        )
        assert line.endswith("run: osg-token-renewer-setup --reauthenticate robot")


def test_a_complete_file_is_never_replaced_by_its_copy(directory: Path, copy: Path) -> None:
    with guarded(copy):
        pass
    (directory / "robot").write_bytes(NEW)
    with guarded(copy):
        assert (directory / "robot").read_bytes() == NEW
    assert (directory / "robot").read_bytes() == copy.read_bytes() == NEW


@pytest.mark.parametrize(
    "content", [b"a later version's way to write this\n", complete().replace(b"version", b"Version")[3:]]
)
def test_a_file_of_a_form_that_is_not_known_is_left_alone(
    directory: Path, copy: Path, content: bytes
) -> None:
    with guarded(copy):
        pass
    (directory / "robot").write_bytes(content)
    with guarded(copy) as guard:
        assert guard.take_back()
    assert (directory / "robot").read_bytes() == content
    assert copy.read_bytes() == complete()


def test_a_damaged_file_without_a_copy_is_said_with_the_way_out(directory: Path, copy: Path) -> None:
    (directory / "robot").write_bytes(b"")
    with pytest.raises(Local, match=r"robot is damaged and there is no copy of it") as raised, guarded(copy):
        pass
    assert raised.value.hint == "remove it and register the account anew: osg-token-renewer-setup robot"
    assert (directory / "robot").read_bytes() == b""


def test_where_there_is_no_account_there_is_nothing_to_guard(directory: Path, copy: Path) -> None:
    (directory / "robot").unlink()
    with guarded(copy) as guard:
        assert (guard.descriptors, guard.lend("/nowhere"), guard.take_back()) == ((), {}, True)
    assert not copy.parent.exists()


def test_without_room_to_rewrite_the_file_the_refresh_token_is_not_used(directory: Path, copy: Path) -> None:
    def body() -> None:
        (directory / "robot").write_bytes(complete())
        (directory / "filler").write_bytes(bytes(4096 * 2))
        with (
            pytest.raises(
                Local,
                match=r"could not be rewritten \(No space left on device\): the refresh token was not used",
            ),
            guarded(copy),
        ):
            raise AssertionError("it was opened")
        assert sorted(os.listdir(directory)) == ["filler", "robot"]
        assert (directory / "robot").read_bytes() == complete()

    # The directory, the file, the filler: four pages of four.
    apart(body, tmpfs={directory: "size=12k"})


def test_a_disk_that_fills_up_meanwhile_costs_nothing(directory: Path, copy: Path, lent: Path) -> None:
    (directory / "issuer.config").write_text("https://issuer robot\n")

    def body() -> None:
        (directory / "robot").write_bytes(complete())
        (directory / "issuer.config").write_text("https://issuer robot\n")
        with guarded(copy) as guard, (directory / "filler").open("wb", buffering=0) as filler:
            guard.lend(str(lent.parent.parent))
            assert (lent.parent / "issuer.config").read_text() == "https://issuer robot\n"
            with pytest.raises(OSError, match="No space left"):
                while True:
                    filler.write(bytes(4096))
            lent.write_bytes(NEW)
            assert guard.take_back()
            assert (directory / "robot").read_bytes() == NEW
            # What needs more room than the file had is written with the room that was kept for it.
            lent.write_bytes(complete("z" * 20))
            assert guard.take_back()
            assert (directory / "robot").read_bytes() == complete("z" * 20)

    apart(body, tmpfs={directory: "size=64k"})
    (directory / "issuer.config").unlink()


def test_a_file_system_that_becomes_read_only_meanwhile_costs_nothing(
    directory: Path, copy: Path, lent: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> None:
        account = directory / "robot"
        account.write_bytes(complete())
        with guarded(copy) as guard:
            guard.lend(str(lent.parent.parent))
            lent.write_bytes(NEW)
            mount(directory, "remount,ro")
            assert guard.take_back()
        assert account.read_bytes() == complete()
        assert (
            f"its file {account} cannot be written (Read-only file system): the new refresh token is in {copy}, "
            in caplog.text
        )
        # The one in the file is used up: to use it again would look like theft.
        with (
            pytest.raises(
                Local, match=r"could not be written by an earlier run, and its copy .* cannot be put back"
            ),
            guarded(copy),
        ):
            raise AssertionError("it was opened")

        mount(directory, "remount,rw")
        with guarded(copy):
            assert account.read_bytes() == NEW
        # Only over the very file that the copy was to follow.
        account.write_bytes(complete("later"))
        with guarded(copy):
            assert account.read_bytes() == complete("later")

    apart(body, tmpfs={directory: "size=64k"})


def test_what_cannot_be_taken_back_from_a_killed_run_is_not_removed(
    directory: Path, copy: Path, lent: Path
) -> None:
    def body() -> None:
        account = directory / "robot"
        account.write_bytes(complete())
        private = lent.parent.parent.rename(lent.parent.parent.with_name("osg-agent-abcd1234"))
        private.chmod(0o700)
        with guarded(copy) as guard:
            guard.lend(str(private))
            lent_now = private / "oidc-agent" / "robot"
            lent_now.write_bytes(NEW)
        mount(directory, "remount,ro")
        private_directories.sweep_agent_directories(str(private.parent), account_file.rescue)
        assert lent_now.read_bytes() == NEW
        mount(directory, "remount,rw")
        private_directories.sweep_agent_directories(str(private.parent), account_file.rescue)
        assert account.read_bytes() == NEW
        assert not private.exists()

    apart(body, tmpfs={directory: "size=64k"})


def test_on_a_read_only_file_system_the_refresh_token_is_not_used(directory: Path, copy: Path) -> None:
    def body() -> None:
        (directory / "robot").write_bytes(complete())
        mount(directory, "remount,ro")
        with (
            pytest.raises(Local, match=r"could not be rewritten .*: the refresh token was not used"),
            guarded(copy),
        ):
            raise AssertionError("it was opened")

    apart(body, tmpfs={directory: "size=64k"})


def test_a_file_that_this_user_may_not_write_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("OIDC_CONFIG_DIR", short)
        (Path(short) / "robot").write_bytes(complete())
        (Path(short) / "robot").chmod(0o444)
        Path(short).chmod(0o777)

        def body() -> None:
            with (
                pytest.raises(Local, match=r"could not be rewritten \(Permission denied\)"),
                guarded(Path(short) / "copies" / "robot"),
            ):
                raise AssertionError("it was opened")

        apart(body, unprivileged=True)


def test_a_copy_that_cannot_be_kept_is_a_warning(
    tmp_path: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file in the place of the directory")
    with guarded(copy):
        pass
    assert "account robot: no copy of its file can be kept" in caplog.text


def test_what_a_killed_program_left_as_room_is_used_again(directory: Path, copy: Path) -> None:
    (directory / ".robot.room").write_bytes(b"x")
    with guarded(copy):
        pass
    assert not (directory / ".robot.room").exists()


def test_an_account_is_held_by_whoever_inherited_it_and_free_once_they_have_ended(
    directory: Path, copy: Path
) -> None:
    script = """
import subprocess, sys
from osg_token_renewer.sources import account_file
with account_file.held(sys.argv[1], "robot", 0) as held:
    child = subprocess.Popen(["cat"], pass_fds=[held])
    print(child.pid, flush=True)
    child.wait()
"""
    command = [sys.executable, "-c", script, str(directory / "robot")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        # The program is gone, what it started is not.
        holder.kill()
        holder.wait()
        with (
            pytest.raises(Unavailable, match="account robot is in use by another run or login"),
            guarded(copy),
        ):
            pass
        holder.stdin.close()
        with guarded(copy, wait=60):
            pass


def test_the_fingerprint_changes_with_the_file(directory: Path) -> None:
    before = account_file.fingerprint("robot")
    (directory / "robot").write_bytes(NEW)
    assert None is not before != account_file.fingerprint("robot") is not None
    (directory / "robot").unlink()
    assert account_file.fingerprint("robot") is None
