"""The database. Whoever uses it must be ready for a HistoryError at each call, and go on without."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Optional

from osg_token_renewer.errors import HistoryError, Stopped
from osg_token_renewer.model import Outcome, Rest, State, TokenRecord
from osg_token_renewer.system import users
from osg_token_renewer.text import outside

FILE = "history.sqlite"
_VERSION = 1
_BUSY = 2.0
_SELECT = f"SELECT {', '.join(TokenRecord._fields)} FROM token"  # noqa: S608
_CREATE = (
    """
CREATE TABLE IF NOT EXISTS token (
    name TEXT PRIMARY KEY, fingerprint TEXT, asked TEXT, issuer TEXT, expires_at REAL, obtained_at REAL,
    failed_at REAL, failure_reason TEXT, failure_message TEXT, failures_in_row INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
""",
    'CREATE TABLE IF NOT EXISTS rest (account TEXT PRIMARY KEY, "grant" TEXT, since REAL, message TEXT) WITHOUT ROWID',
)
# What SQLite says when the file may be well all the same: another process has it, this user may not, the disk
# does not let it.
_PASSING = ("locked", "readonly", "unable to open", "full", "I/O error", "interrupted")
# The year 9999, the end of what dates can show.
_LATEST = 253402300800.0
_RENEWED = """
INSERT INTO token (name, fingerprint, asked, issuer, expires_at, obtained_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint, asked = excluded.asked, issuer = excluded.issuer,
    expires_at = excluded.expires_at, obtained_at = excluded.obtained_at, failures_in_row = 0
"""
_FAILED = """
INSERT INTO token (name, failed_at, failure_reason, failure_message, failures_in_row) VALUES (?, ?, ?, ?, 1)
ON CONFLICT (name) DO UPDATE SET failed_at = excluded.failed_at, failure_reason = excluded.failure_reason,
    failure_message = excluded.failure_message, failures_in_row = failures_in_row + 1
"""
_DIED = 'INSERT OR REPLACE INTO rest (account, "grant", since, message) VALUES (?, ?, ?, ?)'
_LIVES = "DELETE FROM rest WHERE account = ?"


class History:
    """The history in a state directory. Opened for each use: between two uses a run may take minutes."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, FILE)

    def records(self) -> dict[str, TokenRecord]:
        """What is known of each token, by its name; nothing when there is no history yet. Raises
        HistoryError."""
        if not os.path.exists(self.path):
            return {}
        with _translated(self.path), closing(self._connect()) as database:
            return self._records(database)

    def rests(self) -> dict[str, Rest]:
        """The accounts that were found with a dead grant, by name. Raises HistoryError."""
        if not os.path.exists(self.path):
            return {}
        with _translated(self.path), closing(self._connect()) as database:
            found = [
                Rest(*row) for row in database.execute('SELECT account, "grant", since, message FROM rest')
            ]
        if not all(isinstance(rest.since, float) and isinstance(rest.message, str) for rest in found):
            raise DamagedError(f"{self.path}: it holds what this program does not write")
        return {rest.account: rest for rest in found}

    def record(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Adds what a run brought, in one transaction. A fresh token changes nothing. Raises HistoryError."""
        renewed, failed = [], []
        died: dict[str, tuple[object, ...]] = {}
        for outcome in outcomes:
            name = outcome.spec.name
            if outcome.state is State.RENEWED:
                issuer = outcome.token.issuer if outcome.token else None
                row = (
                    name,
                    outcome.fingerprint,
                    outcome.spec.asked,
                    _storable(issuer),
                    outcome.expires_at,
                    now,
                )
                renewed.append(row)
            elif outcome.state is State.FAILED and outcome.reason != Stopped.reason:
                failed.append((name, now, outcome.reason, _storable(outcome.message)))
            account = outcome.spec.account
            if outcome.dead_grant is not None:
                died[account] = (account, outcome.dead_grant, now, _storable(outcome.message))
        if not renewed and not failed:
            return
        with _translated(self.path), closing(self._connect(writing=True)) as database, database:
            # Damage is found now, not when it has been added to.
            self._records(database)
            database.executemany(_RENEWED, renewed)
            database.executemany(_FAILED, failed)
            database.executemany(
                _LIVES, {(outcome.spec.account,) for outcome in outcomes if outcome.state is State.RENEWED}
            )
            database.executemany(_DIED, died.values())

    def put_aside(self) -> str:
        """Moves a damaged database away, so that the next run starts a new one; returns where it is now."""
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        with _translated(self.path):
            os.replace(self.path, aside)
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(self.path + suffix)
        return aside

    def _records(self, database: sqlite3.Connection) -> dict[str, TokenRecord]:
        records = [TokenRecord(*row) for row in database.execute(_SELECT)]
        if not all(map(_sound, records)):
            raise DamagedError(f"{self.path}: it holds what this program does not write")
        return {record.name: record for record in records}

    def _connect(self, writing: bool = False) -> sqlite3.Connection:
        if writing and not os.path.exists(self.path):
            # sqlite3 would create it readable by others, under the usual umask.
            file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                users.give_to_owner_of(file, os.path.dirname(self.path))
            finally:
                os.close(file)
        # Also who only reads undoes what a killed program had half written. Where the file cannot be written,
        # SQLite opens it to read.
        database = sqlite3.connect(f"file:{_quoted(self.path)}?mode=rw", timeout=_BUSY, uri=True)
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise HistoryError(f"{self.path} was written by a newer version of this program")
            if writing and version < _VERSION:
                for statement in _CREATE:
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            database.close()
            raise
        return database


class DamagedError(HistoryError):
    """The file is not a database, or not this one."""


def _sound(record: TokenRecord) -> bool:
    """SQLite lets any column hold anything."""
    texts = (record.fingerprint, record.asked, record.issuer, record.failure_reason, record.failure_message)
    times = (record.expires_at, record.obtained_at, record.failed_at)
    try:
        asked = 3 if record.asked is None else len(json.loads(record.asked))
    except (ValueError, TypeError, RecursionError):
        return False
    return (
        asked == 3
        and isinstance(record.name, str)
        and all(text is None or isinstance(text, str) for text in texts)
        and all(when is None or (isinstance(when, float) and 0 <= when < _LATEST) for when in times)
        and isinstance(record.failures_in_row, int)
    )


def _storable(text: Optional[str]) -> Optional[str]:
    """SQLite keeps UTF-8; a file name may be something else, and JSON can hold halves of characters."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        kind = HistoryError if any(words in str(error) for words in _PASSING) else DamagedError
        raise kind(f"{path}: {outside(str(error))}") from error
    except sqlite3.DatabaseError as error:
        raise DamagedError(f"{path}: {outside(str(error))}") from error
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from error


def _quoted(path: str) -> str:
    """A path in a file: URI of SQLite."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
