"""Token files on real file systems, some of them full, read-only or without permission."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from osg_token_renewer.errors import Local
from osg_token_renewer.model import AccessToken, Found, Published, TokenSpec
from osg_token_renewer.sinks.file import FileSink
from osg_token_renewer.tokens import jwt
from tests.faults import NOBODY, apart, mount
from tests.host import until
from tests.specs import file_token

OLD, NEW = "old-token", "new-token"
ROOT = os.geteuid() == 0
SINK = FileSink()

# Ids that no process of the test has. Only root may give a file to them; another user tests with its own.
OTHER_UID = NOBODY if ROOT else os.geteuid()
OTHER_GID = NOBODY if ROOT else os.getegid()


def token(text: str = NEW) -> AccessToken:
    return jwt.parse(text)


def spec(path: Path, **options: Any) -> TokenSpec:
    return file_token("x", "a", str(path), **options)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "tokens").mkdir()
    return tmp_path / "tokens" / "x"


@pytest.fixture
def old(path: Path) -> Path:
    """A file that has been published before."""
    path.touch(0o600)
    path.write_text(f"{OLD}\n")
    return path


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def tokens_of_nobody(parent: Path) -> Path:
    """A directory of the user as whom `apart` runs an unprivileged body."""
    directory = parent / "tokens"
    directory.mkdir(mode=0o700)
    os.chown(directory, OTHER_UID, OTHER_GID)
    return directory


def fails(wanted: TokenSpec, *, because: str) -> Local:
    """Publishing fails for this reason, and leaves each file in the directory as it was, byte for byte."""
    directory = Path(wanted.path).parent

    def content() -> dict[str, Any]:
        return {
            file.name: (file.lstat(), file.read_bytes() if file.is_file() else None)
            for file in directory.iterdir()
        }

    def without_access_times(listing: dict[str, Any]) -> dict[str, Any]:
        return {
            name: (status[:7], status.st_mtime_ns, status.st_ctime_ns, text)
            for name, (status, text) in listing.items()
        }

    before = without_access_times(content())
    with pytest.raises(Local, match=because) as failure:
        SINK.publish(wanted, token())
    assert without_access_times(content()) == before
    assert (
        str(wanted.path) in failure.value.message
        or str(directory) in failure.value.message
        or "on this host" in failure.value.message
    )
    return failure.value


# Publishing


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_a_new_file_is_readable_only_by_its_owner_whatever_the_umask(path: Path, mask: int) -> None:
    with umask(mask):
        assert SINK.publish(spec(path), token()) == ()
    assert path.read_text() == f"{NEW}\n"
    assert mode_of(path) == 0o600


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o644])
def test_a_configured_mode_is_set_without_a_warning(path: Path, mode: int) -> None:
    with umask(0o077):
        assert SINK.publish(spec(path, mode=mode), token()) == ()
        assert SINK.publish(spec(path, mode=mode), token()) == ()
    assert mode_of(path) == mode


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o660])
def test_an_existing_file_keeps_a_mode_that_lets_others_read_with_a_warning(old: Path, mode: int) -> None:
    old.chmod(mode)
    warnings = SINK.publish(spec(old), token())
    assert mode_of(old) == mode
    assert warnings == (f"others can read {old} (mode {mode:04o}): chmod 0600, or set mode",)


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_an_existing_file_keeps_a_private_mode_without_a_warning(old: Path, mode: int) -> None:
    old.chmod(mode)
    assert SINK.publish(spec(old), token()) == ()
    assert (mode_of(old), old.read_text()) == (mode, f"{NEW}\n")


def test_an_existing_file_keeps_its_owner_and_group(old: Path) -> None:
    os.chown(old, OTHER_UID, OTHER_GID)
    SINK.publish(spec(old), token())
    assert (old.stat().st_uid, old.stat().st_gid) == (OTHER_UID, OTHER_GID)


def test_owner_and_group_are_set_by_name_and_by_number(path: Path) -> None:
    names = {"owner": "nobody", "group": "daemon"} if ROOT else {}
    SINK.publish(spec(path, mode=0o640, **names), token())
    if ROOT:
        assert (path.owner(), path.group()) == ("nobody", "daemon")
    SINK.publish(spec(path, mode=0o640, owner=str(OTHER_UID), group=str(OTHER_GID)), token())
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (OTHER_UID, OTHER_GID, 0o640)


def test_a_set_id_bit_survives_a_change_of_owner(path: Path) -> None:
    # chown(2) clears these bits.
    SINK.publish(spec(path, mode=0o2640, owner=str(OTHER_UID), group=str(OTHER_GID)), token())
    assert mode_of(path) == 0o2640


@pytest.mark.parametrize(
    "name",
    [
        "x" * 255,
        "é" * 127 + "x",
        "漢" * 85,
        os.fsdecode(b"\xff\xfe odd \xe9"),
        "with blanks and 'quotes'",
        "-rf",
        ".hidden",
        "a\nb",
    ],
)
def test_a_file_of_any_legal_name_is_published_and_read(path: Path, name: str) -> None:
    named = path.parent / name
    for text in ("first", "second"):
        SINK.publish(spec(named), token(text))
        assert os.listdir(path.parent) == [name]
        published = SINK.read(spec(named)).token
        assert published is not None
        assert published.text.reveal() == text


def test_a_name_that_is_too_long_is_a_failure(path: Path) -> None:
    fails(spec(path.parent / ("x" * 256)), because="File name too long")


def test_sweep_removes_only_the_temporary_file_of_a_killed_run(old: Path) -> None:
    left = old.parent / ".x.0123456789abcdef.tmp"
    others = [
        ".y.0123456789abcdef.tmp",
        ".x.tmp",
        ".x.0123456789abcdef.tmp.bak",
        "x.0123456789abcdef.tmp",
        "..x.0123456789abcdef.tmp",
    ]
    for name in (left.name, *others):
        (old.parent / name).write_text("half a tok")
    SINK.sweep([spec(old)])
    assert sorted(os.listdir(old.parent)) == sorted([*others, "x"])
    assert old.read_text() == f"{OLD}\n"


@pytest.mark.parametrize("length", [1, 255])
def test_sweep_keeps_a_temporary_file_that_a_process_still_writes(path: Path, length: int) -> None:
    token = path.parent / ("x" * length)
    left = path.parent / f".{token.name[:200]}.0123456789abcdef.tmp"
    with left.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        SINK.sweep([spec(token)])
        assert left.exists()
    SINK.sweep([spec(token)])
    assert not left.exists()


# Publishing, watched from outside


def test_mode_owner_and_group_are_set_before_the_file_gets_its_name(path: Path) -> None:
    wanted = spec(path, mode=0o640, owner=str(OTHER_UID), group=str(OTHER_GID))
    seen: set[tuple[int, int, int]] = set()
    done = threading.Event()

    def watch() -> None:
        directory = os.open(path.parent, os.O_RDONLY)
        while not done.is_set():
            try:
                status = os.stat(path.name, dir_fd=directory)
            except FileNotFoundError:
                continue
            seen.add((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))
        os.close(directory)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(300):
        SINK.publish(wanted, token())
        path.unlink()
    SINK.publish(wanted, token())
    while not seen and watcher.is_alive():
        pass
    done.set()
    watcher.join()

    assert seen == {(0o640, OTHER_UID, OTHER_GID)}


def test_a_file_whose_group_cannot_be_set_never_gets_its_name(open_directory: Path) -> None:
    directory = tokens_of_nobody(open_directory)

    # An unprivileged user may only choose one of its own groups.
    def body() -> None:
        wanted = spec(directory / "x", mode=0o640, group="root")
        failure = fails(wanted, because="owner and group of .* cannot be given: this user may not")
        assert failure.hint == "as root, give the file to the service user, or the service user the group"
        assert os.listdir(directory) == []

    apart(body, unprivileged=True)


if ROOT:  # only root can give a file away

    def test_an_existing_file_stays_if_its_owner_cannot_be_kept(
        open_directory: Path,
    ) -> None:
        directory = tokens_of_nobody(open_directory)
        (directory / "x").write_text(f"{OLD}\n")
        (directory / "x").chmod(0o644)

        def body() -> None:
            fails(
                spec(directory / "x"),
                because="owner and group of .* cannot be kept as they are: this user may not",
            )

        apart(body, unprivileged=True)


def test_a_reader_never_sees_a_part_of_a_token_while_it_is_replaced(path: Path) -> None:
    texts = [letter * length for letter, length in zip("abcdefgh", (20, 5000, 300, 9000, 40, 20000, 4096, 1))]
    SINK.publish(spec(path), token(texts[0]))
    whole = {f"{text}\n" for text in texts}
    torn: list[str] = []
    reads = 0
    done = threading.Event()

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            with open(path) as file:
                text = file.read()
            reads += 1
            if text not in whole:
                torn.append(text)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    until(lambda: reads > 0)
    for number in range(200):
        SINK.publish(spec(path), token(texts[number % len(texts)]))
    done.set()
    for reader in readers:
        reader.join()

    assert torn == []
    assert os.listdir(path.parent) == ["x"]


def test_a_reader_that_has_the_old_file_open_reads_the_whole_old_token(old: Path) -> None:
    with open(old) as file:
        assert file.read(3) == OLD[:3]
        SINK.publish(spec(old), token())
        assert file.read() == f"{OLD[3:]}\n"


# A token_path that is not a regular file


def symlink(path: Path) -> None:
    target = path.parent / "target"
    target.write_text("target\n")
    path.symlink_to(target)


def dangling_symlink(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        # Relative to the directory, because a socket's path must be short.
        before = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)
        try:
            bound.bind(path.name)
        finally:
            os.fchdir(before)
            os.close(before)


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "a symbolic link": symlink,
    "a symbolic link to nothing": dangling_symlink,
    "a directory": lambda path: path.mkdir(),
    "a named pipe": lambda path: os.mkfifo(path),
    "a socket": listening_socket,
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_a_path_that_is_not_a_file_is_a_failure_and_stays(path: Path, kind: str) -> None:
    NOT_FILES[kind](path)
    named = kind.replace(" to nothing", "")

    failure = fails(spec(path), because=f"^{path} is {named}, not a file$")

    assert failure.hint == "remove it, or choose another token_path"
    assert SINK.read(spec(path)).found is Found.NOT_A_FILE
    assert SINK.read(spec(path)).problem == f"{named}, not a file"
    with pytest.raises(Local, match=f"is {named}, not a file"):
        SINK.preflight(spec(path))


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_a_failure_and_stays(device: str) -> None:
    with pytest.raises(Local, match=f"^{device} is a device, not a file$"):
        SINK.publish(spec(Path(device)), token())
    assert stat.S_ISCHR(os.stat(device).st_mode)
    assert SINK.read(spec(Path(device))).problem == "a device, not a file"


def test_a_symbolic_link_among_the_parent_directories_is_followed(path: Path) -> None:
    link = path.parent.parent / "link"
    link.symlink_to(path.parent)
    SINK.publish(spec(link / "x"), token())
    assert path.read_text() == f"{NEW}\n"


# Directories that others can write to


def test_preflight_and_publishing_refuse_a_directory_that_others_can_write_to(old: Path) -> None:
    old.parent.chmod(0o777)
    because = f"^others can write to the directory {old.parent}$"
    with pytest.raises(Local, match=because):
        SINK.preflight(spec(old))
    assert fails(spec(old), because=because).hint == f"chmod o-w {old.parent}, or chmod +t {old.parent}"


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o2770, 0o755])
def test_a_directory_is_accepted_if_others_cannot_replace_our_files(old: Path, mode: int) -> None:
    old.parent.chmod(mode)
    SINK.preflight(spec(old))
    SINK.publish(spec(old), token())
    assert old.read_text() == f"{NEW}\n"


if ROOT:  # only root can give a file away

    def test_another_users_file_in_a_directory_for_everyone_is_not_replaced(old: Path) -> None:
        old.parent.chmod(0o1777)
        os.chown(old, OTHER_UID, OTHER_GID)
        because = f"^{old} belongs to nobody, in a directory that everyone can write to$"
        with pytest.raises(Local, match=because):
            SINK.preflight(spec(old))
        assert fails(spec(old), because=because).hint == "remove it, or choose another token_path"
        SINK.publish(spec(old, owner="nobody"), token())
        assert (old.read_text(), old.owner()) == (f"{NEW}\n", "nobody")


def test_a_new_file_is_never_writable_by_everyone(old: Path) -> None:
    old.chmod(0o666)
    assert SINK.publish(spec(old), token()) == (
        f"others can read {old} (mode 0664): chmod 0600, or set mode",
    )
    assert mode_of(old) == 0o664


# Removing


def test_a_token_is_removed(old: Path) -> None:
    SINK.remove(spec(old), SINK.read(spec(old)))
    assert os.listdir(old.parent) == []


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_token_is_removed_even_where_publishing_is_refused(old: Path, mode: int) -> None:
    old.parent.chmod(mode)
    SINK.remove(spec(old), SINK.read(spec(old)))
    assert os.listdir(old.parent) == []


def stays(wanted: TokenSpec, published: Published, *, because: str) -> None:
    path = Path(wanted.path)
    before = path.lstat(), os.listdir(path.parent)
    with pytest.raises(Local, match=because):
        SINK.remove(wanted, published)
    assert (path.lstat()[:7], os.listdir(path.parent)) == (before[0][:7], before[1])


def test_a_token_that_changed_since_it_was_read_is_not_removed(old: Path) -> None:
    before = SINK.read(spec(old))
    SINK.publish(spec(old), token())
    stays(spec(old), before, because=f"^{old} has changed meanwhile$")


@pytest.mark.parametrize("kind", NOT_FILES)
def test_a_path_that_is_not_a_file_is_not_removed(path: Path, kind: str) -> None:
    path.write_text(f"{OLD}\n")
    before = SINK.read(spec(path))
    path.rename(path.parent / "target")
    NOT_FILES[kind](path)
    (path.parent / "target").write_text(f"{OLD}\n")
    stays(spec(path), before, because=f"^{path} has changed meanwhile$")


def test_removing_a_file_that_is_gone_is_a_failure(old: Path) -> None:
    before = SINK.read(spec(old))
    old.unlink()
    with pytest.raises(Local, match=f"^{old} has changed meanwhile$"):
        SINK.remove(spec(old), before)


if ROOT:

    def test_another_users_file_is_removed_only_if_that_user_is_the_configured_owner(
        old: Path,
    ) -> None:
        os.chown(old, OTHER_UID, OTHER_GID)
        before = SINK.read(spec(old))
        stays(spec(old), before, because=f"^{old} belongs to nobody$")
        SINK.remove(spec(old, owner="nobody"), before)
        assert os.listdir(old.parent) == []


def test_a_file_that_cannot_be_removed_is_a_failure_with_the_reason(open_directory: Path) -> None:
    directory = tokens_of_nobody(open_directory)
    path = directory / "x"
    path.write_text(f"{OLD}\n")
    os.chown(path, OTHER_UID, OTHER_GID)
    directory.chmod(0o555)

    def body() -> None:
        stays(spec(path), SINK.read(spec(path)), because=f"^{path} cannot be removed: Permission denied$")

    apart(body, unprivileged=True)


# File systems and directories that prevent publishing


@pytest.mark.parametrize("room", [0, 1, 30_000, 60_000])
def test_a_limit_on_file_sizes_leaves_only_the_old_file(old: Path, room: int) -> None:
    def body() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(Local, match=f"^{old} cannot be written: File too large$"):
            SINK.publish(spec(old), token("x" * 60_000))

    apart(body)
    assert os.listdir(old.parent) == ["x"]
    assert old.read_text() == f"{OLD}\n"


@pytest.mark.parametrize("text", [NEW, "x" * 60_000])
def test_a_full_file_system_leaves_only_the_old_file(tmp_path: Path, text: str) -> None:
    def body() -> None:
        path = tmp_path / "x"
        path.write_text(f"{OLD}\n")
        filler = tmp_path / "filler"
        with suppress_no_space(), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        status = filler.stat()
        with pytest.raises(Local, match=f"^{path} cannot be written: No space left on device$"):
            SINK.publish(spec(path), token(text))
        assert sorted(os.listdir(tmp_path)) == ["filler", "x"]
        assert (path.read_text(), filler.stat().st_size) == (f"{OLD}\n", status.st_size)
        filler.unlink()
        SINK.publish(spec(path), token(text))
        assert path.read_text() == f"{text}\n"

    apart(body, tmpfs={tmp_path: "size=128k"})


@contextmanager
def suppress_no_space() -> Iterator[None]:
    with pytest.raises(OSError, match="No space left on device"):
        yield


def test_a_file_system_without_a_free_inode_leaves_only_the_old_file(tmp_path: Path) -> None:
    def body() -> None:
        path = tmp_path / "x"
        path.write_text(f"{OLD}\n")
        fails(spec(path), because=f"^no file can be made in {tmp_path}: No space left on device$")
        assert path.read_text() == f"{OLD}\n"

    # One for the directory itself, one for the file.
    apart(body, tmpfs={tmp_path: "size=128k,nr_inodes=2"})


def test_preflight_and_publishing_report_a_read_only_file_system(tmp_path: Path) -> None:
    def body() -> None:
        path = tmp_path / "x"
        path.write_text(f"{OLD}\n")
        mount(tmp_path, "remount,ro")
        because = f"^no file can be made in {tmp_path}: Read-only file system$"
        with pytest.raises(Local, match=because):
            SINK.preflight(spec(path))
        hint = fails(spec(path), because=because).hint
        assert hint == f"let this user write to {tmp_path}"
        assert path.read_text() == f"{OLD}\n"

    apart(body, tmpfs={tmp_path: "size=128k"})


@pytest.mark.parametrize("mode", [0o555, 0o600])
def test_preflight_and_publishing_report_a_directory_without_permission(
    open_directory: Path, mode: int
) -> None:
    directory = tokens_of_nobody(open_directory)
    (directory / "x").write_text(f"{OLD}\n")
    (directory / "x").chmod(0o666)
    directory.chmod(mode)

    def body() -> None:
        wanted = spec(directory / "x")
        for attempt in (lambda: SINK.preflight(wanted), lambda: SINK.publish(wanted, token())):
            with pytest.raises(Local, match="Permission denied") as failure:
                attempt()
            assert str(directory) in failure.value.message

    apart(body, unprivileged=True)
    directory.chmod(0o755)
    assert os.listdir(directory) == ["x"]
    assert (directory / "x").read_text() == f"{OLD}\n"


def test_a_directory_that_cannot_be_entered_makes_the_token_unreadable(open_directory: Path) -> None:
    directory = open_directory / "tokens"
    directory.mkdir(mode=0o700)
    (directory / "x").write_text(f"{OLD}\n")
    directory.chmod(0o000)

    def body() -> None:
        published = SINK.read(spec(directory / "x"))
        assert (published.found, published.problem) == (Found.UNREADABLE, "cannot be read: Permission denied")
        with pytest.raises(
            Local, match=f"^the directory {directory} cannot be used: Permission denied$"
        ) as failure:
            SINK.publish(spec(directory / "x"), token())
        command = f"chgrp osg-token-svc {directory}; chmod 0770 {directory}"
        assert failure.value.hint == f"let the user of the service enter and write it: {command}"

    apart(body, unprivileged=True)
    directory.chmod(0o700)
    assert (directory / "x").read_text() == f"{OLD}\n"


def test_a_missing_directory_is_reported_with_the_command_that_creates_it(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for attempt in (
        lambda: SINK.preflight(spec(missing / "x")),
        lambda: SINK.publish(spec(missing / "x"), token()),
    ):
        with pytest.raises(Local, match=f"^there is no directory {missing}$") as failure:
            attempt()
        assert failure.value.hint == f"create it: install -d -m 0770 {missing}"
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_a_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Local, match=f"^the directory {tmp_path}/file cannot be used: Not a directory$"):
        SINK.publish(spec(tmp_path / "file" / "x"), token())


@pytest.mark.parametrize(("option", "what"), [("owner", "user"), ("group", "group")])
def test_an_owner_or_group_that_does_not_exist_is_a_failure(old: Path, option: str, what: str) -> None:
    wanted = spec(old, **{option: "no-such-name"})
    fails(wanted, because=f"^there is no {what} no-such-name on this host$")
    with pytest.raises(Local):
        SINK.preflight(wanted)


def test_preflight_leaves_no_trace(old: Path) -> None:
    before = old.parent.stat().st_mtime_ns
    SINK.preflight(spec(old))
    SINK.preflight(spec(old.parent / "new"))
    assert old.parent.stat().st_mtime_ns == before
    assert os.listdir(old.parent) == ["x"]


# Reading


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b" \n\t\n", "it is empty"),
        (b"two words\n", "it has more than one line or word"),
        (b"two\nlines\n", "it has more than one line or word"),
        (b"\x00\xff\xfe", "characters that a bearer token must not have"),
        (b"x" * 200_000, "it is longer than"),
    ],
)
def test_a_file_without_a_token_is_read_as_such(path: Path, content: bytes, problem: str) -> None:
    path.write_bytes(content)
    published = SINK.read(spec(path))
    assert published.found is Found.NOT_A_TOKEN
    assert re.search(problem, published.problem)


def test_reading_reports_attributes_that_differ_from_the_configuration(old: Path) -> None:
    old.chmod(0o644)
    assert SINK.read(spec(old)).difference is None
    assert SINK.read(spec(old, mode=0o644)).difference is None
    assert SINK.read(spec(old, mode=0o600)).difference == "its mode is 0644, not the configured 0600"
    assert (
        SINK.read(spec(old, owner=str(os.geteuid() + 1))).difference == f"its owner is not {os.geteuid() + 1}"
    )
    assert (
        SINK.read(spec(old, group=str(os.getegid() + 1))).difference == f"its group is not {os.getegid() + 1}"
    )


def test_a_missing_file_or_directory_is_read_as_nothing(path: Path) -> None:
    assert SINK.read(spec(path)).found is Found.NOTHING
    assert SINK.read(spec(path.parent / "missing" / "x")).found is Found.NOTHING
