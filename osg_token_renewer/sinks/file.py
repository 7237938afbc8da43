"""Token files: reading them, and replacing them so that a reader sees the old token or the new one, never
less.

Works relative to an opened directory; a symbolic link at the last step is never followed."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Optional

from osg_token_renewer import options
from osg_token_renewer.errors import Local
from osg_token_renewer.model import AccessToken, Found, Published, TokenSpec
from osg_token_renewer.options import Option
from osg_token_renewer.sinks.base import Sink
from osg_token_renewer.system import locks, sandbox, trusted_files
from osg_token_renewer.system.users import user_name
from osg_token_renewer.tokens import jwt

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
_ELSEWHERE = "remove it, or choose another token_path"
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True)
class FileSettings:
    """Where the file is, and what it is to be like; None keeps what the file has."""

    path: str
    mode: Optional[int] = None
    group: Optional[str] = None
    owner: Optional[str] = None


class FileSink(Sink):
    """Publishes a token as a file with the token and a newline."""

    NAME = "file"
    MARKER = "token_path"
    OPTIONS = (
        Option("token_path", options.absolute_path, required=True),
        Option("mode", options.mode),
        Option("group", options.owner),
        Option("owner", options.owner),
    )

    def settings(self, values: Mapping[str, Any]) -> FileSettings:
        return FileSettings(values["token_path"], values["mode"], values["group"], values["owner"])

    def read(self, spec: TokenSpec) -> Published:
        return _read(spec.destination, spec.path, None)

    def preflight(self, spec: TokenSpec) -> None:
        """Raises Local when publishing cannot succeed: no issuer need be asked for a token that would have no
        place."""
        to: FileSettings = spec.destination
        directory = os.path.dirname(to.path)
        with _opened(directory) as descriptor:
            _place(to, descriptor)
            if not os.access(directory, os.W_OK | os.X_OK):
                # Asked of the system, so that a read-only file system says so.
                raise _not_writable(directory, errno.EROFS if _read_only(directory) else errno.EACCES)
        _ids(to)

    def publish(self, spec: TokenSpec, token: AccessToken) -> tuple[str, ...]:
        """Replaces the file at `to.path` by the token and a newline; returns warnings.

        Raises Local; the old file is then untouched and no temporary file remains.
        """
        to: FileSettings = spec.destination
        directory, name = os.path.split(to.path)
        with _opened(directory) as descriptor:
            old = _place(to, descriptor)
            wanted = _attributes(to, old)
            with _temporary(descriptor, directory, name) as (temporary, file):
                try:
                    _apply(wanted, old, file, to)
                    _write(file, token.text.reveal().encode("ascii") + b"\n")
                    os.replace(temporary, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
                except OSError as error:
                    raise Local(
                        f"{to.path} cannot be written: {error.strerror}", _mended_by(directory, error.errno)
                    ) from error
            with suppress(OSError):
                # The new name is there; whether the directory survives a power cut is all that this could still
                # tell.
                os.fsync(descriptor)
        if to.mode is None and old is not None and wanted.mode & 0o077:
            return (f"others can read {to.path} (mode {wanted.mode:04o}): chmod 0600, or set mode",)
        return ()

    def remove(self, spec: TokenSpec, published: Published) -> None:
        """Takes the token away that was read as `published`.

        Raises Local when it stays: it is another by now, it belongs to somebody else, or the file system does not
        let it."""
        to: FileSettings = spec.destination
        directory, name = os.path.split(to.path)
        with _opened(directory) as descriptor:
            if _read(to, name, descriptor).fingerprint != published.fingerprint:
                raise Local(f"{to.path} is another by now")
            try:
                owner = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid
                if owner not in (os.geteuid(), _ids(to)[0]):
                    raise Local(f"{to.path} belongs to {user_name(owner)}")
                os.unlink(name, dir_fd=descriptor)
            except OSError as error:
                raise Local(f"{to.path} cannot be removed: {error.strerror}") from error
            with suppress(OSError):
                os.fsync(descriptor)

    def sweep(self, specs: Sequence[TokenSpec]) -> None:
        """Removes the temporary files that a program left which was killed while it published these tokens."""
        names: dict[str, set[str]] = {}
        for spec in specs:
            directory, name = os.path.split(spec.path)
            names.setdefault(directory, set()).add(_cut(name))
        for directory, cut in names.items():
            with suppress(OSError), os.scandir(directory) as entries:
                left = [
                    entry
                    for entry in entries
                    if (found := _TEMPORARY.fullmatch(entry.name)) and found[1] in cut
                ]
                for entry in left:
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        _remove_abandoned(entry.path)


def _read(to: FileSettings, path: str, directory: Optional[int]) -> Published:
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except FileNotFoundError:
        return Published(Found.NOTHING, "no file")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            # A circle of symbolic links on the way to the file is ELOOP too.
            with suppress(OSError):
                return _not_a_file(os.stat(path, dir_fd=directory, follow_symlinks=False))
        return Published(Found.UNREADABLE, f"cannot be read: {error.strerror}")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return _not_a_file(status)
        text = os.read(descriptor, jwt.MAX_LENGTH + 2).decode("ascii", "replace")
    except OSError as error:
        return Published(Found.UNREADABLE, f"cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    try:
        token = jwt.parse(text)
    except ValueError as error:
        return Published(Found.NOT_A_TOKEN, f"not a token: {error}", mode=mode)
    return Published(Found.TOKEN, "", token, jwt.fingerprint(text), mode, _difference(to, status))


@dataclass(frozen=True)
class _Attributes:
    """What the new file is to have; None leaves it as it is created."""

    mode: int
    uid: Optional[int]
    gid: Optional[int]


def _difference(to: FileSettings, status: os.stat_result) -> Optional[str]:
    mode = stat.S_IMODE(status.st_mode)
    if to.mode not in (None, mode):
        return f"its mode is {mode:04o}, not the configured {to.mode:04o}"
    if to.owner is None and to.group is None:
        return None
    try:
        uid, gid = _ids(to)
    except Local:
        # Publishing will say so.
        return None
    if uid not in (None, status.st_uid):
        return f"its owner is not {to.owner}"
    return f"its group is not {to.group}" if gid not in (None, status.st_gid) else None


def _attributes(to: FileSettings, old: Optional[os.stat_result]) -> _Attributes:
    uid, gid = _ids(to)
    if old is not None:
        uid = old.st_uid if uid is None else uid
        gid = old.st_gid if gid is None else gid
    # What everyone could write to would not stay a token for long.
    mode = (
        to.mode
        if to.mode is not None
        else 0o600
        if old is None
        else stat.S_IMODE(old.st_mode) & ~stat.S_IWOTH
    )
    return _Attributes(mode, uid, gid)


def _apply(wanted: _Attributes, old: Optional[os.stat_result], file: int, to: FileSettings) -> None:
    """Owner and group first: changing them clears set-id bits, and nobody may read before they are right."""
    have = os.fstat(file)
    uid = -1 if wanted.uid in (None, have.st_uid) else wanted.uid
    gid = -1 if wanted.gid in (None, have.st_gid) else wanted.gid
    if (uid, gid) != (-1, -1):
        try:
            os.chown(file, -1 if uid is None else uid, -1 if gid is None else gid)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            verb = "given" if to.owner or to.group or old is None else "kept as they are"
            hint = "as root, give the file to the service user, or the service user the group"
            # EINVAL: the service's user namespace does not know the id (user_namespaces(7)).
            opening = sandbox.foreign_groups() if error.errno == errno.EINVAL and uid == -1 else None
            if opening is not None:
                hint = f"give the service user the group, and let the service's unit know it: {opening}"
            raise Local(f"owner and group of {to.path} cannot be {verb}: this user may not", hint) from error
    os.fchmod(file, wanted.mode)


def _ids(to: FileSettings) -> tuple[Optional[int], Optional[int]]:
    return (
        _id(to.owner, "user", lambda name: pwd.getpwnam(name).pw_uid),
        _id(to.group, "group", lambda name: grp.getgrnam(name).gr_gid),
    )


def _id(name: Optional[str], what: str, look_up: Callable[[str], int]) -> Optional[int]:
    if name is None:
        return None
    try:
        return look_up(name)
    except KeyError:
        if name.isdecimal() and name.isascii():
            return int(name)
        raise Local(
            f"there is no {what} {name} on this host", "create it, or correct owner and group of this token"
        ) from None


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if sandbox.hides(directory):
            what = (
                f"the service's unit hides the directory {directory}, or it cannot be used: {error.strerror}"
            )
            raise Local(what, f"let the service see it: {sandbox.opening(directory)}") from error
        if isinstance(error, FileNotFoundError):
            raise Local(
                f"there is no directory {directory}", f"create it: install -d -m 0770 {directory}"
            ) from error
        hint = f"let the user of the service enter and write it: chgrp osg-token-svc {directory}; chmod 0770 {directory}"
        raise Local(f"the directory {directory} cannot be used: {error.strerror}", hint) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _place(to: FileSettings, directory: int) -> Optional[os.stat_result]:
    """What stands at the path now, None if nothing; raises Local if it is not a regular file, or others may
    put there what they like."""
    shared = os.fstat(directory)
    if trusted_files.is_open_to_all(shared):
        where = os.path.dirname(to.path)
        raise Local(f"others can write to the directory {where}", f"chmod o-w {where}, or chmod +t {where}")
    try:
        status = os.stat(os.path.basename(to.path), dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Local(f"{to.path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise Local(f"{to.path} is {_kind(status)}, not a file", _ELSEWHERE)
    if (
        shared.st_mode & stat.S_IWOTH
        and not trusted_files.is_trusted_user(status.st_uid)
        and status.st_uid != _ids(to)[0]
    ):
        raise Local(
            f"{to.path} belongs to {user_name(status.st_uid)}, in a directory that everyone can write to",
            _ELSEWHERE,
        )
    return status


@contextmanager
def _temporary(directory: int, path: str, name: str) -> Iterator[tuple[str, int]]:
    """A new file beside the one to be replaced, and its descriptor; gone afterwards unless it was given that
    one's name."""
    import secrets

    temporary = f".{_cut(name)}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(temporary, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise _not_writable(path, error.errno) from error
    try:
        # Another run can tell it from one that was left behind.
        locks.take_lock(file)
        yield temporary, file
    except BaseException:
        # Whoever lost the permission to remove the file can still take its content away.
        with suppress(OSError):
            os.ftruncate(file, 0)
        raise
    finally:
        os.close(file)
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)


def _remove_abandoned(path: str) -> None:
    """Removes a file unless a process has taken it."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if locks.take_lock(file):
            os.unlink(path)
    finally:
        os.close(file)


def _cut(name: str) -> str:
    """So that with more around it, it is a legal name where `name` is: the limit of 255 is in bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)


def _not_a_file(status: os.stat_result) -> Published:
    return Published(Found.NOT_A_FILE, f"{_kind(status)}, not a file")


def _kind(status: os.stat_result) -> str:
    return next((name for fits, name in _KINDS if fits(status.st_mode)), "something else")


def _read_only(directory: str) -> bool:
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _not_writable(directory: str, number: Optional[int]) -> Local:
    return Local(
        f"no file can be made in {directory}: {os.strerror(number or errno.EACCES)}",
        _mended_by(directory, number),
    )


def _mended_by(directory: str, number: Optional[int]) -> Optional[str]:
    """What lets files be written there again, where the error says it."""
    opening = sandbox.opening(directory) if number == errno.EROFS else None
    if opening is not None:
        return f"if the service's unit forbids it: {opening}"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"let this user write to {directory}"
    return (
        f"make room there: df {directory}; df -i {directory}"
        if number in (errno.ENOSPC, errno.EDQUOT)
        else None
    )
