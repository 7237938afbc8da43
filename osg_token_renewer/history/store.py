"""The database of the history. Each call may raise a HistoryError; the caller goes on without it."""

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
from osg_token_renewer.text import LATEST, outside

FILE = "history.sqlite"
_VERSION = 1
# Seconds to wait for another process that has the database.
_BUSY = 2.0
# SQLite says this of a file that may be sound: another process has it, this user may not use it, the disk is
# full. Anything else is damage.
_PASSING = ("locked", "readonly", "unable to open", "full", "I/O error", "interrupted")
_CREATE = f"""
CREATE TABLE IF NOT EXISTS token (
    name TEXT PRIMARY KEY, fingerprint TEXT, asked TEXT, issuer TEXT, expires_at REAL, obtained_at REAL,
    failed_at REAL, failure_reason TEXT, failure_message TEXT, failures_in_row INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rest (
    account TEXT PRIMARY KEY, "grant" TEXT, since REAL, message TEXT
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_RECORDS = f"SELECT {', '.join(TokenRecord._fields)} FROM token"  # noqa: S608
_RESTS = 'SELECT account, "grant", since, message FROM rest'
_RENEWED = """
INSERT INTO token (name, fingerprint, asked, issuer, expires_at, obtained_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    fingerprint = excluded.fingerprint, asked = excluded.asked, issuer = excluded.issuer,
    expires_at = excluded.expires_at, obtained_at = excluded.obtained_at, failures_in_row = 0
"""
_FAILED = """
INSERT INTO token (name, failed_at, failure_reason, failure_message, failures_in_row) VALUES (?, ?, ?, ?, 1)
ON CONFLICT (name) DO UPDATE SET
    failed_at = excluded.failed_at, failure_reason = excluded.failure_reason,
    failure_message = excluded.failure_message, failures_in_row = failures_in_row + 1
"""
_PAUSE = 'INSERT OR REPLACE INTO rest (account, "grant", since, message) VALUES (?, ?, ?, ?)'
_RESUME = "DELETE FROM rest WHERE account = ?"


class DamagedError(HistoryError):
    """The file is not a database, or not this one."""


class History:
    """The history in a state directory. Each call opens it: between two calls a run may take minutes."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, FILE)

    def records(self) -> dict[str, TokenRecord]:
        """What is known of each token, by its name; empty if there is no history yet."""
        if not os.path.exists(self.path):
            return {}
        with self._open() as database:
            return self._read_records(database)

    def rests(self) -> dict[str, Rest]:
        """The accounts with a dead grant, by name; empty if there is no history yet."""
        if not os.path.exists(self.path):
            return {}
        with self._open() as database:
            found = [Rest(*row) for row in database.execute(_RESTS)]
        if not all(isinstance(rest.since, float) and isinstance(rest.message, str) for rest in found):
            raise DamagedError(f"{self.path}: it holds what this program does not write")
        return {rest.account: rest for rest in found}

    def record(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Adds the outcomes of a run in one transaction. A fresh or a stopped token changes nothing."""
        renewed = [each for each in outcomes if each.state is State.RENEWED]
        failed = [each for each in outcomes if each.state is State.FAILED and each.reason != Stopped.reason]
        if not renewed and not failed:
            return
        with self._open(writing=True) as database, database:
            # Find damage before adding to it.
            self._read_records(database)
            database.executemany(_RENEWED, [_renewed_row(each, now) for each in renewed])
            failures = [(each.spec.name, now, each.reason, _storable(each.message)) for each in failed]
            database.executemany(_FAILED, failures)
            database.executemany(_RESUME, {(each.spec.account,) for each in renewed})
            pauses = [
                (each.spec.account, each.dead_grant, now, _storable(each.message))
                for each in failed
                if each.dead_grant is not None
            ]
            database.executemany(_PAUSE, pauses)

    def put_aside(self) -> str:
        """Renames a damaged database, so that the next use starts a new one; returns its new path."""
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        with _translated(self.path):
            os.replace(self.path, aside)
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(self.path + suffix)
        return aside

    def _read_records(self, database: sqlite3.Connection) -> dict[str, TokenRecord]:
        records = [TokenRecord(*row) for row in database.execute(_RECORDS)]
        if not all(map(_is_sound, records)):
            raise DamagedError(f"{self.path}: it holds what this program does not write")
        return {record.name: record for record in records}

    @contextmanager
    def _open(self, writing: bool = False) -> Iterator[sqlite3.Connection]:
        with _translated(self.path):
            if writing and not os.path.exists(self.path):
                self._create_file()
            # A reader also writes: it undoes what a killed program left half written. SQLite opens a
            # read-only file to read.
            path = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            with closing(sqlite3.connect(f"file:{path}?mode=rw", timeout=_BUSY, uri=True)) as database:
                self._check_version(database, writing)
                yield database

    def _create_file(self) -> None:
        """SQLite would let others read it, under the usual umask."""
        file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            users.give_to_owner_of(file, os.path.dirname(self.path))
        finally:
            os.close(file)

    def _check_version(self, database: sqlite3.Connection, writing: bool) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise HistoryError(f"{self.path} was written by a newer version of this program")
        if writing and version < _VERSION:
            database.executescript(_CREATE)


def _renewed_row(outcome: Outcome, now: float) -> tuple[object, ...]:
    issuer = _storable(outcome.token.issuer) if outcome.token else None
    spec = outcome.spec
    return spec.name, outcome.fingerprint, spec.asked, issuer, outcome.expires_at, now


def _is_sound(record: TokenRecord) -> bool:
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
        and all(when is None or (isinstance(when, float) and 0 <= when < LATEST) for when in times)
        and isinstance(record.failures_in_row, int)
    )


def _storable(text: Optional[str]) -> Optional[str]:
    """SQLite keeps UTF-8. A file name may be something else, and JSON can hold halves of characters."""
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
