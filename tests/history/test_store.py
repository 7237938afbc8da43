"""The history in a file: what it remembers, and each way in which the file can be of no use."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from osg_token_renewer.errors import HistoryError, Stopped
from osg_token_renewer.history import store
from osg_token_renewer.history.store import DamagedError, History
from osg_token_renewer.model import Outcome, State, TokenRecord, TokenSpec
from osg_token_renewer.tokens import jwt
from tests.faults import apart, mount
from tests.host import LONGEST
from tests.moments import at_moment
from tests.report.samples import encoded
from tests.specs import file_token

NOW = 1_800_000_000.0


def spec(name: str = "x") -> TokenSpec:
    return file_token(name, "a", f"/tokens/{name}", audience=("ce",))


def renewed(name: str = "x", expires_at: float | None = NOW + 3600, **claims: Any) -> Outcome:
    token = jwt.parse(encoded({"iss": "https://issuer.example.org", **claims}))
    return Outcome(
        spec(name),
        State.RENEWED,
        "renewed",
        "renewed",
        expires_at=expires_at,
        token=token,
        fingerprint="0123456789abcdef",
    )


def failed(name: str = "x", message: str = "Connection refused") -> Outcome:
    return Outcome(spec(name), State.FAILED, "unavailable", message)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(str(tmp_path))


@pytest.fixture
def used(history: History) -> History:
    """A history of two tokens, large enough to have several pages."""
    history.record([renewed("x"), failed("y")], NOW)
    history.record([failed(f"token-{number}", "why " * 70) for number in range(50)], NOW)
    return history


# What it remembers


def test_without_a_history_nothing_is_known_and_reading_makes_no_file(
    history: History, tmp_path: Path
) -> None:
    assert history.records() == {}
    assert os.listdir(tmp_path) == []


def test_the_history_keeps_what_was_asked_for_a_renewed_token_and_what_came(history: History) -> None:
    history.record([renewed()], NOW)
    assert history.records() == {
        "x": TokenRecord(
            "x",
            fingerprint="0123456789abcdef",
            asked='["a", ["ce"], []]',
            issuer="https://issuer.example.org",
            expires_at=NOW + 3600,
            obtained_at=NOW,
        )
    }


def test_failures_in_a_row_are_counted_and_a_renewal_ends_the_row_but_the_last_failure_stays(
    history: History,
) -> None:
    rows = []
    for number, outcome in enumerate(
        (failed(), failed(), failed(message="HTTP status 500"), renewed(), failed())
    ):
        history.record([outcome], NOW + number)
        record = history.records()["x"]
        rows.append((record.failures_in_row, record.failed_at, record.failure_message, record.obtained_at))
    assert rows == [
        (1, NOW, "Connection refused", None),
        (2, NOW + 1, "Connection refused", None),
        (3, NOW + 2, "HTTP status 500", None),
        (0, NOW + 2, "HTTP status 500", NOW + 3),
        (1, NOW + 4, "Connection refused", NOW + 3),
    ]


def test_a_failure_does_not_change_what_is_known_of_the_published_token(history: History) -> None:
    history.record([renewed()], NOW)
    history.record([failed()], NOW + 1)
    record = history.records()["x"]
    assert (record.fingerprint, record.expires_at, record.failure_reason) == (
        "0123456789abcdef",
        NOW + 3600,
        "unavailable",
    )


def test_fresh_tokens_change_nothing_and_make_no_file(history: History, tmp_path: Path) -> None:
    history.record([Outcome(spec(), State.FRESH, "fresh", "1 h left")], NOW)
    history.record([], NOW)
    assert os.listdir(tmp_path) == []


def test_a_token_that_a_stopped_run_did_not_begin_has_not_failed(history: History) -> None:
    history.record([renewed("x")], NOW)
    before = history.records()
    stopped = [
        Outcome(spec(name), State.FAILED, Stopped.reason, "the run was stopped before its turn came")
        for name in ("x", "y")
    ]
    history.record(stopped, NOW + 1)
    assert history.records() == before


def test_unknown_values_stay_unknown(history: History) -> None:
    history.record([renewed(expires_at=None, iss=None)], NOW)
    record = history.records()["x"]
    assert (record.expires_at, record.issuer) == (None, None)


@pytest.mark.parametrize("text", ["/tokens/\udcff", "\ud800", "'; DROP TABLE token; --", "\x00", "漢" * 1000])
def test_the_history_takes_any_text(history: History, text: str) -> None:
    # A path that is not UTF-8, half a character from JSON: SQLite takes neither as it is.
    history.record([failed("x", text), renewed("y", iss=text)], NOW)
    messages = {name: record.failure_message for name, record in history.records().items()}
    assert messages == {"x": text.encode("utf-8", "backslashreplace").decode(), "y": None}


def test_only_the_owner_can_read_the_file_and_its_journals(history: History, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        history.record([renewed()], NOW)
        with closing(sqlite3.connect(history.path)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM token")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"history.sqlite": 0o600, "history.sqlite-journal": 0o600}


@pytest.mark.parametrize("name", ["plain", "with blank", "100%", "what?", "a#b", "é", "a&mode=memory", "%41"])
def test_a_state_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    history = History(str(tmp_path / name))
    history.record([renewed()], NOW)
    assert list(history.records()) == ["x"]
    assert os.listdir(tmp_path / name) == ["history.sqlite"]


# Others at the same time


def test_two_writers_at_once_lose_nothing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads with connections of their own: for SQLite's locks they are as good as processes. The first
    makes the file."""
    # A disk may take longer for what the other writes.
    monkeypatch.setattr(store, "_BUSY", LONGEST)
    errors: list[Exception] = []

    def write(name: str) -> None:
        try:
            for number in range(8):
                History(os.path.dirname(history.path)).record([failed(name), failed("both")], NOW + number)
        except HistoryError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert {name: record.failures_in_row for name, record in history.records().items()} == {
        "one": 8,
        "two": 8,
        "both": 16,
    }


def test_a_locked_history_is_not_damaged(used: History) -> None:
    with closing(sqlite3.connect(used.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryError, match="database is locked") as error:
            used.record([renewed()], NOW)
        assert not isinstance(error.value, DamagedError)
    assert len(used.records()) == 52


def test_a_program_that_is_killed_while_it_writes_loses_no_history(used: History) -> None:
    """At any moment: before SQLite writes to the file, it notes beside it what was there."""
    used.record([Outcome(spec("dead"), State.FAILED, "refused", "dead", dead_grant="g")], NOW)
    old, rests, content = used.records(), used.rests(), Path(used.path).read_bytes()
    journals = 0
    for moment in count():
        Path(used.path).write_bytes(content)
        if not at_moment(
            moment, lambda: used.record([failed("new")], NOW + 1), lambda pid: os.kill(pid, signal.SIGKILL)
        ):
            break
        journals += os.path.exists(f"{used.path}-journal")
        assert len(used.records()) in (len(old), len(old) + 1)
        assert used.rests() == rests
    assert journals > 0


# Damage


def damaged(history: History, how: Callable[[Path], None]) -> None:
    """Reading and writing stop at such a file. Once it is put aside, whole, a new one begins."""
    path = Path(history.path)
    how(path)
    before = path.read_bytes()

    for attempt in (history.records, lambda: history.record([renewed("new")], NOW)):
        with pytest.raises(DamagedError, match=f"^{path}: "):
            attempt()
    assert path.read_bytes() == before

    aside = history.put_aside()
    assert Path(aside).read_bytes() == before
    assert not path.exists()
    history.record([renewed("new")], NOW)
    assert list(history.records()) == ["new"]


def truncated(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def garbage_in_the_middle(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))


def of_another_program(path: Path) -> None:
    path.unlink()
    path.write_text("[account x]\npassword_file = /etc/x\n" * 100)


DAMAGES = [truncated, garbage_in_the_middle, of_another_program]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_file_that_is_not_a_database_is_damaged(used: History, how: Callable[[Path], None]) -> None:
    damaged(used, how)


COLUMNS = (
    "name TEXT PRIMARY KEY, fingerprint TEXT, asked TEXT, issuer TEXT, expires_at REAL, obtained_at REAL, "
    "failed_at REAL, failure_reason TEXT, failure_message TEXT, failures_in_row INTEGER NOT NULL DEFAULT 0"
)
TABLE = f"CREATE TABLE token ({COLUMNS})"
TEXT = "CAST(x'ff1b' AS TEXT)"
SCHEMAS = {
    "no table": "CREATE TABLE other (name TEXT)",
    "a column is missing": f"CREATE TABLE token ({COLUMNS.replace(' issuer TEXT,', '')})",
    "a view": "CREATE VIEW token AS SELECT 'x' AS name",
    "a value of another kind": f"{TABLE}; INSERT INTO token (name, expires_at) VALUES ('x', 'soon')",
    "an endless time": f"{TABLE}; INSERT INTO token (name, expires_at) VALUES ('x', 9e999)",
    "a time before all times": f"{TABLE}; INSERT INTO token (name, failed_at) VALUES ('x', -1e18)",
    "a question that was not asked": f"{TABLE}; INSERT INTO token (name, asked) VALUES ('x', '[\"a\", [')",
    "a question of another form": f"{TABLE}; INSERT INTO token (name, asked) VALUES ('x', '[1]')",
    "a text that is not UTF-8": f"{TABLE}; INSERT INTO token (name, issuer) VALUES ('x', {TEXT})",
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_database_with_other_content_is_damaged(history: History, kind: str) -> None:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            database.executescript(f"{SCHEMAS[kind]}; PRAGMA user_version = 1;")

    damaged(history, make)


def test_a_table_without_a_key_is_found_when_the_run_writes_to_it(
    history: History,
) -> None:
    with closing(sqlite3.connect(history.path)) as database:
        database.executescript(
            f"CREATE TABLE token ({COLUMNS.replace(' PRIMARY KEY', '')}); PRAGMA user_version = 1;"
        )
    with pytest.raises(DamagedError):
        history.record([renewed()], NOW)


def test_an_empty_file_becomes_a_new_history(history: History) -> None:
    # What a crash right after the file was made leaves.
    Path(history.path).touch(0o600)
    with pytest.raises(DamagedError):
        history.records()
    history.record([renewed()], NOW)
    assert list(history.records()) == ["x"]


def test_a_history_of_a_newer_version_is_left_alone(used: History) -> None:
    with closing(sqlite3.connect(used.path)) as database:
        database.execute("PRAGMA user_version = 2")
    before = Path(used.path).read_bytes()
    for attempt in (used.records, lambda: used.record([renewed()], NOW)):
        with pytest.raises(HistoryError, match="was written by a newer version of this program") as error:
            attempt()
        assert not isinstance(error.value, DamagedError)
    assert Path(used.path).read_bytes() == before


def test_a_message_about_damage_holds_no_control_characters(history: History) -> None:
    with closing(sqlite3.connect(history.path)) as database:
        database.executescript(SCHEMAS["a text that is not UTF-8"])
    with pytest.raises(DamagedError) as error:
        history.records()
    assert error.value.message.isprintable()


# Places that cannot be used


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def unusable(history: History, *attempts: Callable[[], object]) -> None:
    for attempt in attempts:
        with pytest.raises(HistoryError, match=f"^{history.path}: ") as error:
            attempt()
        assert not isinstance(error.value, DamagedError)


def test_a_read_only_history_is_read(open_directory: Path) -> None:
    history = History(str(open_directory))
    history.record([renewed()], NOW)
    os.chmod(history.path, 0o444)
    os.chmod(open_directory, 0o555)

    def body() -> None:
        assert list(history.records()) == ["x"]
        unusable(history, lambda: history.record([failed()], NOW), history.put_aside)

    apart(body, unprivileged=True)
    os.chmod(open_directory, 0o755)
    assert history.records()["x"].failures_in_row == 0


def test_a_history_without_read_permission_is_not_damaged(open_directory: Path) -> None:
    history = History(str(open_directory))
    history.record([renewed()], NOW)
    os.chmod(history.path, 0o000)

    def body() -> None:
        unusable(history, history.records, lambda: history.record([failed()], NOW))

    apart(body, unprivileged=True)


def test_a_history_on_a_read_only_file_system_is_read(tmp_path: Path) -> None:
    history = History(str(tmp_path))

    def body() -> None:
        history.record([renewed()], NOW)
        mount(tmp_path, "remount,ro")
        assert list(history.records()) == ["x"]
        unusable(history, lambda: history.record([failed()], NOW), history.put_aside)

    apart(body, tmpfs={tmp_path: "size=1m"})


def test_a_full_file_system_is_not_damage_and_loses_nothing(tmp_path: Path) -> None:
    history = History(str(tmp_path))

    def body() -> None:
        history.record([renewed()], NOW)
        with pytest.raises(OSError, match="No space"), open(tmp_path / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        unusable(
            history,
            lambda: history.record([failed(f"token-{number}", "why " * 1000) for number in range(100)], NOW),
        )
        assert list(history.records()) == ["x"]
        (tmp_path / "filler").unlink()
        history.record([failed()], NOW)
        assert history.records()["x"].failures_in_row == 1

    apart(body, tmpfs={tmp_path: "size=256k"})


def test_neither_a_missing_directory_nor_a_directory_in_place_of_the_file_is_damage(tmp_path: Path) -> None:
    missing = History(str(tmp_path / "missing"))
    assert missing.records() == {}
    unusable(missing, lambda: missing.record([renewed()], NOW))
    in_the_way = History(str(tmp_path))
    os.mkdir(in_the_way.path)
    unusable(in_the_way, in_the_way.records, lambda: in_the_way.record([renewed()], NOW))


def test_putting_a_history_aside_removes_its_journals(used: History, tmp_path: Path) -> None:
    # Otherwise SQLite would apply the old journal to the new file.
    Path(f"{used.path}-journal").write_bytes(b"rest of a write that was cut off")
    used.put_aside()
    assert [path for path in os.listdir(tmp_path) if not path.startswith("history.sqlite.damaged-")] == []
