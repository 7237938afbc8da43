"""One login at an issuer by oidc-gen: what comes between oidc-gen and the account file.

oidc-gen truncates and rewrites its files as an agent does, and reports success whatever came of it. So it has
a directory of its own. That the account file can be written is proven before anybody is asked to log in, and
this program writes it when there is a whole one. A setup that fails leaves what was there.

Two files stand beside the account file meanwhile: `.ACCOUNT.setup` is the lock, which root's setups and the
service user's share wherever accounts are; `.ACCOUNT.new` reserves room, and becomes a new account's file.
If setup is killed, its agent ends too and the login is dropped, because nobody would learn of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import Local, Unavailable
from osg_token_renewer.sources.oidc_agent import account_file
from osg_token_renewer.sources.oidc_agent.messages import REAUTHENTICATE, SETUP
from osg_token_renewer.sources.oidc_agent.rotation import Lent
from osg_token_renewer.system import locks, users
from osg_token_renewer.system.signals import defer_signals
from osg_token_renewer.system.users import User

log = logging.getLogger(__name__)

# Bytes: more than an account file and oidc-agent's list of issuers need, and enough for an account file.
_ROOM, _ENOUGH = 64 * 1024, 16 * 1024


@contextmanager
def begin_login(account: str, user: Optional[User], wait: Optional[float]) -> Iterator[Login]:
    """Takes an account for one setup, and proves that its file can be written, before anybody is asked for
    anything. On a normal exit, makes sure that there is a whole one. Raises Refused, Unavailable and Local.

    `wait` is for an account that gets a new login: the seconds that a run may still have it. None is for a
    new account, which is removed again if this is left by an exception.
    """
    path = account_file.find_path(account, user)
    with ExitStack() as stack:
        with users.act_as(user):
            if wait is not None and not os.path.exists(path):
                raise account_file.no_account(account)
            with defer_signals():
                lock = stack.enter_context(_lock_setup(account, path, user))
            locked: tuple[int, ...] = (lock,)
            if wait is None:
                _refuse_existing(account, path)
            else:
                locked += (stack.enter_context(account_file.lock_account(path, account, wait)),)
        login = Login(account, path, user, locked, again=wait is not None)
        try:
            login._prepare()
            with login.contexts:
                yield login
                login._finish()
        except BaseException:
            login._undo()
            raise
        finally:
            login._clear()


def _refuse_existing(account: str, path: str) -> None:
    """Raises Local if there is such an account: its refresh token must not be lost by accident."""
    if os.path.lexists(path):
        hint = f"for a new login: {REAUTHENTICATE.format(account=account)}; to start over: remove that file"
        raise Local(f"there is an account {account} already ({path})", hint)


class Login:
    """One setup of an account: lends oidc-gen a directory, and writes the account file.

    `locked` are descriptors for oidc-gen's agent to inherit. `again`: an account that exists gets a new
    login."""

    def __init__(
        self, account: str, path: str, user: Optional[User], locked: Sequence[int], *, again: bool
    ) -> None:
        self.locked = locked
        self.user = user
        # What is entered here is left at the end, with the exception if the setup fails, even then.
        self.contexts = ExitStack()
        self._again = again
        # Whether an account that was there has its new login.
        self.changed = False
        self._account = account
        self._path = path
        self._new = _beside(path, f".{account}.new")
        self._issuers = _beside(path, "issuer.config")
        # The files that are there only during a setup.
        self.temporary = (self._new, _lock_path(account, path))
        self._before = b""
        # What oidc-gen made of the account, and why that could not be written.
        self._made = b""
        self._why: Optional[str] = None
        self._make_room = _make_room(path, user)
        self._then = f"run it again: {(REAUTHENTICATE if again else SETUP).format(account=account)}"
        self._retry = self._then

    def _prepare(self) -> None:
        """Proves that there is room, and the permission, to write the account file; raises Local."""
        try:
            with users.act_as(self.user):
                if self._again:
                    os.close(os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                    self._before = account_file.read(self._path)
                account_file.write_reserve(self._new, _ROOM)
        except OSError as error:
            raise _not_writable(self._path, error, self._make_room) from error
        if self._again and account_file.is_damaged(self._before):
            raise Local(
                f"the account file {self._path} is damaged: there is nothing that could log in again",
                "let a run put its copy back: systemctl start osg-token-renewer.service; "
                f"if there is no copy, remove it and run: {SETUP.format(account=self._account)}",
            )

    @contextmanager
    def lend(self, directory: str) -> Iterator[Lent]:
        """Makes what oidc-gen gets, in this private directory. Leave this context after oidc-gen and its
        agent have ended. On exit, an account that was there has its new login, if there is a whole one."""
        issuers = b""
        # The directory's file system may have been full.
        self._retry = f"make room in {os.path.dirname(directory)}, and {self._then}"
        lent = Lent(directory, self._path)
        with users.act_as(self.user):
            with suppress(OSError):
                issuers = account_file.read(self._issuers)
            lent.make(self._before, also=(os.path.basename(self._issuers),))
        try:
            yield lent
        finally:
            with users.act_as(self.user):
                self._take(lent)
                self._restore_issuers(issuers)

    def _take(self, lent: Lent) -> None:
        with suppress(OSError):
            self._made = account_file.read(lent.copy)
        if not self._again or self._made == self._before or account_file.is_damaged(self._made):
            return
        try:
            self._release_room()
            self.changed = lent.save_rotated(self._made)
        except OSError as error:
            self._why = error.strerror
            with suppress(OSError):
                if account_file.is_damaged(account_file.read(self._path)):
                    account_file.overwrite(self._path, self._before)

    def _restore_issuers(self, issuers: bytes) -> None:
        """oidc-gen truncates and rewrites its list of issuers, and a full disk leaves nothing of it."""
        try:
            if issuers.strip() and not account_file.read(self._issuers).strip():
                self._release_room()
                account_file.overwrite(self._issuers, issuers)
        except OSError as error:
            log.warning("%s was emptied and cannot be put back: %s", self._issuers, error.strerror)

    def _release_room(self) -> None:
        with suppress(OSError):
            os.truncate(self._new, _ENOUGH)

    def _finish(self) -> None:
        """Makes sure that the account is there, and whole; raises Local."""
        with users.act_as(self.user):
            if not self._again:
                self._create()
            elif not self.changed:
                raise self._no_new_login()

    def _no_new_login(self) -> Local:
        state = f"{self._path} is damaged"
        with suppress(OSError):
            if not account_file.is_damaged(account_file.read(self._path)):
                state = "the account is as it was"
        if self._why:
            what = f"the new login could not be written to the account file {self._path} ({self._why})"
            return Local(f"{what}: {state}", f"{self._make_room}, and {self._then}")
        return Local(f"oidc-gen said that all is well, but wrote no new login: {state}", self._retry)

    def _create(self) -> None:
        if account_file.is_damaged(self._made):
            what = "oidc-gen said that all is well, but did not write the account whole"
            raise Local(f"{what}: nothing was set up", self._retry)
        try:
            account_file.overwrite(self._new, self._made)
            # Unlike a rename, this never replaces what somebody else has put there meanwhile.
            os.link(self._new, self._path)
            directory = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError:
            _refuse_existing(self._account, self._path)
        except OSError as error:
            hint = f"{self._make_room}, and {self._then}"
            raise _not_writable(self._path, error, hint, "nothing was set up") from error

    def _undo(self) -> None:
        """Removes the account that this setup made, and no other."""
        with users.act_as(self.user), suppress(OSError):
            # With `again`, the account file is not ours: an earlier setup that was killed left both names.
            if not self._again and os.path.samestat(os.lstat(self._path), os.lstat(self._new)):
                os.unlink(self._path)

    def _clear(self) -> None:
        with users.act_as(self.user), suppress(OSError):
            os.unlink(self._new)


@contextmanager
def _lock_setup(account: str, path: str, user: Optional[User]) -> Iterator[int]:
    """Allows one setup of an account at a time: yields a descriptor, with which a process keeps the lock."""
    lock_path, directory = _lock_path(account, path), os.path.dirname(path)
    made = not os.path.isdir(directory)
    try:
        if made:
            os.mkdir(directory, 0o700)
        lock = _take(account, lock_path)
    except OSError as error:
        raise _not_writable(path, error, _make_room(path, user)) from error
    try:
        # For others to say who it is; a full disk must not cost the lock.
        with suppress(OSError):
            account_file.write(lock_path, f"{os.getpid()}\n".encode())
        yield lock
    finally:
        with users.act_as(user), suppress(OSError):
            os.unlink(lock_path)
            if made:
                # It stays if there is something in it now.
                os.rmdir(directory)
        os.close(lock)


def _take(account: str, path: str) -> int:
    while True:
        # A lock that is open for writing would keep the file system from becoming read-only.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        with suppress(FileNotFoundError):
            lock = locks.open_to_inherit(path)
            if not locks.take_lock(lock):
                holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(lock)
                what = f"another setup of account {account} is at work (process {holder})"
                hint = f"wait for it to end, or see who has it: fuser -v {path}"
                raise Unavailable(f"{what}: nothing was attempted", hint)
            # Otherwise the one before has just ended, and removed its file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(path), os.fstat(lock)):
                    return lock
            os.close(lock)


def _lock_path(account: str, path: str) -> str:
    return _beside(path, f".{account}.setup")


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _make_room(path: str, user: Optional[User]) -> str:
    who = user.name if user else "the service user"
    return f"make room in {os.path.dirname(path)}, and let {who} write there"


def _not_writable(path: str, error: OSError, hint: str, means: str = "nobody was asked to log in") -> Local:
    return Local(f"the account file {path} cannot be written ({error.strerror}): {means}", hint)
