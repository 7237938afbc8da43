"""What stands between an account file and its agent. Only files matter here, so these account files only look
like oidc-agent's."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path

import pytest

from osg_token_renewer.errors import Local, Refused, Unavailable
from osg_token_renewer.sources.oidc_agent import account_file, rotation
from osg_token_renewer.sources.oidc_agent.rotation import HeldAccount, Lent
from osg_token_renewer.system import private_directories
from tests.faults import apart, mount
from tests.host import ROOT
from tests.moments import at_moment


def complete(text: str = "old", version: str = "5.3.3") -> bytes:
    head = f"750\nnonce\nsalt\n24:16:16:32:1:2:67108864:2\n{text * 400}\n"
    return f"{head}key\nGenerated using version: {version}".encode()


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
def private(tmp_path: Path) -> Path:
    """The private directory of an agent."""
    made = tmp_path / "osg-agent-abcd1234"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "state" / "accounts" / "robot"


def hold(copy: Path, wait: float = 0.0) -> AbstractContextManager[HeldAccount]:
    return rotation.hold_account("robot", str(copy), wait)


@contextmanager
def lend(copy: Path, private: Path) -> Iterator[tuple[HeldAccount, Lent, Path]]:
    """An account that an agent has, and the file that the agent writes."""
    with hold(copy) as held, held.lend(str(private)) as lent:
        yield held, lent, Path(lent.copy)


def leave_as_a_killed_run(directory: Path, private: Path, content: bytes) -> None:
    """What a run leaves if it is killed while its agent has the account, and the agent writes `content`."""
    account = directory / "robot"
    before = account.read_bytes()
    Lent(str(private), str(account)).make(before)
    (private / "oidc-agent" / "robot").write_bytes(content)
    (directory / ".robot.lent").symlink_to(private)


def test_room_is_reserved_beside_the_file_and_given_back(directory: Path, copy: Path) -> None:
    with hold(copy):
        assert (directory / ".robot.room").stat().st_size > len(complete())
    assert not (directory / ".robot.room").exists()


def test_what_the_agent_wrote_is_saved_and_a_copy_kept_for_this_user_alone(
    directory: Path, copy: Path, private: Path
) -> None:
    inode = (directory / "robot").stat().st_ino
    with lend(copy, private) as (held, lent, agents):
        assert copy.read_bytes() == agents.read_bytes() == complete()
        assert lent.directory == str(agents.parent)
        for content in (NEW, complete("x" * 9), complete("y")):
            agents.write_bytes(content)
            assert held.take_back(lent)
            assert copy.read_bytes() == (directory / "robot").read_bytes() == content
    # The lock is that of the file, not of its name.
    assert (directory / "robot").stat().st_ino == inode
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in copy.parent.iterdir()] == ["robot"]


def test_what_the_agent_wrote_last_is_saved_when_it_has_ended(
    directory: Path, copy: Path, private: Path
) -> None:
    with lend(copy, private) as (_held, _lent, agents):
        agents.write_bytes(NEW)
    assert (directory / "robot").read_bytes() == copy.read_bytes() == NEW


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_an_agent_did_not_write_whole_is_not_saved(
    directory: Path, copy: Path, private: Path, content: bytes
) -> None:
    with lend(copy, private) as (held, lent, agents):
        agents.write_bytes(content)
        assert not held.take_back(lent)
    assert (directory / "robot").read_bytes() == copy.read_bytes() == complete()


def test_an_agent_whose_copy_is_damaged_gets_a_complete_one_again(copy: Path, private: Path) -> None:
    with lend(copy, private) as (held, lent, agents):
        agents.write_bytes(NEW[:700])
        held.mend(lent)
        assert agents.read_bytes() == complete()


def test_a_login_that_replaced_the_file_meanwhile_is_not_undone(
    directory: Path, copy: Path, private: Path
) -> None:
    with lend(copy, private) as (_held, _lent, agents):
        (directory / "robot").write_bytes(complete("login"))
        agents.write_bytes(NEW)
    assert (directory / "robot").read_bytes() == complete("login")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_write_that_is_cut_off_at_any_moment_leaves_the_old_the_new_or_a_damaged_file(
    directory: Path,
) -> None:
    account, new = directory / "robot", complete("z" * 30)
    damaged: list[bool] = []
    while at_moment(len(damaged), lambda: account_file.overwrite(str(account), new), kill):
        content = account.read_bytes()
        damaged.append(account_file.is_damaged(content))
        assert damaged[-1] or content in (complete(), new)
        account.write_bytes(complete())
    assert account.read_bytes() == new
    assert any(damaged)


def test_a_run_that_is_killed_at_any_moment_loses_no_refresh_token(
    directory: Path, copy: Path, tmp_path: Path
) -> None:
    written, private = tmp_path / "written", tmp_path / "osg-agent-abcd1234"

    def run() -> None:
        with lend(copy, private) as (held, lent, agents):
            agents.write_bytes(NEW)
            written.touch()
            held.take_back(lent)

    for moment in count():
        (directory / "robot").write_bytes(complete())
        private.mkdir()
        written.unlink(missing_ok=True)
        if not at_moment(moment, run, kill):
            break
        agent_wrote = written.exists()
        with hold(copy):
            content = (directory / "robot").read_bytes()
        assert content == NEW or (content == complete() and not agent_wrote)
        shutil.rmtree(private, ignore_errors=True)
        shutil.rmtree(copy.parent, ignore_errors=True)
    assert moment > 50


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_replaced_by_its_copy(
    directory: Path, copy: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    with hold(copy):
        (directory / "robot").write_bytes(content)
    assert (directory / "robot").read_bytes() == copy.read_bytes() == complete()
    (directory / "robot").write_bytes(content)
    with hold(copy):
        assert (directory / "robot").read_bytes() == complete()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2
    for line in said:
        assert line.startswith(
            f"account robot: its file {directory}/robot is damaged; "
            "the copy of the last complete one was put back; "
        )
        assert line.endswith("run: osg-token-renewer-setup --reauthenticate robot")


def test_a_complete_file_is_never_replaced_by_its_copy(directory: Path, copy: Path) -> None:
    with hold(copy):
        pass
    (directory / "robot").write_bytes(NEW)
    with hold(copy):
        assert (directory / "robot").read_bytes() == NEW
    assert (directory / "robot").read_bytes() == copy.read_bytes() == NEW


@pytest.mark.parametrize(
    "content", [b"a later version's way to write this\n", complete().replace(b"version", b"Version")[3:]]
)
def test_a_file_of_an_unknown_form_is_left_alone(
    directory: Path, copy: Path, private: Path, content: bytes
) -> None:
    with hold(copy):
        pass
    (directory / "robot").write_bytes(content)
    with lend(copy, private) as (held, lent, _agents):
        assert held.take_back(lent)
    assert (directory / "robot").read_bytes() == content
    assert copy.read_bytes() == complete()


def test_the_failure_for_a_damaged_file_without_a_copy_tells_what_to_do(directory: Path, copy: Path) -> None:
    (directory / "robot").write_bytes(b"")
    with pytest.raises(Local, match=r"robot is damaged and there is no copy of it") as raised, hold(copy):
        pass
    assert raised.value.hint == "remove it and register the account anew: osg-token-renewer-setup robot"
    assert (directory / "robot").read_bytes() == b""


def test_an_account_that_does_not_exist_comes_with_the_command_that_registers_it(
    directory: Path, copy: Path
) -> None:
    (directory / "robot").unlink()
    with pytest.raises(Refused, match="oidc-agent has no account robot") as raised, hold(copy):
        pass
    assert raised.value.hint == "run: osg-token-renewer-setup robot"
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
            hold(copy),
        ):
            raise AssertionError("it was opened")
        assert sorted(os.listdir(directory)) == ["filler", "robot"]
        assert (directory / "robot").read_bytes() == complete()

    # The directory, the file, the filler: four pages of four.
    apart(body, tmpfs={directory: "size=12k"})


def test_a_disk_that_fills_up_meanwhile_costs_nothing(directory: Path, copy: Path, private: Path) -> None:
    (directory / "issuer.config").write_text("https://issuer robot\n")

    def body() -> None:
        (directory / "robot").write_bytes(complete())
        (directory / "issuer.config").write_text("https://issuer robot\n")
        with (
            lend(copy, private) as (held, lent, agents),
            (directory / "filler").open("wb", buffering=0) as filler,
        ):
            assert (agents.parent / "issuer.config").read_text() == "https://issuer robot\n"
            with pytest.raises(OSError, match="No space left"):
                while True:
                    filler.write(bytes(4096))
            agents.write_bytes(NEW)
            assert held.take_back(lent)
            assert (directory / "robot").read_bytes() == NEW
            # What needs more room than the file had gets what was reserved.
            agents.write_bytes(complete("z" * 20))
            assert held.take_back(lent)
            assert (directory / "robot").read_bytes() == complete("z" * 20)

    apart(body, tmpfs={directory: "size=64k"})
    (directory / "issuer.config").unlink()


def test_a_file_system_that_becomes_read_only_meanwhile_costs_nothing(
    directory: Path, copy: Path, private: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> None:
        account = directory / "robot"
        account.write_bytes(complete())
        with lend(copy, private) as (held, lent, agents):
            agents.write_bytes(NEW)
            mount(directory, "remount,ro")
            assert held.take_back(lent)
        shutil.rmtree(private)
        assert account.read_bytes() == complete()
        assert (
            f"its file {account} cannot be written (Read-only file system): "
            f"the new refresh token is in {copy}, " in caplog.text
        )
        # The one in the file is used up: to use it again would look like theft.
        with (
            pytest.raises(
                Local, match=r"could not be written by an earlier run, and its copy .* cannot be put back"
            ),
            hold(copy),
        ):
            raise AssertionError("it was opened")

        mount(directory, "remount,rw")
        with hold(copy):
            assert account.read_bytes() == NEW
        # Only over the very file that the copy was to follow.
        account.write_bytes(complete("later"))
        with hold(copy):
            assert account.read_bytes() == complete("later")

    apart(body, tmpfs={directory: "size=64k"})


def test_what_the_agent_of_a_killed_run_wrote_is_saved_by_the_run_that_opens_the_account_next(
    directory: Path, copy: Path, private: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave_as_a_killed_run(directory, private, NEW)
    with hold(copy):
        assert (directory / "robot").read_bytes() == copy.read_bytes() == NEW
        assert not private.exists()
    assert "account robot: saved what the oidc-agent of a killed run had written" in caplog.text


def test_a_run_with_another_home_saves_what_a_killed_run_left(
    directory: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "others").mkdir()
    for theirs in (None, complete("theirs")):
        (directory / "robot").write_bytes(complete())
        if theirs:
            (tmp_path / "others" / "robot").write_bytes(theirs)
        leave_as_a_killed_run(directory, private, NEW)
        monkeypatch.setenv("OIDC_CONFIG_DIR", str(tmp_path / "others"))
        assert rotation.rescue(str(private))
        monkeypatch.setenv("OIDC_CONFIG_DIR", str(directory))
        assert (directory / "robot").read_bytes() == NEW
        shutil.rmtree(private)
        private.mkdir(mode=0o700)
        (directory / ".robot.lent").unlink()
    assert (tmp_path / "others" / "robot").read_bytes() == complete("theirs")


def test_a_rotation_is_saved_even_if_the_one_before_could_not_be_noted(
    directory: Path, copy: Path, private: Path, tmp_path: Path
) -> None:
    with lend(copy, private) as (held, lent, agents):
        # What is at the end of a link is read, and never written.
        base = Path(lent.base)
        base.rename(tmp_path / "base")
        base.symlink_to(tmp_path / "base")
        for content in (NEW, complete("x")):
            agents.write_bytes(content)
            held.take_back(lent)
            assert (directory / "robot").read_bytes() == content


def test_a_login_of_another_program_during_a_run_stays_and_the_run_says_what_it_dropped(
    directory: Path, copy: Path, private: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with lend(copy, private) as (held, lent, agents):
        (directory / "robot").write_bytes(complete("theirs"))
        agents.write_bytes(NEW)
        held.take_back(lent)
    assert (directory / "robot").read_bytes() == complete("theirs")
    assert caplog.messages == [
        f"account robot: another program wrote its file {directory}/robot during this run: that login stays, "
        "and the refresh token of this run is dropped; if the issuer refuses it, run: "
        "osg-token-renewer-setup --reauthenticate robot"
    ]


@pytest.mark.parametrize("note", ["a file", "through a file"])
def test_a_note_that_leads_nowhere_does_not_block_the_account(
    directory: Path, copy: Path, private: Path, note: str
) -> None:
    if note == "a file":
        (directory / ".robot.lent").write_text("x")
    else:
        (directory / ".robot.lent").symlink_to(directory / "robot" / "x")
    with lend(copy, private) as (held, lent, agents):
        agents.write_bytes(NEW)
        assert held.take_back(lent)
    assert (directory / "robot").read_bytes() == NEW


@pytest.mark.parametrize("by_sweep", [False, True])
def test_a_login_after_a_kill_is_not_undone_by_what_the_killed_run_left(
    directory: Path, copy: Path, private: Path, by_sweep: bool
) -> None:
    leave_as_a_killed_run(directory, private, NEW)
    (directory / "robot").write_bytes(complete("login"))
    if by_sweep:
        private_directories.sweep_agent_directories(str(private.parent), rotation.rescue)
        assert not private.exists()
    with hold(copy):
        assert (directory / "robot").read_bytes() == complete("login")
    assert not private.exists()


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_an_account_that_a_killed_run_was_just_writing_is_saved_from_what_its_agent_has(
    directory: Path, copy: Path, private: Path, content: bytes
) -> None:
    leave_as_a_killed_run(directory, private, NEW)
    (directory / "robot").write_bytes(content)
    with hold(copy):
        assert (directory / "robot").read_bytes() == NEW


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_the_agent_of_a_killed_run_did_not_write_whole_is_dropped(
    directory: Path, copy: Path, private: Path, content: bytes
) -> None:
    leave_as_a_killed_run(directory, private, content)
    with hold(copy):
        assert (directory / "robot").read_bytes() == complete()
    assert not private.exists()


def test_an_agents_directory_that_is_gone_costs_nothing(directory: Path, copy: Path, private: Path) -> None:
    """As after a reboot."""
    (directory / ".robot.lent").symlink_to(private / "gone")
    with hold(copy):
        assert (directory / "robot").read_bytes() == complete()


def test_what_cannot_be_saved_from_a_killed_run_is_not_removed(
    directory: Path, copy: Path, private: Path
) -> None:
    def body() -> None:
        account = directory / "robot"
        account.write_bytes(complete())
        leave_as_a_killed_run(directory, private, NEW)
        mount(directory, "remount,ro")
        private_directories.sweep_agent_directories(str(private.parent), rotation.rescue)
        # What the file has is used up: to use it again would look like theft.
        with (
            pytest.raises(
                Local, match=r"cannot be written \(Read-only file system\): what .*/\.robot\.lent leads to"
            ),
            hold(copy),
        ):
            raise AssertionError("it was opened")
        assert (private / "oidc-agent" / "robot").read_bytes() == NEW
        mount(directory, "remount,rw")
        private_directories.sweep_agent_directories(str(private.parent), rotation.rescue)
        assert account.read_bytes() == NEW
        assert not private.exists()

    apart(body, tmpfs={directory: "size=64k"})


def test_on_a_read_only_file_system_the_refresh_token_is_not_used(directory: Path, copy: Path) -> None:
    def body() -> None:
        (directory / "robot").write_bytes(complete())
        mount(directory, "remount,ro")
        with (
            pytest.raises(Local, match=r"could not be rewritten .*: the refresh token was not used"),
            hold(copy),
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
                hold(Path(short) / "copies" / "robot"),
            ):
                raise AssertionError("it was opened")

        apart(body, unprivileged=True)


def test_a_copy_that_cannot_be_kept_is_a_warning(
    tmp_path: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file in the place of the directory")
    with hold(copy):
        pass
    assert "account robot: no copy of its file can be kept" in caplog.text


def test_what_a_killed_program_left_as_room_is_used_again(directory: Path, copy: Path) -> None:
    (directory / ".robot.room").write_bytes(b"x")
    with hold(copy):
        pass
    assert not (directory / ".robot.room").exists()


def test_an_account_is_locked_until_every_process_that_inherited_the_lock_has_ended(
    directory: Path, copy: Path
) -> None:
    script = """
import subprocess, sys
from osg_token_renewer.sources.oidc_agent import account_file
with account_file.lock_account(sys.argv[1], "robot", 0) as lock:
    child = subprocess.Popen(["cat"], pass_fds=[lock])
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
            hold(copy),
        ):
            pass
        holder.stdin.close()
        with hold(copy, wait=60):
            pass


def test_the_fingerprint_changes_with_the_file(directory: Path) -> None:
    before = account_file.fingerprint("robot")
    (directory / "robot").write_bytes(NEW)
    assert None is not before != account_file.fingerprint("robot") is not None
    (directory / "robot").unlink()
    assert account_file.fingerprint("robot") is None
