"""The rotation of the log file of cron's runs, with the real logrotate."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.host import ROOT

INSTALLED = ROOT / "etc" / "logrotate.d" / "osg-token-renewer"
LOG = "/var/log/osg-token-renewer.log"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / Path(LOG).name


def logrotate(log: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs logrotate with the installed configuration; only the path of the log differs."""
    configuration = log.with_name("logrotate.conf")
    configuration.write_text(INSTALLED.read_text().replace(LOG, str(log)))
    configuration.chmod(0o644)
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program
    command = [program, "--state", str(log.with_name("state")), *options, str(configuration)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_logrotate_accepts_the_configuration(log: Path) -> None:
    done = logrotate(log, "--debug")
    assert done.returncode == 0
    assert "error" not in done.stderr
    assert f"considering log {log}" in done.stderr


def test_without_the_log_file_nothing_happens(log: Path) -> None:
    done = logrotate(log, "--force")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not log.exists()


def test_the_new_log_has_owner_and_mode_of_the_old_one(log: Path) -> None:
    for text in ("first\n", "second\n"):
        with log.open("a") as file:
            file.write(text)
        log.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(log, 12345, 12346)
        before = log.stat()
        done = logrotate(log, "--force")
        assert (done.returncode, done.stderr) == (0, "")
        after = log.stat()
        assert (after.st_size, after.st_mode, after.st_uid, after.st_gid) == (
            0,
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )
    assert log.with_name(f"{log.name}.1").read_text() == "second\n"
    assert log.with_name(f"{log.name}.2.gz").exists()


def test_an_empty_log_is_left_alone(log: Path) -> None:
    log.touch()
    assert logrotate(log, "--force").returncode == 0
    assert [path.name for path in log.parent.iterdir() if path.name.startswith(f"{log.name}.")] == []
