"""One setup of an oidc-agent account: between oidc-gen, which makes the account or gives it a new login, and
the account file.

oidc-gen truncates and writes, and reports success also when that failed. So it has a directory of its own, as
an agent has; that the account file can be written is proven before anybody logs in, and this program writes
it once there is something whole to write. What a setup that fails leaves is what was there."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import Local, Refused, Unavailable
from osg_token_renewer.sources.oidc_agent import account_file
from osg_token_renewer.system import locks, users
from osg_token_renewer.system.signals import defer_signals
from osg_token_renewer.system.users import User

log = logging.getLogger(__name__)

# More than an account file and oidc-agent's list of issuers need; and what is enough for the one, when the
# other needs room.
_ROOM, _ENOUGH = 64 * 1024, 16 * 1024
_ISSUERS = "issuer.config"
_SETUP = "osg-token-renewer-setup"


@contextmanager
def begin_login(account: str, user: Optional[User], wait: Optional[float]) -> Iterator[Login]:
    """Has the account for one setup, and the proof that its file can be written: to be entered before anybody
    is asked for anything.

    `wait` is for an account that is to get a new login: the seconds that a run may still have it. With None
    it is a new account, which is taken away again when this is left by an exception. Raises Refused,
    Unavailable and Local."""
    where = account_file.find_path(account, user)
    with ExitStack() as stack:
        with users.act_as(user):
            if wait is not None and not os.path.exists(where):
                raise _not_there(account)
            with defer_signals():
                lock = stack.enter_context(_alone(account, where, user))
            if wait is None:
                refuse_existing(account, where)
            held = (
                None if wait is None else stack.enter_context(account_file.hold_account(where, account, wait))
            )
            if wait is not None and held is None:
                raise _not_there(account)
            login = Login(account, where, lock, held, user)
            login.prepare()
        try:
            yield login
        except BaseException:
            login.undo()
            raise


def refuse_existing(account: str, where: str) -> None:
    """Raises Local when there is such an account: its refresh token must not be lost by accident."""
    if os.path.lexists(where):
        again = f"{_SETUP} --reauthenticate {account}"
        raise Local(
            f"there is an account {account} already ({where})",
            f"for a new login: {again}; to start over: remove that file",
        )


def _not_there(account: str) -> Refused:
    return Refused(f"there is no account {account} to log in again", f"run: {_SETUP} {account}")


class Login(account_file.Guard):
    """Stands between an account file and the oidc-gen that writes it. `lock` is of the file that keeps room,
    beside the account file; `held` of the account file, where there is one."""

    def __init__(
        self, account: str, where: str, lock: int, held: Optional[int], user: Optional[User]
    ) -> None:
        super().__init__(account, where, "", (lock,) if held is None else (lock, held))
        self.room = _lock_file(account, where)
        self.again = held is not None
        self._lock = lock
        self.user = user
        # The account file before; what oidc-gen made; why that could not be written.
        self._before = self._made = b""
        self._why: Optional[str] = None
        self._issuers = b""
        # Where oidc-gen has its directory.
        self._parent = ""
        self._make_room = _make_room(where, user)
        self._then = f"run it again: {_SETUP} {'--reauthenticate ' if self.again else ''}{account}"

    @property
    def changed(self) -> bool:
        """Whether an account that was there has its new login."""
        return self.again and self._content != self._before

    def prepare(self) -> None:
        """Makes sure that there is room, and the permission, to write the account file; raises Local
        otherwise."""
        try:
            if self.again:
                os.close(os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                self._content = self._before = account_file.read(self.path)
            account_file.write(self.room, f"{os.getpid()}\n".encode() + os.urandom(_ROOM))
        except OSError as error:
            raise _not_writable(self.path, error, self._make_room) from error
        if self.again and account_file.is_damaged(self._content):
            raise Local(
                f"the account file {self.path} is damaged: there is nothing that could log in again",
                "let a run put its copy back: systemctl start osg-token-renewer.service; "
                f"where there is none, remove it and run: {_SETUP} {self.account}",
            )

    def lend(self, directory: str) -> dict[str, str]:
        with users.act_as(self.user):
            self._parent = os.path.dirname(directory)
            with suppress(OSError):
                self._issuers = account_file.read(self._beside_it(_ISSUERS))
            return super().lend(directory)

    def _beside(self) -> set[str]:
        # oidc-gen adds to it, or makes it.
        return super()._beside() | {_ISSUERS}

    def _beside_it(self, name: str) -> str:
        return os.path.join(os.path.dirname(self.path), name)

    @property
    def watched(self) -> str:
        # What a setup that was killed has not come to is no account.
        return super().watched if self.again else ""

    def take_back(self) -> bool:
        """What oidc-gen made, if it is whole, becomes the new login of an account that was there, whatever
        became of the setup."""
        with users.act_as(self.user):
            with suppress(OSError):
                self._made = account_file.read(self.lent or "")
            if self.again:
                super().take_back()
            self._mend_issuers()
        # What came of it is for `finish` to say.
        return True

    def finish(self) -> None:
        """To be called when oidc-gen has succeeded and its agent has ended: the account is there, and whole.
        Raises Local otherwise."""
        with users.act_as(self.user):
            try:
                if self.again:
                    self._see()
                else:
                    self._put_there()
            except FileExistsError:
                refuse_existing(self.account, self.path)
            except OSError as error:
                raise _not_writable(
                    self.path, error, f"{self._make_room}, and {self._then}", "nothing was set up"
                ) from error

    def _see(self) -> None:
        now = account_file.read(self.path)
        if self.changed and now == self._content:
            return
        as_it_was = "the account is as it was" if now == self._before else f"{self.path} is damaged"
        if self._why:
            raise Local(
                f"the new login could not be written to the account file {self.path} ({self._why}): {as_it_was}",
                f"{self._make_room}, and {self._then}",
            )
        raise Local(f"oidc-gen said that all is well, but wrote no new login: {as_it_was}", self._retry())

    def _put_there(self) -> None:
        if account_file.is_damaged(self._made):
            raise Local(
                "oidc-gen said that all is well, but did not write the account whole: nothing was set up",
                self._retry(),
            )
        # Blocks that are there already, and a name that nothing has.
        account_file.overwrite(self.room, self._made)
        os.link(self.room, self.path)
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _retry(self) -> str:
        return f"make room in {self._parent}, and {self._then}"

    def undo(self) -> None:
        """Takes away the account that this setup made, and no other."""
        with users.act_as(self.user), suppress(OSError):
            if not self.again and _is(self.path, self._lock):
                os.unlink(self.path)

    def _not_written(self, _content: bytes, why: str) -> None:
        self._why = why
        with suppress(OSError):
            if account_file.read(self.path) != self._before:
                account_file.overwrite(self.path, self._before)

    def _release(self) -> None:
        """The file stays: it is the lock."""
        with suppress(OSError):
            os.truncate(self.room, _ENOUGH)

    def _mend_issuers(self) -> None:
        """oidc-gen rewrites the list of issuers in its place, and a full disk leaves nothing of it."""
        path = self._beside_it(_ISSUERS)
        try:
            if self._issuers.strip() and not account_file.read(path).strip():
                self._release()
                account_file.overwrite(path, self._issuers)
        except OSError as error:
            log.warning("%s was emptied and cannot be put back: %s", path, error.strerror)


def _lock_file(account: str, where: str) -> str:
    return os.path.join(os.path.dirname(where), f".{account}.setup")


@contextmanager
def _alone(account: str, where: str, user: Optional[User]) -> Iterator[int]:
    """One setup of an account at a time: yields a descriptor, and whoever inherits it has the account too."""
    path = _lock_file(account, where)
    directory = os.path.dirname(where)
    made = not os.path.isdir(directory)
    try:
        if made:
            os.mkdir(directory, 0o700)
        lock = _taken(account, path)
    except OSError as error:
        raise _not_writable(where, error, _make_room(where, user)) from error
    try:
        yield lock
    finally:
        with users.act_as(user), suppress(OSError):
            os.unlink(path)
            if made:
                # Unless there is something in it now.
                os.rmdir(directory)
        os.close(lock)


def _taken(account: str, path: str) -> int:
    while True:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        try:
            # For reading: a person who logs in must not keep a file system from becoming read-only.
            lock = locks.open_to_inherit(path)
        except FileNotFoundError:
            # The one before has ended.
            continue
        if not locks.take_lock(lock):
            who = _whose(lock)
            os.close(lock)
            raise Unavailable(
                f"another setup of account {account} is at work ({who}): nothing was attempted",
                f"wait for it to end, or see who has it: fuser -v {path}",
            )
        # Else the one before has ended and removed it; or it was killed when it had given the account file
        # this second name.
        if _is(path, lock):
            if os.fstat(lock).st_nlink == 1:
                return lock
            os.unlink(path)
        os.close(lock)


def _whose(lock: int) -> str:
    found = re.match(rb"(\d+)\n", os.pread(lock, 20, 0))
    if found is None:
        return "it has just begun or is about to end"
    number = int(found[1])
    return (
        f"process {number}"
        if os.path.exists(f"/proc/{number}")
        else f"what process {number}, which was killed, had started"
    )


def _is(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _make_room(where: str, user: Optional[User]) -> str:
    return f"make room in {os.path.dirname(where)}, and let {user.name if user else 'the service user'} write there"


def _not_writable(where: str, error: OSError, hint: str, means: str = "nobody was asked to log in") -> Local:
    return Local(f"the account file {where} cannot be written ({error.strerror}): {means}", hint)
