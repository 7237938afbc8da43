"""Faults while a token is being published, one before each of publishing's system calls.

Whatever happens, the path holds the old token or the new one, and nobody else's file is touched.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from osg_token_renewer.errors import Local
from osg_token_renewer.sinks.file import FileSink
from osg_token_renewer.tokens import jwt
from tests.faults import NOBODY, apart
from tests.moments import at_moment
from tests.specs import file_token

OLD, NEW, THEIRS = "old-token\n", "new-token\n", "a file of somebody else\n"


def publish(root: Path) -> None:
    with suppress(Local):
        FileSink().publish(file_token("x", "a", str(root / "tokens" / "x")), jwt.parse(NEW))


def prepared(root: Path) -> Path:
    for directory, content in (("tokens", OLD), ("elsewhere", THEIRS)):
        (root / directory).mkdir(parents=True)
        (root / directory / "x").write_text(content)
    return root


def at_each_moment(
    parent: Path, fault: Callable[[Path, int], None], check: Callable[[Path], None]
) -> list[bool]:
    """Publishes once for each system call, each time in a new directory with the fault before that call.

    `fault` gets the directory and the id of the publishing process; `check` gets the directory afterwards.
    Returns for each call whether there was a temporary file.
    """
    halfway: list[bool] = []
    while True:
        root = prepared(parent / str(len(halfway)))

        def strike(pid: int, root: Path = root) -> None:
            halfway.append(any(name.endswith(".tmp") for name in os.listdir(root / "tokens")))
            fault(root, pid)

        if not at_moment(len(halfway), partial(publish, root), strike):
            assert files(root / "tokens") == {"x": NEW}
            return halfway
        check(root)


def files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_a_directory_that_is_replaced_by_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    followed: list[bool] = []

    def swap(root: Path, _pid: int) -> None:
        (root / "tokens").rename(root / "moved")
        (root / "tokens").symlink_to("elsewhere")

    def check(root: Path) -> None:
        # The token is only in the directory that the path led to when it was opened.
        followed.append(files(root / "elsewhere") == {"x": NEW})
        assert files(root / "moved") == {"x": OLD if followed[-1] else NEW}
        assert files(root / "elsewhere") == {"x": NEW if followed[-1] else THEIRS}

    halfway = at_each_moment(tmp_path, swap, check)

    assert sum(halfway) > 3
    assert not any(there and astray for there, astray in zip(halfway, followed))
    assert followed == sorted(followed, reverse=True)


def test_a_file_that_is_replaced_by_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    def swap(root: Path, _pid: int) -> None:
        (root / "tokens" / "x").unlink()
        (root / "tokens" / "x").symlink_to(root / "elsewhere" / "x")

    def check(root: Path) -> None:
        assert files(root / "elsewhere") == {"x": THEIRS}
        assert os.listdir(root / "tokens") == ["x"]
        link = root / "tokens" / "x"
        assert link.is_symlink() or link.read_text() == NEW

    assert sum(at_each_moment(tmp_path, swap, check)) > 3


def test_a_directory_that_takes_the_place_of_the_file_stays(tmp_path: Path) -> None:
    def swap(root: Path, _pid: int) -> None:
        (root / "tokens" / "x").unlink()
        (root / "tokens" / "x").mkdir()

    def check(root: Path) -> None:
        assert os.listdir(root / "tokens") == ["x"]
        assert os.listdir(root / "tokens" / "x") == []

    assert sum(at_each_moment(tmp_path, swap, check)) > 3


def test_a_killed_run_leaves_a_whole_token_and_what_the_next_run_removes(tmp_path: Path) -> None:
    left: list[str] = []

    def kill(_root: Path, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def check(root: Path) -> None:
        found = files(root / "tokens")
        assert found.pop("x") in (OLD, NEW)
        left.extend(found)
        FileSink().sweep([file_token("x", "a", str(root / "tokens" / "x"))])
        assert os.listdir(root / "tokens") == ["x"]

    halfway = at_each_moment(tmp_path, kill, check)

    assert len(left) == sum(halfway) > 3


def test_a_lost_permission_costs_no_token_and_leaves_none_behind() -> None:
    # Not tmp_path, which another user cannot reach.
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)

        def check(root: Path) -> None:
            (root / "tokens").chmod(0o700)
            found = files(root / "tokens")
            assert found.pop("x") in (OLD, NEW)
            # The temporary file could no longer be removed, but emptied.
            assert [content for content in found.values() if content] == []
            FileSink().sweep([file_token("x", "a", str(root / "tokens" / "x"))])
            assert os.listdir(root / "tokens") == ["x"]

        def body() -> None:
            assert (
                sum(at_each_moment(Path(name), lambda root, _pid: (root / "tokens").chmod(0o500), check)) > 3
            )

        apart(body, unprivileged=True)


def test_a_file_system_that_fills_up_leaves_only_the_old_token_or_the_new_one(
    tmp_path: Path,
) -> None:
    filler = tmp_path / "filler"

    def fill(_root: Path, _pid: int) -> None:
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def check(root: Path) -> None:
        filler.unlink()
        (found,) = files(root / "tokens").items()
        seen.add(found)

    seen: set[tuple[str, str]] = set()

    def body() -> None:
        at_each_moment(tmp_path, fill, check)
        assert seen == {("x", OLD), ("x", NEW)}

    apart(body, tmpfs={tmp_path: "size=1m"})
