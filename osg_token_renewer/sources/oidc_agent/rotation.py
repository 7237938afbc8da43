"""Saves rotated refresh tokens: what stands between an account file and the oidc-agent that uses it.

An agent truncates and rewrites the account file whenever the issuer rotates the refresh token, and reports
success even when that write failed. So an agent never has the file itself, but a copy in a private directory.
Before the refresh token is used, this program proves that it can rewrite the account file. After each request
it saves what the agent wrote. It also keeps a copy of the last complete file in the state directory.

While a run has an account, two files stand beside the account file: `.ACCOUNT.room` reserves what the account
file may grow by, and the link `.ACCOUNT.lent` tells where the agent's directory is. If the run is killed, the
next one finds the agent's directory by it, and saves what the agent wrote.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import Local, Refused, Unavailable
from osg_token_renewer.sources.base import Begin, at_any_time
from osg_token_renewer.sources.oidc_agent import account_file
from osg_token_renewer.sources.oidc_agent.account_file import is_damaged, read
from osg_token_renewer.system import private_directories

log = logging.getLogger(__name__)

# Bytes by which a new refresh token may be longer than the old one.
_GROWTH = 4096
# Seconds before each try to write the account file.
_WRITE_AGAIN = (0.0, 0.0, 1.0, 2.0, 4.0)


class Lent:
    """What oidc-agent gets in the private `directory`: a copy of the account file at `path`, and links to
    what else oidc-agent keeps beside it."""

    def __init__(self, directory: str, path: str) -> None:
        self.path = path
        self.directory = os.path.join(directory, "oidc-agent")
        self.copy = os.path.join(self.directory, os.path.basename(path))
        # The digest of the account file that the copy comes from.
        self.base = os.path.join(directory, "base")
        self.reserve = os.path.join(directory, "room")
        # A link to the account file: whoever rescues the directory may have another home.
        self.origin = os.path.join(directory, "account")
        # The digest of what this program wrote to the account file last.
        self._written = b""

    def make(self, content: bytes, also: Sequence[str] = ()) -> None:
        """Makes the directory; `content` is that of the account file, empty if there is none yet. oidc-agent
        may create the files `also` beside the account file. Raises Local."""
        beside = os.path.dirname(self.path)
        try:
            os.mkdir(self.directory, 0o700)
            linked = {*also, *(name for name in os.listdir(beside) if name.endswith(".config"))}
            for name in linked - {os.path.basename(self.path)}:
                os.symlink(os.path.join(beside, name), os.path.join(self.directory, name))
            os.symlink(self.path, self.origin)
            account_file.write(self.base, account_file.digest(content))
            if content:
                account_file.write(self.copy, content)
            account_file.write_reserve(self.reserve, len(content) + _GROWTH)
        except OSError as error:
            parent = os.path.dirname(self.directory)
            what = f"no directory for oidc-agent can be made in {parent}: {error.strerror}"
            raise Local(what, private_directories.ELSEWHERE) from error

    def save_rotated(self, content: bytes) -> bool:
        """Writes what the agent made of its copy to the account file, whose lock the caller holds; returns
        whether that was necessary. Raises OSError, after which the same call may be repeated."""
        now = read(self.path)
        if now != content:
            # If somebody else has replaced it since it was lent, it has a newer login, and stays.
            if account_file.digest(now) not in (read(self.base), self._written) and not is_damaged(now):
                return False
            account_file.overwrite(self.path, content)
            self._written = account_file.digest(content)
        # Of constant size, so that a full disk does not prevent it.
        account_file.overwrite(self.base, account_file.digest(content))
        return now != content


def rescue(directory: str) -> bool:
    """Saves what a killed run's agent left in its `directory`; false if that fails for now. Never raises."""
    try:
        path = os.readlink(Lent(directory, "").origin)
        with account_file.lock_account(path, os.path.basename(path), 0.0):
            _save_left(directory, path)
    except (FileNotFoundError, Refused):
        # There is nothing in it, or the account was removed.
        return True
    except (OSError, Local, Unavailable) as error:
        why = f"cannot be saved yet ({getattr(error, 'strerror', None) or error}): the next run tries again"
        log.error("%s: the account file in it %s", directory, why)
        return False
    return True


def _save_left(directory: str, path: str) -> None:
    lent = Lent(directory, path)
    content = read(lent.copy)
    if not is_damaged(content) and lent.save_rotated(content):
        account = os.path.basename(path)
        log.warning("account %s: saved what the oidc-agent of a killed run had written", account)


@contextmanager
def hold_account(account: str, copy: str, wait: float, begin: Begin = at_any_time) -> Iterator[HeldAccount]:
    """Locks an account for a run; waits and raises as `lock_account`. Its file is then complete, and can be
    rewritten. `copy` is where the copy of the last complete file is kept."""
    path = account_file.find_path(account)
    with account_file.lock_account(path, account, wait, begin) as lock:
        held = HeldAccount(account, path, lock, copy)
        try:
            held._prepare()
            yield held
        finally:
            held._release_room()
            with suppress(Local):
                held._repair()


class HeldAccount:
    """An account that this run has, and its file. `lock` is a descriptor for the agent to inherit."""

    def __init__(self, account: str, path: str, lock: int, copy: str) -> None:
        self.lock = lock
        self._account = account
        self._path = path
        self._copy = copy
        # If the account file could not be written: the digest of what it held when the copy became newer.
        self._newer = f"{copy}.newer"
        beside = os.path.join(os.path.dirname(path), f".{account}")
        self._room, self._note = f"{beside}.room", f"{beside}.lent"
        # What the account file holds, and what the copy holds.
        self._content = b""
        self._kept: Optional[bytes] = None
        self._waits: Sequence[float] = _WRITE_AGAIN
        self._make_room = f"make room in {os.path.dirname(path)}"
        self._remedy = f"if the issuer refuses it, run: osg-token-renewer-setup --reauthenticate {account}"

    def _prepare(self) -> None:
        """Raises Local unless the file is complete, and can be rewritten whatever happens to the disk."""
        self._repair()
        self._keep(self._content)
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            account_file.write_reserve(self._room, len(self._content) + _GROWTH)
        except OSError as error:
            raise self._not_rewritable(error) from error

    def _not_rewritable(self, error: OSError) -> Local:
        what = f"the account file {self._path} could not be rewritten ({error.strerror})"
        hint = f"{self._make_room}, and let the service user write there"
        return Local(f"{what}: the refresh token was not used", hint)

    def _release_room(self) -> None:
        with suppress(OSError):
            os.unlink(self._room)

    @contextmanager
    def lend(self, directory: str) -> Iterator[Lent]:
        """Makes what an agent gets, in its private `directory`. Leave this context after the agent has ended.
        On exit, what it wrote is taken back for the last time. Raises Local."""
        lent = Lent(directory, self._path)
        lent.make(self._content)
        try:
            os.symlink(directory, self._note)
        except OSError as error:
            raise self._not_rewritable(error) from error
        try:
            yield lent
        finally:
            if not self.take_back(lent):
                why = "its agent did not write its file whole: a new refresh token may be lost"
                log.error("account %s: %s; %s", self._account, why, self._remedy)
            with suppress(OSError):
                os.unlink(self._note)

    def take_back(self, lent: Lent) -> bool:
        """Saves what the agent wrote; false if the agent did not write its copy whole."""
        try:
            content = read(lent.copy)
        except OSError:
            return False
        if is_damaged(content):
            return False
        if content != self._content:
            # First: while the account file is being written, this is the complete one.
            self._keep(content)
            self._save(lent, content)
        return True

    def _save(self, lent: Lent, content: bytes) -> None:
        why = ""
        for wait in self._waits:
            time.sleep(wait)
            try:
                lent.save_rotated(content)
                replaced = read(self._path) != content
            except OSError as error:
                why = error.strerror or str(error)
                self._release_room()
            else:
                self._content = content
                if replaced:
                    what = f"another program wrote its file {self._path} during this run: that login stays"
                    then = f"the refresh token of this run is dropped; {self._remedy}"
                    log.error("account %s: %s, and %s", self._account, what, then)
                return
        # One long wait is enough.
        self._waits = (0.0,)
        with suppress(OSError):
            account_file.write(self._newer, account_file.digest(self._content))
        if self._kept == content:
            then = f"is in {self._copy}, and the next run that can write the file puts it there"
        else:
            then = f"is lost when this run ends; {self._remedy}"
        what = f"its file {self._path} cannot be written ({why}): the new refresh token {then}"
        log.error("account %s: %s", self._account, what)

    def mend(self, lent: Lent) -> None:
        """Gives the agent a complete copy again: the agent reads it before it writes a new refresh token."""
        try:
            if is_damaged(read(lent.copy)):
                with suppress(FileNotFoundError):
                    os.unlink(lent.reserve)
                account_file.write(lent.copy, self._content)
        except OSError as error:
            log.warning("account %s: %s cannot be written: %s", self._account, lent.copy, error.strerror)

    def _repair(self) -> None:
        """Makes sure that the account file is complete, and has the newest refresh token that this host has;
        raises Local."""
        try:
            self._rescue_noted()
        except OSError as error:
            what = f"the account file {self._path} cannot be written ({error.strerror})"
            left = f"what {self._note} leads to, of a killed run, could not be saved"
            raise Local(f"{what}: {left}", f"{self._make_room}: the next run tries again") from error
        try:
            self._content = read(self._path)
        except OSError as error:
            raise Local(f"the account file {self._path} cannot be read: {error.strerror}") from error
        if is_damaged(self._content):
            self._put_back("is damaged")
        elif self._is_outdated():
            self._put_back("could not be written by an earlier run")
        with suppress(OSError):
            os.unlink(self._newer)

    def _rescue_noted(self) -> None:
        """Saves what the agent of a killed run left. Raises OSError if that fails. The account file then
        holds a refresh token that was already used; the issuer would take a second use for theft."""
        import shutil

        # The killed run's: without it, there may be no room to save anything.
        self._release_room()
        if os.path.islink(self._note):
            directory = os.readlink(self._note)
            with suppress(FileNotFoundError, NotADirectoryError):
                # Where everyone may write, another user may have made it anew.
                if os.lstat(directory).st_uid == os.geteuid():
                    _save_left(directory, self._path)
                    shutil.rmtree(directory, ignore_errors=True)
        with suppress(OSError):
            os.unlink(self._note)

    def _keep(self, content: bytes) -> None:
        """Keeps a copy of a complete file. A failure is only a warning: the account itself is well."""
        if not account_file.is_complete(content) or content == self._kept:
            return
        temporary = f"{self._copy}.new"
        try:
            private_directories.ensure_writable(os.path.dirname(self._copy))
            if not os.path.exists(self._copy) or read(self._copy) != content:
                account_file.write(temporary, content)
                os.replace(temporary, self._copy)
            self._kept = content
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            why = f"no copy of its file can be kept in {self._copy}: {error.strerror}"
            log.warning("account %s: %s", self._account, why)

    def _is_outdated(self) -> bool:
        """Whether an earlier run could not write the file, so that the copy is newer than this very file."""
        with suppress(OSError):
            follows = read(self._newer) == account_file.digest(self._content)
            return follows and account_file.is_complete(read(self._copy))
        return False

    def _put_back(self, why: str) -> None:
        """Replaces the file, which is damaged or outdated, by its copy; raises Local."""
        try:
            content = read(self._copy)
        except OSError as error:
            hint = f"remove it and register the account anew: osg-token-renewer-setup {self._account}"
            raise Local(f"the account file {self._path} {why} and there is no copy of it", hint) from error
        try:
            # Not by a new file: the lock is that of this one.
            account_file.overwrite(self._path, content)
        except OSError as error:
            what = f"the account file {self._path} {why}, and its copy {self._copy} cannot be put back"
            hint = f"{self._make_room}: the next run puts it back"
            raise Local(f"{what}: {error.strerror}", hint) from error
        self._content = content
        done = f"its file {self._path} {why}; the copy of the last complete one was put back"
        log.error("account %s: %s; %s", self._account, done, self._remedy)
