"""Token files: what may be replaced, by a file with which owner, group and mode."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Optional

from osg_token_renewer import options
from osg_token_renewer.errors import Local
from osg_token_renewer.model import AccessToken, Found, Published, TokenSpec
from osg_token_renewer.options import Option
from osg_token_renewer.sinks import replacement
from osg_token_renewer.sinks.base import Sink
from osg_token_renewer.system import sandbox, trusted_files
from osg_token_renewer.system.users import user_name
from osg_token_renewer.tokens import jwt

_ELSEWHERE = "remove it, or choose another token_path"
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class FileSettings:
    """A token file; None keeps the mode, group or owner of the file that is there."""

    path: str
    mode: Optional[int] = None
    group: Optional[str] = None
    owner: Optional[str] = None


class FileSink(Sink):
    """Publishes a token as a file that holds the token and a newline."""

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
        return _read(spec.destination, spec.path)

    def preflight(self, spec: TokenSpec) -> None:
        directory = os.path.dirname(spec.path)
        with replacement.open_directory(directory) as descriptor:
            _check_place(spec.destination, descriptor)
            replacement.check_writable(directory)
        _find_ids(spec.destination)

    def publish(self, spec: TokenSpec, token: AccessToken) -> tuple[str, ...]:
        to: FileSettings = spec.destination
        content = token.text.reveal().encode("ascii") + b"\n"
        with replacement.open_directory(os.path.dirname(to.path)) as directory:
            old = _check_place(to, directory)
            mode = to.mode
            if mode is None:
                # A file that everyone can write does not hold a trusted token.
                mode = stat.S_IMODE(old.st_mode) & ~stat.S_IWOTH if old else 0o600

            def prepare(file: int) -> None:
                # Nobody may read before owner and group are right, and chown clears set-id bits.
                _give(file, to, old)
                os.fchmod(file, mode)

            replacement.replace_file(to.path, directory, content, prepare)
        if to.mode is None and mode & 0o077:
            return (f"others can read {to.path} (mode {mode:04o}): chmod 0600, or set mode",)
        return ()

    def remove(self, spec: TokenSpec, published: Published) -> None:
        to: FileSettings = spec.destination
        directory, name = os.path.split(to.path)
        with replacement.open_directory(directory) as descriptor:
            if _read(to, name, descriptor).fingerprint != published.fingerprint:
                raise Local(f"{to.path} has changed meanwhile")
            try:
                owner = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid
                if owner not in (os.geteuid(), _find_ids(to)[0]):
                    raise Local(f"{to.path} belongs to {user_name(owner)}")
                os.unlink(name, dir_fd=descriptor)
            except OSError as error:
                raise Local(f"{to.path} cannot be removed: {error.strerror}") from error
            replacement.sync_directory(descriptor)

    def sweep(self, specs: Sequence[TokenSpec]) -> None:
        replacement.remove_abandoned(spec.path for spec in specs)


def _read(to: FileSettings, path: str, directory: Optional[int] = None) -> Published:
    """What is at `path`, relative to an opened directory if there is one."""
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Published(Found.NOT_A_FILE, _describe_kind(status))
            text = os.read(descriptor, jwt.MAX_LENGTH + 2).decode("ascii", "replace")
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return Published(Found.NOTHING, "no file")
    except OSError as error:
        # ENXIO: a socket. ELOOP: a symbolic link, or a circle of links among the parent directories.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            with suppress(OSError):
                status = os.stat(path, dir_fd=directory, follow_symlinks=False)
                return Published(Found.NOT_A_FILE, _describe_kind(status))
        return Published(Found.UNREADABLE, f"cannot be read: {error.strerror}")
    mode = stat.S_IMODE(status.st_mode)
    try:
        token = jwt.parse(text)
    except ValueError as error:
        return Published(Found.NOT_A_TOKEN, f"not a token: {error}", mode=mode)
    return Published(Found.TOKEN, "", token, jwt.fingerprint(text), mode, _find_difference(to, status))


def _describe_kind(status: os.stat_result) -> str:
    return f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file"


def _find_difference(to: FileSettings, status: os.stat_result) -> Optional[str]:
    mode = stat.S_IMODE(status.st_mode)
    if to.mode not in (None, mode):
        return f"its mode is {mode:04o}, not the configured {to.mode:04o}"
    try:
        uid, gid = _find_ids(to)
    except Local:
        # Publishing will report it.
        return None
    if uid not in (None, status.st_uid):
        return f"its owner is not {to.owner}"
    return f"its group is not {to.group}" if gid not in (None, status.st_gid) else None


def _check_place(to: FileSettings, directory: int) -> Optional[os.stat_result]:
    """The status of the file to be replaced; raises Local if it is no file, or if others can replace it."""
    where = os.fstat(directory)
    if trusted_files.is_open_to_all(where):
        path = os.path.dirname(to.path)
        raise Local(f"others can write to the directory {path}", f"chmod o-w {path}, or chmod +t {path}")
    try:
        status = os.stat(os.path.basename(to.path), dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Local(f"{to.path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise Local(f"{to.path} is {_describe_kind(status)}", _ELSEWHERE)
    ours = trusted_files.is_trusted_user(status.st_uid) or status.st_uid == _find_ids(to)[0]
    if where.st_mode & stat.S_IWOTH and not ours:
        owner = user_name(status.st_uid)
        raise Local(f"{to.path} belongs to {owner}, in a directory that everyone can write to", _ELSEWHERE)
    return status


def _give(file: int, to: FileSettings, old: Optional[os.stat_result]) -> None:
    """Gives the new file to the configured owner and group, else to those of the old file."""
    uid, gid = _find_ids(to)
    now = os.fstat(file)
    keep = old or now
    owner = keep.st_uid if uid is None else uid
    group = keep.st_gid if gid is None else gid
    if (owner, group) == (now.st_uid, now.st_gid):
        return
    try:
        os.chown(file, -1 if owner == now.st_uid else owner, -1 if group == now.st_gid else group)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        verb = "given" if to.owner or to.group or old is None else "kept as they are"
        hint = "as root, give the file to the service user, or the service user the group"
        # EINVAL: the service's user namespace does not map the id (user_namespaces(7)).
        foreign = error.errno == errno.EINVAL and owner == now.st_uid
        if foreign and (opening := sandbox.foreign_groups()):
            hint = f"give the service user the group, and let the service's unit know it: {opening}"
        raise Local(f"owner and group of {to.path} cannot be {verb}: this user may not", hint) from error


def _find_ids(to: FileSettings) -> tuple[Optional[int], Optional[int]]:
    """The numbers of the configured owner and group, None if not configured; raises Local."""
    uid = _find_id(to.owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
    gid = _find_id(to.group, "group", lambda name: grp.getgrnam(name).gr_gid)
    return uid, gid


def _find_id(name: Optional[str], what: str, look_up: Callable[[str], int]) -> Optional[int]:
    if name is None:
        return None
    try:
        return look_up(name)
    except KeyError:
        if name.isdecimal() and name.isascii():
            return int(name)
        hint = "create it, or correct owner and group of this token"
        raise Local(f"there is no {what} {name} on this host", hint) from None
