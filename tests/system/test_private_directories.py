"""Where the state and runtime directories are, on a machine where neither exists yet."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Optional

import pytest

from osg_token_renewer.errors import Local
from osg_token_renewer.system import paths, private_directories, users
from tests.faults import NOBODY, apart

ROOT = os.geteuid() == 0


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for sockets, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="otr-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(short / "home"))
    # Temporary directories, the last resort, are made there too.
    (short / "tmp").mkdir()
    (short / "tmp").chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(short / "tmp"))


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def runtime_directory(configured: Optional[str]) -> AbstractContextManager[tuple[str, bool]]:
    """Without anything to save in the directories that killed programs left."""
    return private_directories.open_runtime_directory(configured, lambda _: True)


# State


def test_the_configured_state_directory_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/from/systemd")
    assert paths.state_directory("/configured") == "/configured"


@pytest.mark.parametrize(("value", "first"), [("/one", "/one"), ("/one:/two", "/one")])
def test_the_state_directory_of_systemd_comes_next(
    monkeypatch: pytest.MonkeyPatch, value: str, first: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", value)
    assert paths.state_directory(None) == first


def test_root_uses_the_state_directory_of_the_service_and_others_one_in_their_homes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def body() -> None:
        home = os.environ["HOME"]
        assert paths.state_directory(None) == f"{home}/.local/state/osg-token-renewer"
        monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
        assert paths.state_directory(None) == "/xdg/osg-token-renewer"

    apart(body, unprivileged=True)
    if ROOT:
        monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
        assert paths.state_directory(None) == "/var/lib/osg-token-renewer"


def test_a_new_directory_is_private_whatever_the_umask(short: Path) -> None:
    before = os.umask(0)
    try:
        made = private_directories.ensure_writable(str(short / "a" / "b"))
    finally:
        os.umask(before)
    assert made == str(short / "a" / "b")
    assert mode_of(made) == 0o700


def test_a_directory_that_cannot_be_written_or_made_is_an_error(short: Path) -> None:
    (short / "closed").mkdir()
    (short / "closed").chmod(0o555)
    (short / "file").write_text("")

    def body() -> None:
        for path in ("closed", "closed/new"):
            with pytest.raises(PermissionError):
                private_directories.ensure_writable(str(short / path))
        with pytest.raises(FileExistsError):
            private_directories.ensure_writable(str(short / "file"))

    apart(body, unprivileged=True)


# Who it is


@pytest.mark.parametrize(
    ("known", "unprivileged", "beside"),
    [
        ({"osg-token-svc": 990}, False, True),
        ({"osg-token-svc": 990}, True, False),
        ({"another": 990}, False, False),
        # The service runs as root.
        ({"osg-token-svc": 0}, False, False),
    ],
)
def test_root_is_beside_the_service_if_the_service_has_its_own_user(
    known: dict[str, int], unprivileged: bool, beside: bool
) -> None:
    def body() -> None:
        assert users.is_root_beside_service() is beside

    # Another user is root in a new user namespace, and can be nobody else there.
    if ROOT or not unprivileged:
        apart(body, users=known, unprivileged=unprivileged)


# Runtime


def test_the_runtime_directory_is_the_configured_one_else_that_of_systemd_of_the_host_of_the_user(
    monkeypatch: pytest.MonkeyPatch, short: Path
) -> None:
    run = Path("/run")

    def body() -> None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", f"{short}/systemd:{short}/more")
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{short}/user")
        found = []
        for configured, unset in (
            (f"{short}/configured", ""),
            (None, "RUNTIME_DIRECTORY"),
            (None, ""),
            (None, "XDG_RUNTIME_DIR"),
        ):
            with runtime_directory(configured) as (path, shared):
                assert mode_of(path) == 0o700
                assert os.stat(path).st_uid == os.geteuid()
                found.append((path, shared))
            if unset:
                monkeypatch.delenv(unset)
            if len(found) == 3:
                # It is not private any more.
                os.chmod("/run/osg-token-renewer", 0o755)
        assert found[:3] == [
            (f"{short}/configured", True),
            (f"{short}/systemd", True),
            ("/run/osg-token-renewer", True),
        ]
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{short}/user")
        with runtime_directory(None) as last:
            assert last == (f"{short}/user/osg-token-renewer", True)

    # This user may make directories in a /run of the test's own.
    apart(body, tmpfs={run: "mode=755"})


def test_an_unusable_directory_is_reported_if_somebody_named_it_or_this_user_owns_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, short: Path
) -> None:
    named = f"{short}/{'x' * 80}"
    monkeypatch.setenv("RUNTIME_DIRECTORY", named)
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{short}/user")
    monkeypatch.setattr(logging.getLogger("osg_token_renewer"), "propagate", True)

    def passed_over() -> list[str]:
        caplog.clear()
        with runtime_directory(None) as (path, _shared):
            assert path == f"{short}/user/osg-token-renewer"
        return [
            message.split()[1] for message in caplog.messages if " is passed over: it must be " in message
        ]

    def body() -> None:
        os.mkdir(paths.RUNTIME, 0o755)
        assert passed_over() == [named, paths.RUNTIME]
        if ROOT:
            # Other users pass over the directory of the service without a word.
            os.chown(paths.RUNTIME, NOBODY, NOBODY)
            assert passed_over() == [named]

    apart(body, tmpfs={Path("/run"): "mode=755"})


def test_if_no_directory_can_be_used_no_agent_can_start_in_one_that_others_can_enter(
    monkeypatch: pytest.MonkeyPatch, short: Path
) -> None:
    """Who can replace the directory of an agent can take its place, and would get the account."""
    (short / "open").mkdir()
    (short / "open").chmod(0o777)

    def body() -> None:
        monkeypatch.setattr(tempfile, "tempdir", f"{short}/none")
        with runtime_directory(f"{short}/open") as (path, shared):
            assert (path, shared) == (paths.RUNTIME, False)
            with (
                pytest.raises(Local, match="no directory can be made in"),
                private_directories.make_agent_directory(path),
            ):
                pass

    apart(body, tmpfs={Path("/run"): "mode=755,nr_inodes=1"})


def test_the_last_resort_is_a_private_temporary_directory_that_is_removed_afterwards(
    short: Path,
) -> None:
    def body() -> None:
        with runtime_directory(None) as (path, shared):
            assert shared is False
            assert os.path.dirname(path) == str(short / "tmp")
            assert mode_of(path) == 0o700
            (Path(path) / "socket").write_text("")
        assert not os.path.exists(path)

    # Root may make /run/osg-token-renewer.
    apart(body, unprivileged=True)


def test_a_temporary_directory_is_removed_after_an_exception_too(short: Path) -> None:
    def body() -> None:
        with pytest.raises(ZeroDivisionError), runtime_directory(None):
            raise ZeroDivisionError
        assert os.listdir(short / "tmp") == []

    apart(body, unprivileged=True)


def runtime_apart(configured: Path) -> None:
    """The configured directory is passed over; another one is used, which is private."""

    def body() -> None:
        with runtime_directory(str(configured)) as (path, _shared):
            assert path != str(configured)
            assert mode_of(path) == 0o700

    apart(body, unprivileged=True)


@pytest.mark.parametrize("mode", [0o750, 0o755, 0o770, 0o701, 0o777, 0o1777])
def test_a_directory_that_others_can_enter_is_not_used(short: Path, mode: int) -> None:
    directory = short / "d"
    directory.mkdir()
    directory.chmod(mode)
    if ROOT:
        os.chown(directory, NOBODY, NOBODY)
    runtime_apart(directory)
    assert (os.listdir(directory), stat.S_IMODE(directory.stat().st_mode)) == ([], mode)


def test_a_private_directory_of_the_same_user_is_used(short: Path) -> None:
    directory = short / "d"
    directory.mkdir(mode=0o700)
    with runtime_directory(str(directory)) as found:
        assert found == (str(directory), True)
    assert directory.is_dir()


def test_a_symbolic_link_to_a_private_directory_is_not_used(short: Path) -> None:
    (short / "target").mkdir(mode=0o700)
    if ROOT:
        os.chown(short / "target", NOBODY, NOBODY)
    (short / "d").symlink_to(short / "target")
    runtime_apart(short / "d")


def test_a_file_is_not_used(short: Path) -> None:
    (short / "d").write_text("")
    runtime_apart(short / "d")
    assert (short / "d").read_text() == ""


@pytest.mark.parametrize("name", ["x" * 80, "é" * 40])
def test_a_path_that_is_too_long_for_sockets_is_not_used_and_not_made(short: Path, name: str) -> None:
    runtime_apart(short / name)
    assert not (short / name).exists()


if ROOT:  # only root can make a directory for another user

    def test_a_private_directory_of_another_user_is_not_used(short: Path) -> None:
        (short / "d").mkdir(mode=0o700)
        os.chown(short / "d", NOBODY, NOBODY)

        def body() -> None:
            with runtime_directory(str(short / "d")) as (path, _shared):
                assert path == "/run/osg-token-renewer"

        apart(body, tmpfs={Path("/run"): "mode=755"})
