"""The database. Whoever uses it must be ready for a HistoryError at each call, and go on without."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields

from osg_token_renewer.errors import HistoryError
from osg_token_renewer.model import Outcome, State, TokenRecord

FILE = "history.sqlite"
_VERSION = 1
_BUSY = 2.0
_COLUMNS = tuple(field.name for field in fields(TokenRecord))
_CREATE = """
CREATE TABLE IF NOT EXISTS token (
    name TEXT PRIMARY KEY, fingerprint TEXT, asked TEXT, issuer TEXT, expires_at REAL, obtained_at REAL,
    failed_at REAL, failure_reason TEXT, failure_message TEXT, failures_in_row INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
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


class History:
    """The history in a state directory. Opened for each use: between two uses a run may take minutes."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, FILE)

    def records(self) -> dict[str, TokenRecord]:
        """What is known of each token, by its name; nothing when there is no history yet. Raises HistoryError."""
        if not os.path.exists(self.path):
            return {}
        with _translated(self.path), closing(self._connect(writing=False)) as database:
            rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM token").fetchall()  # noqa: S608
        return {row[0]: TokenRecord(*row) for row in rows}

    def record(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Adds what a run brought, in one transaction. A fresh token changes nothing. Raises HistoryError."""
        renewed, failed = [], []
        for outcome in outcomes:
            name = outcome.spec.name
            if outcome.state is State.RENEWED:
                issuer = outcome.token.issuer if outcome.token else None
                row = (name, outcome.fingerprint, outcome.spec.asked, issuer, outcome.expires_at, now)
                renewed.append(row)
            elif outcome.state is State.FAILED:
                failed.append((name, now, outcome.reason, outcome.message))
        if not renewed and not failed:
            return
        with _translated(self.path), closing(self._connect(writing=True)) as database, database:
            database.executemany(_RENEWED, renewed)
            database.executemany(_FAILED, failed)

    def put_aside(self) -> str:
        """Moves a damaged database away, so that the next run starts a new one; returns where it is now."""
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        with _translated(self.path):
            os.replace(self.path, aside)
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(self.path + suffix)
        return aside

    def _connect(self, writing: bool) -> sqlite3.Connection:
        if writing and not os.path.exists(self.path):
            # sqlite3 would create it readable by others, under the usual umask.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        mode = "rw" if writing else "ro"
        database = sqlite3.connect(f"file:{_quoted(self.path)}?mode={mode}", timeout=_BUSY, uri=True)
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise HistoryError(f"{self.path} was written by a newer version of this program")
            if writing and version < _VERSION:
                database.execute(_CREATE)
                database.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            database.close()
            raise
        return database


class DamagedError(HistoryError):
    """The file is not a database, or not this one."""


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        # Locked, read-only, no room: the file itself may be well. A missing table or column is another matter.
        kind = DamagedError if "no such" in str(error) else HistoryError
        raise kind(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DamagedError(f"{path}: {error}") from error
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from error


def _quoted(path: str) -> str:
    """A path in a file: URI of SQLite."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
