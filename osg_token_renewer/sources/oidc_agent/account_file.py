"""oidc-agent's file of one account: the only place where its refresh token is.

An agent truncates and rewrites it whenever the issuer rotates the refresh token, and reports success even
when that write failed. So the agent works on a copy; the file itself is held while an agent has the account,
room for it is proven before, it is written after each request by this program, and a copy of the last
complete one is kept."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import Local, Unavailable
from osg_token_renewer.sources.base import Begin, at_any_time
from osg_token_renewer.system import locks, private_directories
from osg_token_renewer.system.users import User

log = logging.getLogger(__name__)

# The first and the last line of a complete file, 4.2.6 to 5.3; it is written front to back.
_FIRST_LINE = re.compile(rb"\A\d+\n")
_LAST_LINE = re.compile(rb"\nGenerated using version: \d+\.\d+\.\d+\S*\s*\Z")
# What a new refresh token may be longer than the old one.
_GROWTH = 4096
_LARGEST = 1024 * 1024
# In an agent's directory: what it has as its own, and what the account file was.
_LENT, _BASE = "oidc-agent", "base"
# Seconds before each try to write the account file.
_WRITE_AGAIN = (0.0, 0.0, 1.0, 2.0, 4.0)


def find_path(account: str, user: Optional[User] = None) -> str:
    """Where oidc-agent keeps an account of this user: $OIDC_CONFIG_DIR, ~/.config/oidc-agent if it is there,
    else ~/.oidc-agent."""
    given = os.environ.get("OIDC_CONFIG_DIR")
    if given:
        return os.path.join(os.path.abspath(given), account)
    home = user.home if user else os.path.expanduser("~")
    modern = os.path.join(home, ".config", "oidc-agent")
    return os.path.join(modern if os.path.isdir(modern) else os.path.join(home, ".oidc-agent"), account)


def fingerprint(account: str) -> Optional[str]:
    """A digest of the account's file, which changes with its refresh token; None where there is no such
    file."""
    try:
        return _digest(read(find_path(account))).decode("ascii")
    except OSError:
        return None


@contextmanager
def hold_account(
    where: str, account: str, wait: float, begin: Begin = at_any_time
) -> Iterator[Optional[int]]:
    """Holds the account file; yields its descriptor, or None where there is no file.

    It stays held until every process that inherited the descriptor has ended: a program that was killed
    leaves its agent behind for as long as a request is under way. Raises Unavailable when somebody else still
    has it after `wait` seconds, Local, and what `begin` does."""
    try:
        descriptor = locks.open_to_inherit(where)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise Local(
            f"the account file {where} cannot be read: {error.strerror}", "it must be the service user's own"
        ) from error
    try:
        deadline = time.monotonic() + wait
        if not locks.take_lock(descriptor):
            log.info("account %s: waiting for the run or the login that has it to finish", account)
        while not locks.take_lock(descriptor):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"account {account} is in use by another run or login, still after {wait:.0f} s",
                    f"wait for it to end, or see who has it: fuser -v {where}",
                )
            time.sleep(0.05)
            with begin(0.0):
                pass
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def guard_account(account: str, copy: str, wait: float, begin: Begin = at_any_time) -> Iterator[Guard]:
    """Holds the account file, proves that it can be rewritten, and looks at it for the last time; raises
    Unavailable or Local.

    `copy` is where the copy of the last complete file is kept, `wait` the seconds that another agent may
    still have the account."""
    where = find_path(account)
    with hold_account(where, account, wait, begin) as descriptor:
        guard = Guard(account, where, copy, () if descriptor is None else (descriptor,))
        try:
            guard.prepare()
            yield guard
        finally:
            guard.close()


class Guard:
    """Stands between an account file and the agent that has the account. Where there is no file, there is
    nothing to guard.

    The agent is lent a copy, so that what it does to its file, at whatever moment, is not done to the only
    one; what it made of it is taken back by writing into blocks that the file has already. `descriptors` are
    for the agent to inherit: with them it holds the file. `room` is a file that keeps room for what might not
    fit into those blocks; `lent` is where the agent's copy is. An empty `copy` keeps none."""

    def __init__(self, account: str, where: str, copy: str, descriptors: Sequence[int]) -> None:
        self.descriptors = descriptors
        self.path = where
        self.room = os.path.join(os.path.dirname(where), f".{account}.room")
        self.lent: Optional[str] = None
        self.account = account
        self.remedy = f"if the issuer refuses it, run: osg-token-renewer-setup --reauthenticate {account}"
        self._copy = copy
        # Beside the copy, when it is newer than the account file: the digest of that file.
        self._newer = f"{copy}.newer"
        # What the account file holds, and what its copy holds.
        self._content = b""
        self._kept: Optional[bytes] = None
        self._waits: Sequence[float] = _WRITE_AGAIN
        # In the agent's directory: what the account file held when this program last saw it, and room for the
        # agent's copy.
        self._base = self._spare = ""

    def prepare(self) -> None:
        """Makes sure that the file is complete, a copy is kept, and there is room to rewrite it; raises Local
        otherwise."""
        if not self.descriptors:
            return
        self._content = self._read()
        if is_damaged(self._content):
            self._content = self._put_back("is damaged")
        elif self._outdated():
            self._content = self._put_back("could not be written by an earlier run")
        with suppress(OSError):
            os.unlink(self._newer)
        self._keep(self._content)
        try:
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, os.strerror(13))
            write(self.room, os.urandom(len(self._content) + _GROWTH))
        except OSError as error:
            self._release()
            raise Local(
                f"the account file {self.path} could not be rewritten ({error.strerror}): the refresh token was not used",
                f"make room in {os.path.dirname(self.path)}, and let the service user write there",
            ) from error

    def lend(self, directory: str) -> dict[str, str]:
        """Makes a directory for oidc-agent with a copy of the file, in this private one; returns the
        environment that names it.

        Whatever else oidc-agent keeps beside the file is there as well, as a link. Raises Local."""
        if not self.descriptors:
            return {}
        made = os.path.join(directory, _LENT)
        lent = os.path.join(made, self.account)
        self._base, self._spare = os.path.join(directory, _BASE), os.path.join(directory, "room")
        try:
            os.mkdir(made, 0o700)
            for name in self._beside():
                os.symlink(
                    os.path.join(os.path.dirname(os.path.abspath(self.path)), name), os.path.join(made, name)
                )
            if self._content:
                write(lent, self._content)
                write(self._base, self._content)
            write(self._spare, os.urandom(len(self._content) + _GROWTH))
        except OSError as error:
            raise Local(
                f"no directory for oidc-agent can be made in {directory}: {error.strerror}", "see runtime_dir"
            ) from error
        self.lent = lent
        return {"OIDC_CONFIG_DIR": made}

    @property
    def watched(self) -> str:
        """What is taken back when this program was killed; empty where nothing is."""
        return self.lent or ""

    def _beside(self) -> set[str]:
        """oidc-agent's own files there, not other accounts'."""
        return {name for name in os.listdir(os.path.dirname(self.path)) if name.endswith(".config")} - {
            self.account
        }

    def take_back(self) -> bool:
        """Writes what the agent made of its copy to the account file; false if the agent did not write that
        whole."""
        if self.lent is None:
            return True
        try:
            content = read(self.lent)
        except OSError:
            return False
        if is_damaged(content):
            return False
        if content != self._content:
            # First: as long as the account file is being written, this is the complete one.
            self._keep(content)
            self._rewrite(content)
        return True

    def _rewrite(self, content: bytes) -> None:
        why = ""
        for wait in self._waits:
            time.sleep(wait)
            try:
                overwrite(self.path, content)
            except OSError as error:
                why = error.strerror or str(error)
                self._release()
            else:
                self._content = content
                with suppress(OSError):
                    write(self._base, content)
                return
        # To have waited once is enough.
        self._waits = (0.0,)
        self._not_written(content, why)

    def _not_written(self, content: bytes, why: str) -> None:
        """The account file cannot be written for good (read-only by now): the copy is put back by the next
        run that can."""
        with suppress(OSError):
            write(self._newer, _digest(self._content))
        if self._kept == content:
            then = f"the new refresh token is in {self._copy}, and the next run that can write the file puts it there"
        else:
            then = f"the new refresh token is lost when this run ends; {self.remedy}"
        log.error("account %s: its file %s cannot be written (%s): %s", self.account, self.path, why, then)

    def mend(self) -> None:
        """Gives the agent a complete file again: it reads the one that it has before it writes a new refresh
        token."""
        if self.lent is None:
            return
        try:
            if not is_damaged(read(self.lent)):
                return
            with suppress(FileNotFoundError):
                os.unlink(self._spare)
            write(self.lent, self._content)
        except OSError as error:
            log.warning("account %s: %s cannot be written: %s", self.account, self.lent, error.strerror)

    def _release(self) -> None:
        """Gives back the room that was kept for the file."""
        with suppress(OSError):
            os.unlink(self.room)

    def close(self) -> None:
        """To be called when the agent has ended and what it had was taken back: the last look at the file.
        Never raises."""
        if not self.descriptors:
            return
        self._release()
        with suppress(Local):
            if is_damaged(self._read()):
                self._put_back("is damaged")

    def _read(self) -> bytes:
        try:
            return read(self.path)
        except OSError as error:
            raise Local(f"the account file {self.path} cannot be read: {error.strerror}") from error

    def _keep(self, content: bytes) -> None:
        """A copy that cannot be kept is a warning: the account itself is well."""
        if not self._copy or not _complete(content) or content == self._kept:
            return
        try:
            private_directories.ensure_writable(os.path.dirname(self._copy))
            if not os.path.exists(self._copy) or read(self._copy) != content:
                _replace(self._copy, content)
            self._kept = content
        except OSError as error:
            log.warning(
                "account %s: no copy of its file can be kept in %s: %s",
                self.account,
                self._copy,
                error.strerror,
            )

    def _outdated(self) -> bool:
        """Whether the copy was made to follow this very file, and the file could not be written then."""
        try:
            return read(self._newer) == _digest(self._content) and _complete(read(self._copy))
        except OSError:
            return False

    def _put_back(self, why: str) -> bytes:
        """The copy, in place of the file that is damaged or outdated; raises Local where there is none."""
        try:
            content = read(self._copy)
        except OSError as error:
            raise Local(
                f"the account file {self.path} {why} and there is no copy of it",
                f"remove it and register the account anew: osg-token-renewer-setup {self.account}",
            ) from error
        try:
            # In place: the file itself is what is held.
            write(self.path, content)
        except OSError as error:
            raise Local(
                f"the account file {self.path} {why}, and its copy {self._copy} cannot be put back: {error.strerror}",
                f"make room in {os.path.dirname(self.path)}: the next run puts it back",
            ) from error
        log.error(
            "account %s: its file %s %s; the copy of the last complete one was put back; %s",
            self.account,
            self.path,
            why,
            self.remedy,
        )
        return content


def rescue(directory: str) -> bool:
    """Takes back what an agent made of an account file when neither its program nor its watcher lived to do
    it.

    `directory` is what `lend` was given; false if something in it could not be saved. Only what is complete
    is taken back, and only where the account file is damaged or still what it was then."""
    try:
        base = read(os.path.join(directory, _BASE))
        names = [name for name in os.listdir(os.path.join(directory, _LENT)) if not name.endswith(".config")]
        for name in names:
            content = read(os.path.join(directory, _LENT, name))
            with hold_account(find_path(name), name, 0.0) as descriptor:
                if descriptor is None or content == base or not _complete(content):
                    continue
                now = read(find_path(name))
                if now == base or is_damaged(now):
                    overwrite(find_path(name), content)
                    log.warning(
                        "account %s: took back what the oidc-agent of a run that was killed had written", name
                    )
    except FileNotFoundError:
        return True
    except (OSError, Local, Unavailable) as error:
        why = getattr(error, "strerror", None) or error
        log.error(
            "%s: the account file in it cannot be taken back (%s): it stays there, and the next run tries again",
            directory,
            why,
        )
        return False
    return True


def _digest(content: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(content).hexdigest().encode("ascii")


def _complete(content: bytes) -> bool:
    return _LAST_LINE.search(content) is not None


def is_damaged(content: bytes) -> bool:
    """Whether it is the beginning of an account file, or nothing. What is neither complete nor that may be of
    a later version."""
    written = content.strip(b"\0 \n")
    return (
        not written
        or written.isdigit()
        or (_FIRST_LINE.match(content) is not None and not _complete(content))
    )


def read(where: str) -> bytes:
    with open(where, "rb") as file:
        return file.read(_LARGEST)


def write(where: str, content: bytes) -> None:
    descriptor = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def overwrite(where: str, content: bytes) -> None:
    """Without truncating it first: a full disk has no room but what the file has already."""
    descriptor = os.open(where, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.pwrite(descriptor, content, 0) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(where: str, content: bytes) -> None:
    temporary = f"{where}.new"
    try:
        write(temporary, content)
        os.replace(temporary, where)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
