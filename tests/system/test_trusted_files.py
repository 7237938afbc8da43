"""Which files are trusted, by the modes, owners and directories of real files."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from osg_token_renewer.system import trusted_files
from tests.faults import NOBODY, apart, mount

ROOT = os.geteuid() == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir(mode=0o755)
    path = tmp_path / "etc" / "config.ini"
    path.touch(mode=0o600)
    return path


def flaws(path: Path) -> list[str]:
    return list(trusted_files.find_flaws(str(path)))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o644])
def test_a_file_that_only_its_owner_can_write_is_trusted(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert flaws(file) == []


@pytest.mark.parametrize("mode", [0o602, 0o606, 0o666, 0o777])
def test_a_file_that_others_can_write_is_not_trusted(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert flaws(file) == [f"others can write it: chmod o-w {file}"]


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o2777])
def test_a_file_below_a_directory_that_others_can_write_to_is_not_trusted(file: Path, mode: int) -> None:
    for directory in (file.parent, file.parent.parent):
        directory.chmod(mode)
    assert flaws(file) == [
        f"others can write to {where}, where it is: chmod o-w {where}"
        for where in (file.parent.parent, file.parent)
    ]


@pytest.mark.parametrize("mode", [0o1777, 0o775, 0o700])
def test_a_file_in_a_directory_where_others_cannot_replace_it_is_trusted(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert flaws(file) == []


def test_a_link_is_trusted_if_its_own_directories_and_those_of_its_target_are(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "config.ini"
    link.symlink_to(file)
    assert flaws(link) == []
    for directory in (file.parent, link.parent):
        directory.chmod(0o777)
    assert flaws(link) == [
        f"others can write to {where}, where it is: chmod o-w {where}" for where in (file.parent, link.parent)
    ]


def test_all_flaws_of_a_file_are_reported(file: Path) -> None:
    file.chmod(0o666)
    file.parent.chmod(0o777)
    assert len(flaws(file)) == 2


def test_a_directory_for_everybody_on_a_read_only_file_system_is_no_flaw(tmp_path: Path) -> None:
    def body() -> None:
        tmp_path.chmod(0o777)
        (tmp_path / "config.ini").touch(0o644)
        assert len(flaws(tmp_path / "config.ini")) == 1
        mount(tmp_path, "remount,ro")
        assert flaws(tmp_path / "config.ini") == []

    apart(body, tmpfs={tmp_path: "size=128k"})


def test_the_null_device_is_trusted() -> None:
    assert flaws(Path(os.devnull)) == []


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty"])
def test_another_device_is_not_trusted(device: str) -> None:
    assert "it is not a regular file" in flaws(Path(device))


def test_the_open_file_is_judged_and_not_a_new_one_of_the_same_name(file: Path) -> None:
    file.chmod(0o606)
    with file.open() as opened:
        file.unlink()
        file.touch(mode=0o600)
        assert flaws(file) == []
        assert list(trusted_files.find_flaws(str(file), descriptor=opened.fileno())) == [
            f"others can write it: chmod o-w {file}"
        ]


def test_a_missing_file_is_an_error_and_no_flaw(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        flaws(tmp_path / "missing")


if ROOT:  # only root can give files away

    @pytest.fixture
    def reachable() -> Iterator[Path]:
        """A file that another user can reach; those below tmp_path are out of reach."""
        with tempfile.TemporaryDirectory() as name:
            os.chmod(name, 0o755)
            (Path(name) / "x").touch(mode=0o600)
            yield Path(name) / "x"

    def test_a_file_of_another_user_is_not_trusted(reachable: Path) -> None:
        os.chown(reachable, 4242, 0)
        problem = "it belongs to 4242, neither to root nor to the service user: chown osg-token-svc " + str(
            reachable
        )
        assert flaws(reachable) == [problem]
        apart(lambda: _assert(flaws(reachable) == [problem]), unprivileged=True)

    @pytest.mark.parametrize("owner", [0, NOBODY])
    def test_a_user_trusts_files_of_root_and_its_own(reachable: Path, owner: int) -> None:
        os.chown(reachable, owner, 0)
        apart(lambda: _assert(flaws(reachable) == []), unprivileged=True)

    @pytest.mark.parametrize("unprivileged", [False, True])
    def test_everybody_trusts_files_of_the_service_user(reachable: Path, unprivileged: bool) -> None:
        os.chown(reachable, 4242, 0)
        users = {"osg-token-svc": 4242}
        apart(lambda: _assert(flaws(reachable) == []), users=users, unprivileged=unprivileged)

    def test_a_group_that_can_write_must_be_that_of_root_of_the_service_or_of_the_user(
        file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "group").write_text("root:x:0:\nosg-token-svc:x:4242:\nusers:x:100:\n")
        file.chmod(0o660)

        def body() -> None:
            subprocess.run(["mount", "--bind", str(tmp_path / "group"), "/etc/group"], check=True)
            found = {}
            for gid in (0, 4242, 100, 4343):
                os.chown(file, 0, gid)
                found[gid] = flaws(file)
            assert found == {
                0: [],
                4242: [],
                100: [f"the group users can write it: chmod g-w {file}"],
                4343: [f"the group 4343 can write it: chmod g-w {file}"],
            }
            file.chmod(0o640)
            assert flaws(file) == []

        apart(body, users={})


def _assert(holds: bool) -> None:
    assert holds
