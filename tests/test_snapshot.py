"""What says that nothing has changed is believed only if nothing has."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osg_token_renewer import config, identity, jwt, renew, snapshot
from osg_token_renewer.history import History
from osg_token_renewer.model import Outcome, State
from osg_token_renewer.stop import Stop
from tests.host import LONGEST, ROOT, Host, Result, section
from tests.test_jwt import jws

# Far from where a minute ends: what two runs say of it is the same.
LIFETIME = 7230
MIN_LIFETIME = 1800
SETTLED = snapshot.SETTLED


def tick() -> None:
    """What comes after this has another time than what came before, also where a file system's clock is slow to move on."""
    time.sleep(0.05)


class Site:
    """Two fresh tokens, of an account of each kind, which the history knows; the state directory is the service manager's."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.main = str(host.config)
        self.file = host.state / snapshot.FILE
        self.environment = {"STATE_DIRECTORY": str(host.state), "RUNTIME_DIRECTORY": str(host.runtime)}
        self.drop_ins = host.config.parent / "config.d"
        self.drop_ins.mkdir(mode=0o700)
        host.secret("robot.pw", "hunter2\n")
        self.tokens = [host.tokens / "x", host.tokens / "y"]
        for path in self.tokens:
            host.secret(f"tokens/{path.name}", self.token())
        self.configure()
        self.remember()
        tick()

    def token(self, lifetime: float = LIFETIME) -> str:
        return jws({"exp": int(time.time()) + lifetime, "jti": os.urandom(4).hex()}) + "\n"

    def configure(self, renewer: str = "", **options: object) -> None:
        """`options` are those of the token x."""
        client = {
            "token_request_url": "https://127.0.0.1:1/token",
            "client_id": "probe",
            "client_secret_file": self.host.secret("secret", "s\n"),
        }
        sections = [
            section("account robot", {"password_file": self.host.root / "robot.pw"}),
            section("account probe", client),
            self.host.token("x", "robot", **{"min_lifetime": MIN_LIFETIME, **options}),
            self.host.token("y", "probe", min_lifetime=MIN_LIFETIME),
        ]
        self.host.write_config("".join(sections) + renewer)

    def remember(self) -> None:
        """As the run that obtained the tokens would."""
        outcomes = []
        for spec in config.load(self.main).tokens:
            token = jwt.parse(Path(spec.path).read_text())
            print_ = jwt.fingerprint(token.text.reveal())
            outcomes.append(Outcome(spec, State.RENEWED, "renewed", "", expires_at=token.expires_at, token=token, fingerprint=print_))
        History(str(self.host.state)).record(outcomes, time.time())

    def look(self) -> None:
        """What a run does that looks at everything."""
        began = time.time()
        found = config.load(self.main)
        run = renew.Run(found, force=False, stop=Stop())
        planned = run.plan()
        run.take_snapshot(self.main, planned, began)

    def holds(self) -> bool:
        return snapshot.nothing_due(self.main) is not None

    def run(self, *arguments: str) -> Result:
        return self.host.run(*arguments, env=self.environment)

    def edit(self, **content: Any) -> None:
        self.file.write_text(json.dumps({**json.loads(self.file.read_text()), **content}))


@pytest.fixture
def site(host: Host, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(snapshot, "SETTLED", 0.0)
    for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    found = Site(host)
    monkeypatch.setenv("STATE_DIRECTORY", str(host.state))
    return found


@pytest.fixture
def seen(site: Site) -> Site:
    """The same, once a run has looked at it."""
    site.look()
    assert site.holds()
    return site


def opened(site: Site) -> tuple[list[str], list[str]]:
    """A run with nothing due: the files that it opens, and the modules that it loads."""
    script = """
import json, sys
files = []
sys.addaudithook(lambda event, args: files.append(str(args[0])) if event == "open" else None)
sys.path.insert(0, sys.argv[1])
from osg_token_renewer.cli import main
status = main(sys.argv[2:])
print(json.dumps([status, files, sorted(sys.modules)]))
"""
    command = [sys.executable, "-I", "-c", script, str(ROOT), "--config", site.main]
    environment = site.host.environment(site.environment)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=True)
    status, files, modules = json.loads(done.stdout)
    assert status == 0, done.stderr
    return files, modules


def test_a_run_after_one_that_found_nothing_due_reads_neither_configuration_nor_tokens(site: Site) -> None:
    ours = {site.main, *map(str, site.tokens)}
    time.sleep(SETTLED + 0.1)
    files, modules = opened(site)
    assert ours <= set(files)
    assert "configparser" in modules
    files, modules = opened(site)
    assert ours & set(files) == set()
    assert str(site.file) in files
    assert not {"configparser", "sqlite3", "dataclasses", "hashlib", "subprocess", "osg_token_renewer.model"} & set(modules)


def test_it_says_what_a_run_says_that_looks_at_everything(seen: Site) -> None:
    quickly, fully = seen.run(), seen.run("renew", "x", "y")
    assert quickly == fully
    assert quickly.stderr.splitlines()[-1] == "2 tokens: 0 renewed, 2 fresh, 0 failed"
    assert seen.run("--quiet") == Result(0, "", "")


def replace_token(site: Site) -> None:
    new = site.host.tokens / "new"
    new.write_text(site.tokens[0].read_text())
    new.chmod(0o600)
    new.rename(site.tokens[0])


def link_to_token(site: Site) -> None:
    """The same file; as on a file system that notes no change of a file that is moved."""
    site.tokens[0].rename(site.host.root / "moved")
    site.tokens[0].symlink_to(site.host.root / "moved")
    site.edit(tokens=[[*each[:3], identity.at(each[1])] for each in json.loads(site.file.read_text())["tokens"]])


def move_below_an_open_directory(site: Site) -> None:
    """The files stay the same, and the path to them."""
    place = site.host.config.parent
    (site.host.root / "open").mkdir()
    (site.host.root / "open").chmod(0o777)
    place.rename(site.host.root / "open" / "etc")
    place.symlink_to(site.host.root / "open" / "etc")


def rewrite_token(site: Site) -> None:
    """With as many characters, and the times of before."""
    status = site.tokens[0].stat()
    site.tokens[0].write_text(site.tokens[0].read_text().swapcase())
    os.utime(site.tokens[0], ns=(status.st_atime_ns, status.st_mtime_ns))


def link_to_below_an_open_directory(site: Site) -> None:
    place = site.host.root / "open"
    place.mkdir()
    place.chmod(0o777)
    site.host.config.rename(place / "config.ini")
    site.host.config.symlink_to(place / "config.ini")
    seen = json.loads(site.file.read_text())["files"]
    # As on a file system that notes no change of a file that has another name.
    site.edit(files={path: identity.at(path) for path in seen})


CHANGES: dict[str, Callable[[Site], object]] = {
    "a token is another": lambda site: site.tokens[1].write_text(site.token()),
    "a token is rewritten": rewrite_token,
    "a token is replaced by a copy": replace_token,
    "a token is moved and linked to": link_to_token,
    "a token is gone": lambda site: site.tokens[0].unlink(),
    "a token has another mode": lambda site: site.tokens[0].chmod(0o640),
    "its directory is gone": lambda site: site.host.tokens.rename(site.host.root / "away"),
    "the configuration is where everyone can write": move_below_an_open_directory,
    "the configuration is a link to where everyone can write": link_to_below_an_open_directory,
    "the configuration is another": lambda site: site.configure(min_lifetime=MIN_LIFETIME + 1),
    "the configuration has another mode": lambda site: site.host.config.chmod(0o640),
    "there is a drop-in": lambda site: (site.drop_ins / "a.ini").write_text("[token x]\nscope = a\n"),
    "the directory of drop-ins is gone": lambda site: site.drop_ins.rmdir(),
    "others can write to a directory on the way": lambda site: site.host.config.parent.chmod(0o777),
    "the password file is gone": lambda site: (site.host.root / "robot.pw").unlink(),
    "others can read a secret": lambda site: (site.host.root / "secret").chmod(0o644),
    "the history is another": lambda site: site.remember(),
    "the history is gone": lambda site: (site.host.state / "history.sqlite").unlink(),
    "a killed program was writing the history": lambda site: (site.host.state / "history.sqlite-journal").write_text(""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_everything_is_looked_at_when(seen: Site, change: Callable[[Site], object]) -> None:
    tick()
    change(seen)
    assert not seen.holds()


def test_everything_is_looked_at_when_a_token_is_due_and_once_an_hour(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for lifetime, hold in ((MIN_LIFETIME + 600, 600.0), (LIFETIME + 3600, snapshot.LONGEST)):
        site.tokens[0].write_text(site.token(lifetime))
        site.look()
        now = time.time()
        for later, holds in ((0, True), (hold - 60, True), (hold + 1, False), (-60, False)):
            with monkeypatch.context() as clock:
                clock.setattr(time, "time", lambda at=now + later: at)
                assert site.holds() is holds, later


def test_everything_is_looked_at_by_another_user_version_or_configuration(seen: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("os.getegid", lambda: 12345), ("os.getgroups", lambda: [12345])):
        with monkeypatch.context() as changed:
            changed.setattr(name, value)
            assert not seen.holds()
    with monkeypatch.context() as changed:
        changed.setattr(snapshot, "__version__", "0")
        assert not seen.holds()
    with monkeypatch.context() as changed:
        changed.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
        assert not seen.holds()
    other = seen.host.config.with_name("other.ini")
    shutil.copy2(seen.host.config, other)
    assert snapshot.nothing_due(str(other)) is None
    assert seen.holds()


def test_a_name_that_means_another_group_by_now_is_seen(site: Site) -> None:
    own = grp.getgrgid(os.getegid())
    site.configure(group=own.gr_name)
    site.remember()
    site.look()
    assert site.holds()
    assert json.loads(site.file.read_text())["ids"] == {f"group {own.gr_name}": own.gr_gid}
    for other in (own.gr_gid + 1, None):
        site.edit(ids={f"group {own.gr_name}": other})
        assert not site.holds()


@pytest.mark.parametrize("name", ["current/../robot.pw", "robot.pw"])
def test_paths_to_another_secret_are_not_taken_for_the_same(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Which differ only where a link, or the working directory, leads."""
    for place in ("closed", "open"):
        (site.host.root / place / "inner").mkdir(parents=True)
        site.host.secret(f"{place}/robot.pw", "hunter2\n")
    current = site.host.root / "current"
    current.symlink_to(site.host.root / "closed" / "inner")
    monkeypatch.chdir(site.host.root / "closed")
    path = name if name == "robot.pw" else site.host.root / name
    site.host.write_config(site.host.config.read_text().replace(f"{site.host.root}/robot.pw", str(path)))
    site.look()
    assert site.holds()
    current.unlink()
    current.symlink_to(site.host.root / "open" / "inner")
    if path == name:
        monkeypatch.chdir(site.host.root / "open")
    assert not site.holds()


def test_a_working_directory_that_is_gone_costs_a_snapshot_and_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.host.write_config(site.host.config.read_text().replace(f"{site.host.root}/robot.pw", "robot.pw"))
    gone = site.host.root / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    site.look()
    assert not site.file.exists()
    assert not site.holds()


def test_a_directory_that_has_been_opened_to_all_meanwhile_is_in_no_snapshot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = renew.Run.plan

    def and_then_somebody_opens_it(run: renew.Run) -> Any:
        planned = plan(run)
        site.host.config.parent.chmod(0o777)
        return planned

    monkeypatch.setattr(renew.Run, "plan", and_then_somebody_opens_it)
    site.look()
    assert not site.file.exists()


def test_paths_to_another_configuration_are_not_taken_for_this_one(seen: Site) -> None:
    """Which differ only where a link leads."""
    elsewhere = seen.host.root / "elsewhere" / "etc"
    elsewhere.mkdir(parents=True)
    shutil.copy2(seen.host.config, elsewhere.parent)
    (seen.host.config.parent / "link").symlink_to(elsewhere)
    other = f"{seen.host.config.parent}/link/../config.ini"
    assert Path(other).samefile(elsewhere.parent / "config.ini")
    assert snapshot.nothing_due(other) is None


@pytest.mark.parametrize("arguments", [["-v"], ["renew", "x"], ["renew", "--dry-run"], ["renew", "--force"]])
def test_who_wants_to_know_more_is_not_answered_from_a_snapshot(seen: Site, arguments: list[str]) -> None:
    usual = seen.run()
    assert usual.status == 0
    # A snapshot of what never was: whoever believes it says that all is well.
    seen.tokens[0].write_text(seen.token(-60))
    entries = json.loads(seen.file.read_text())["tokens"]
    entries[0][1:] = [str(seen.tokens[0]), time.time() + LIFETIME, identity.at(str(seen.tokens[0]))]
    seen.edit(tokens=entries)
    assert seen.run() == usual
    assert seen.run(*arguments) != usual


# what a snapshot is taken of


def with_a_due_token(site: Site) -> None:
    site.tokens[0].unlink()


def without_a_history(site: Site) -> None:
    (site.host.state / "history.sqlite").unlink()


def with_a_damaged_history(site: Site) -> None:
    (site.host.state / "history.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4000))


def with_state_elsewhere(site: Site) -> None:
    elsewhere = site.host.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    shutil.copy(site.host.state / "history.sqlite", elsewhere)
    site.configure(section("renewer", {"state_dir": elsewhere}))


def without_room(site: Site) -> None:
    (site.host.state / f"{snapshot.FILE}.new").mkdir()


@pytest.mark.parametrize("make", [with_a_due_token, without_a_history, with_a_damaged_history, with_state_elsewhere, without_room])
def test_there_is_no_snapshot(site: Site, make: Callable[[Site], None]) -> None:
    make(site)
    site.look()
    assert not site.file.exists()
    assert not site.holds()


@pytest.mark.parametrize("changed", ["tokens/y", "etc/config.ini", "state/history.sqlite"])
def test_what_has_just_changed_may_change_again_within_the_same_tick(site: Site, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    monkeypatch.setattr(snapshot, "SETTLED", SETTLED)
    site.look()
    assert not site.file.exists()
    time.sleep(SETTLED + 0.1)
    path = site.host.root / changed
    path.touch()
    site.look()
    assert not site.file.exists()


def switch_release(site: Site) -> None:
    """To a configuration that has been there for long."""
    place = site.host.config.parent
    place.unlink()
    place.symlink_to(site.host.root / "v2")


@pytest.mark.parametrize(
    "change",
    [
        lambda site: site.tokens[1].write_text(site.token(60)),
        lambda site: site.configure(min_lifetime=1),
        lambda site: site.remember(),
        lambda site: (site.drop_ins / "a.ini").write_text(""),
        switch_release,
    ],
    ids=["a token", "the configuration", "the history", "a drop-in", "the link to the configuration"],
)
def test_what_changes_while_a_run_reads_is_in_no_snapshot(
    site: Site, monkeypatch: pytest.MonkeyPatch, change: Callable[[Site], object]
) -> None:
    """Also where the clock of the file system is behind, and so does not tell that it was just now."""
    place = site.host.config.parent
    shutil.copytree(place, site.host.root / "v2")
    place.rename(site.host.root / "v1")
    place.symlink_to(site.host.root / "v1")
    plan = renew.Run.plan

    def and_then_somebody_writes(run: renew.Run) -> Any:
        planned = plan(run)
        tick()
        change(site)
        return planned

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(renew.Run, "plan", and_then_somebody_writes)
        meanwhile.setattr(snapshot, "SETTLED", -60.0)
        site.look()
    assert site.file.exists()
    assert not site.holds()


def test_warnings_are_repeated(site: Site) -> None:
    (site.host.root / "secret").chmod(0o644)
    site.look()
    assert site.holds()
    quickly, fully = site.run(), site.run("renew", "x", "y")
    assert quickly == fully
    assert quickly.stderr.startswith(f"warning: {site.main}:")


def test_a_credential_that_is_made_anew_for_each_run_is_the_same(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd does; what is in it a run with nothing due does not ask."""
    directory = site.host.root / "credentials"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(snapshot, "SETTLED", SETTLED)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    text = site.host.config.read_text().replace(str(site.host.root / "robot.pw"), "credential:robot")
    site.host.write_config(text)
    time.sleep(SETTLED + 0.1)
    for number in range(3):
        (directory / "robot").unlink(missing_ok=True)
        (directory / f"new{number}").write_text("hunter2\n")
        (directory / f"new{number}").chmod(0o400)
        (directory / f"new{number}").rename(directory / "robot")
        assert site.holds() is (number > 0)
        site.look()


@pytest.mark.parametrize(
    ("make", "why"),
    [(without_a_history, "token x is not in the history"), (with_state_elsewhere, "state_dir names another directory than the default")],
)
def test_who_asks_is_told_why_the_next_run_reads_everything(site: Site, make: Callable[[Site], None], why: str) -> None:
    make(site)
    done = site.run("-v")
    assert done.status == 0
    assert why in done.line("no snapshot is kept, so the next run reads everything, too: ")


def test_the_last_of_two_snapshots_counts_and_nothing_else_is_left(seen: Site) -> None:
    (seen.host.state / f"{snapshot.FILE}.new").write_text("of a run that was killed")
    seen.tokens[0].write_text(seen.token())
    seen.look()
    assert seen.holds()
    assert {path.name for path in seen.host.state.iterdir()} == {"history.sqlite", snapshot.FILE}
    assert seen.file.stat().st_mode & 0o777 == 0o600
    said = seen.file.read_text()
    assert not any(path.read_text().strip() in said for path in seen.tokens)


# a snapshot that makes no sense


def forge_link(file: Path) -> None:
    file.symlink_to(file.rename(file.with_name("elsewhere")))


def forge_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "spoil",
    [lambda file: file.chmod(0o620), lambda file: file.chmod(0o602), forge_link, forge_pipe, truncate, Path.unlink],
    ids=["a group can write it", "others can write it", "a link", "a pipe", "half of it", "gone"],
)
def test_a_snapshot_that_is_not_this_users_own_and_whole_is_not_believed(seen: Site, spoil: Callable[[Path], None]) -> None:
    spoil(seen.file)
    assert not seen.holds()
    seen.look()
    assert seen.holds()


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "7", '{"situation": []}', "[" * 100_000, "\0", "NaN"])
def test_any_other_content_is_none(seen: Site, content: str) -> None:
    seen.file.write_text(content)
    assert not seen.holds()


if os.geteuid() == 0:  # nobody else can give files away

    @pytest.mark.parametrize("given", ["tokens/x", f"state/{snapshot.FILE}"])
    def test_what_belongs_to_somebody_else_by_now_is_looked_at(seen: Site, given: str) -> None:
        os.chown(seen.host.root / given, 1, -1)
        assert not seen.holds()


@pytest.mark.parametrize("name", ["situation", "taken_at", "until", "ids", "files", "permissions", "real", "tokens"])
@pytest.mark.parametrize("value", [None, -(10**400), "x", [7], [[]], {"x": 7}, {"/": []}, [["x", 10**30, "x", 7]]])
def test_a_part_that_makes_no_sense_is_none(seen: Site, name: str, value: Any) -> None:
    seen.edit(**{name: value})
    assert not seen.holds()
