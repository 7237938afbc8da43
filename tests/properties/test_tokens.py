"""Any token, token file or history is read or refused, with harmless messages."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osg_token_renewer.engine import planner
from osg_token_renewer.errors import HistoryError, RenewerError, Unsuitable
from osg_token_renewer.history.store import History
from osg_token_renewer.model import (
    AccessToken,
    Decision,
    Found,
    Outcome,
    Published,
    Secret,
    State,
    TokenRecord,
    Why,
)
from osg_token_renewer.report import json as json_report
from osg_token_renewer.report import states, table
from osg_token_renewer.sinks.file import FileSink
from osg_token_renewer.text import outside
from osg_token_renewer.tokens import claims, jwt
from tests.properties import cases
from tests.report.samples import NOW
from tests.specs import file_token, plan
from tests.tokens.test_jwt import jws

SPEC = file_token("x", "robot", "/tokens/x", audience=("ce",), scope=("compute.read",), min_lifetime=600)
NAMES = st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "scope", "scp"])
TIMES = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([NOW, NOW + 3600, -1, 2**63, 253402300799, 253402300800, 1e308]),
)
PAYLOADS = st.dictionaries(
    st.one_of(NAMES, cases.TEXT), st.one_of(TIMES, cases.TEXT, st.lists(cases.TEXT, max_size=8), cases.JSON)
)
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TOKENS = st.one_of(
    PAYLOADS.map(jws),
    st.builds(jws, st.binary(max_size=60), st.binary(max_size=20)),
    st.text(BASE64URL + ".=", max_size=200),
    cases.TEXT,
)


def parsed(text: str) -> Optional[AccessToken]:
    """The token, or None if it is refused, with a harmless reason."""
    try:
        return jwt.parse(text)
    except ValueError as error:
        assert cases.harmless(str(error))
        return None


def shown(record: Optional[TokenRecord], token: Optional[AccessToken]) -> None:
    """Asserts that `status` shows it harmlessly, as a table and as JSON."""
    found = Published(Found.TOKEN, "", token, "f") if token else Published(Found.NOTHING, "no file")
    state = [states.find_state(plan(SPEC, found, record, NOW), NOW)]
    for width in (None, 80):
        lines = table.render(state, NOW, width, color=False).splitlines()
        assert all(cases.harmless(line) for line in lines)
        assert width or len(lines) == 2
    printed = json_report.render(state, NOW)
    assert len(json.loads(printed)["tokens"]) == 1
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()


@given(text=TOKENS)
@example(text=jws({"iss": "\ud800", "aud": ["\x1b[2J"], "scope": "\u202ea b"}))
@example(text=jws("[" * 5000))
@example(text=jws('{"exp": ' + "9" * 5000 + "}"))
def test_any_token_is_checked_planned_and_shown(text: str) -> None:
    token = cases.answer(lambda: parsed(text), Unsuitable)
    if not isinstance(token, AccessToken):
        return
    notes = cases.answer(lambda: claims.check(SPEC, token, NOW), Unsuitable)
    said = [cases.said(notes)] if isinstance(notes, Unsuitable) else notes
    assert all(cases.harmless(note) for note in said)
    shown(None, token)


@given(
    left=st.floats(-1e9, 1e9),
    lifetime=st.floats(0, 1e9),
    min_lifetime=st.integers(0, 10**9),
    spread=st.integers(0, 10**9),
)
@example(left=600, lifetime=4600, min_lifetime=600, spread=1000)
def test_spread_makes_a_token_due_earlier_never_later_and_never_at_once(
    left: float, lifetime: float, min_lifetime: int, spread: int
) -> None:
    spec = file_token("x", "robot", "/tokens/x", min_lifetime=min_lifetime)
    token = Published(Found.TOKEN, "", AccessToken(Secret("x"), None), "f")

    def decision(left: float, spread: int) -> Decision:
        record = TokenRecord("x", "f", spec.asked, expires_at=NOW + lifetime, obtained_at=NOW)
        found = cases.answer(
            lambda: planner.decide(spec, token, record, NOW + lifetime - left, spread=spread), RenewerError
        )
        assert isinstance(found, Decision)
        assert cases.harmless(found.text)
        return found

    with_it, without = decision(left, spread), decision(left, 0)
    assert with_it == without or (with_it.why, without.why) == (Why.SPREAD, Why.FRESH)
    assert with_it == without or min_lifetime <= left < min_lifetime + spread
    # A token that was just obtained is not due because of spread.
    assert decision(lifetime, spread) == decision(lifetime, 0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("files")


@given(
    content=st.one_of(st.binary(max_size=200), TOKENS.map(lambda text: text.encode("utf-8", "surrogatepass")))
)
@example(content=b"x" * (jwt.MAX_LENGTH + 1))
def test_any_file_at_the_path_of_a_token_is_read(directory: Path, content: bytes) -> None:
    path = directory / "token"
    path.write_bytes(content)
    found = cases.answer(lambda: FileSink().read(file_token("x", "robot", str(path))), Unsuitable)
    assert isinstance(found, Published)
    assert cases.harmless(found.problem)
    shown(None, found.token)


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    cases.DECODED,
    st.binary(max_size=20),
    st.just("[1, 2, 3]"),
)
COLUMNS = [name for name in TokenRecord._fields if name != "name"]
RENEWED = Outcome(SPEC, State.RENEWED, "renewed", "renewed", expires_at=NOW + 3600, fingerprint="f")
FAILED = Outcome(SPEC, State.FAILED, "refused", "\ud800\x1b[31m\nthe issuer said so")


@pytest.fixture(scope="module")
def history(directory: Path) -> bytes:
    """The bytes of a history that this program wrote."""
    made = History(str(directory))
    made.record([RENEWED, FAILED], NOW)
    content = Path(made.path).read_bytes()
    os.unlink(made.path)
    return content


def used(directory: Path) -> None:
    """Reads the history and adds to it."""
    kept = History(str(directory))
    records = cases.answer(kept.records, HistoryError)
    if isinstance(records, HistoryError):
        assert cases.harmless(cases.said(records))
    else:
        shown(records.get("x"), None)
        shown(records.get("x"), jwt.parse(jws({})))
    cases.answer(lambda: kept.record([RENEWED, FAILED], NOW), HistoryError)


@given(data=st.data())
def test_a_history_with_any_bytes_is_used_or_refused(
    directory: Path, history: bytes, data: st.DataObject
) -> None:
    content = bytearray(history)
    for _ in range(data.draw(st.integers(1, 8))):
        # The header of a database matters most.
        at = data.draw(st.one_of(st.integers(0, 120), st.integers(0, len(content) - 1)))
        content[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    for leftover in directory.glob("history.sqlite*"):
        leftover.unlink()
    (directory / "history.sqlite").write_bytes(content)
    used(directory)


@given(values=st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, VALUES)))
def test_a_history_that_holds_any_values_is_used_or_refused(
    directory: Path, history: bytes, values: dict[str, Any]
) -> None:
    for leftover in directory.glob("history.sqlite*"):
        leftover.unlink()
    (directory / "history.sqlite").write_bytes(history)
    with sqlite3.connect(directory / "history.sqlite") as database:
        for name, value in values.items():
            try:
                database.execute(f"UPDATE token SET {name} = ?", (value,))
            except sqlite3.IntegrityError:
                continue
    database.close()
    used(directory)


SECRETS = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="*…"), min_size=6, max_size=40
)


@given(text=cases.TEXT, secret=SECRETS, limit=st.integers(10, 400))
@example(text="\n" * 14_994, secret="correct-horse", limit=300)
@example(text="&", secret='a"b<c>d', limit=300)
def test_text_from_outside_is_harmless_and_holds_no_secret(text: str, secret: str, limit: int) -> None:
    escaped = json.dumps(secret)[1:-1]
    for echo in (secret, escaped, escaped.replace('"', "&quot;")):
        said = cases.answer(lambda echo=echo: outside(f"{text}{echo}{text}", (secret,), limit), Unsuitable)  # type: ignore[misc]
        assert isinstance(said, str)
        assert cases.harmless(said, limit)
        assert secret not in said
