"""Whatever is wrong with the history, tokens are renewed: a warning, and it starts anew."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from osg_token_renewer.history.store import History
from testbed import Issuer
from tests.faults import apart
from tests.host import Host, Result, without_roots_privileges


@pytest.fixture
def renewed(host: Host, issuer: Issuer) -> Host:
    """A host whose token has been renewed once, and is renewed in each further run."""
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("x", "probe"))
    assert host.run().status == 0
    assert database(host).exists()
    return host


def database(host: Host) -> Path:
    return host.state / "history.sqlite"


def warnings(done: Result) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("warning: ")]


def renews(host: Host, *, and_remembers: bool) -> list[str]:
    """Runs, sees the token renewed whatever the history is like, and returns the run's warnings."""
    before = host.read("x")
    done = host.run()
    assert done.status == 0, done.stderr
    assert done.line("1 token:") == "1 token: 1 renewed, 0 fresh, 0 failed"
    assert host.read("x") != before
    assert "Traceback" not in done.stderr
    if and_remembers:
        assert History(str(host.state)).records()["x"].obtained_at is not None
        # The next run has nothing to complain about.
        assert host.run().stderr.count("warning") == 0
    return warnings(done)


def statement(sql: str) -> Callable[[Path], None]:
    def execute(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(sql)

    return execute


def truncated(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(5000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


@pytest.mark.parametrize(
    "how",
    [
        truncated,
        overwritten,
        statement("DROP TABLE token; CREATE TABLE token (name TEXT PRIMARY KEY)"),
        statement("UPDATE token SET asked = '[', expires_at = 'soon'"),
    ],
    ids=["truncated", "overwritten", "another table", "other values"],
)
def test_a_damaged_history_is_put_aside_and_starts_anew(renewed: Host, how: Callable[[Path], None]) -> None:
    how(database(renewed))
    damaged = database(renewed).read_bytes()

    (found, aside) = renews(renewed, and_remembers=True)

    assert found.startswith(f"warning: the history is damaged ({database(renewed)}: ")
    assert "it was put aside as " in aside
    assert [path.read_bytes() for path in renewed.state.glob("*.damaged-*")] == [damaged]


def test_an_empty_history_starts_anew(renewed: Host) -> None:
    emptied(database(renewed))
    assert len(renews(renewed, and_remembers=True)) == 1


def test_a_missing_history_starts_without_a_message(renewed: Host) -> None:
    database(renewed).unlink()
    assert renews(renewed, and_remembers=True) == []


def test_a_missing_state_directory_is_made_without_a_message(renewed: Host) -> None:
    for path in renewed.state.iterdir():
        path.unlink()
    renewed.state.rmdir()
    assert renews(renewed, and_remembers=True) == []
    assert renewed.state.stat().st_mode & 0o777 == 0o700


def test_a_history_of_a_newer_version_is_left_alone(renewed: Host) -> None:
    statement("PRAGMA user_version = 99")(database(renewed))
    before = database(renewed).read_bytes()
    (read, written) = renews(renewed, and_remembers=False)
    assert read.startswith("warning: the history cannot be read (")
    assert written.startswith("warning: the history cannot be written (")
    assert database(renewed).read_bytes() == before


def test_a_run_waits_a_moment_for_a_locked_history(renewed: Host) -> None:
    with closing(sqlite3.connect(database(renewed))) as other:
        other.execute("BEGIN EXCLUSIVE")
        (read, written) = renews(renewed, and_remembers=False)
    assert "database is locked" in read
    for line in (read, written):
        assert line.endswith("; accounts with a dead grant are not paused meanwhile")
    assert "what this run did is not remembered" in written
    assert renews(renewed, and_remembers=True) == []


def test_a_read_only_state_directory_stops_nothing(renewed: Host) -> None:
    renewed.prefix = without_roots_privileges()
    before = database(renewed).read_bytes()
    database(renewed).chmod(0o400)
    renewed.state.chmod(0o500)
    try:
        found = renews(renewed, and_remembers=False)
    finally:
        renewed.state.chmod(0o700)
    assert any(line.startswith("warning: the history cannot be written (") for line in found)
    assert database(renewed).read_bytes() == before
    assert sorted(os.listdir(renewed.state)) == ["history.sqlite", "lock"]


def test_a_file_in_the_place_of_the_state_directory_stops_nothing(renewed: Host) -> None:
    for path in renewed.state.iterdir():
        path.unlink()
    renewed.state.rmdir()
    renewed.state.write_text("in the way\n")
    assert any(
        line.startswith("warning: the history cannot be written (")
        for line in renews(renewed, and_remembers=False)
    )
    assert renewed.state.read_text() == "in the way\n"


def test_a_full_file_system_stops_nothing(renewed: Host) -> None:
    def body() -> None:
        with (
            pytest.raises(OSError, match="No space"),
            open(renewed.state / "filler", "wb", buffering=0) as filler,
        ):
            while True:
                filler.write(b"x" * 4096)
        found = renews(renewed, and_remembers=False)
        assert any(line.startswith("warning: the history cannot be written (") for line in found)
        (renewed.state / "filler").unlink()
        # Nothing of the failed attempt is in the way.
        renews(renewed, and_remembers=True)

    apart(body, tmpfs={renewed.state: "size=64k,mode=700"})


def test_status_shows_a_failure_with_its_reason_until_the_next_success(renewed: Host, issuer: Issuer) -> None:
    issuer.fault(endpoint="token", times=2, status=500)
    assert [renewed.run().status for _ in range(2)] == [1, 1]
    failed = renewed.status()["x"]
    assert (failed["state"], failed["failures_in_row"], failed["last_failure"]["reason"]) == (
        "failed",
        2,
        "unavailable",
    )
    assert "500" in failed["last_failure"]["message"]

    assert renewed.run().status == 0

    well = renewed.status()["x"]
    assert (well["state"], well["failures_in_row"], well["last_failure"]) == (
        "due",
        0,
        failed["last_failure"],
    )
    assert well["last_renewed_at"] is not None
