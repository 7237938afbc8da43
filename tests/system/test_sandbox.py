"""The commands that open the service's sandbox: the tests run them, and systemd reads what they write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Optional

import pytest

from osg_token_renewer.errors import Local
from osg_token_renewer.sinks.file import FileSink
from osg_token_renewer.system import paths, sandbox
from tests.faults import apart, mount
from tests.host import ROOT
from tests.specs import file_token


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks as if systemd had started it (systemd.exec(5))."""
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))


def written_by(command: Optional[str], directory: Path) -> list[str]:
    """The lines of the drop-in that `command` writes, which goes into `directory` instead of /etc."""
    assert command is not None
    shell = f"systemctl() {{ echo $* >{directory}/told; }}\n" + command.replace(
        paths.DROP_INS, str(directory / "drop-ins")
    )
    subprocess.run(["sh", "-euc", shell], check=True)
    assert (directory / "told").read_text() == "daemon-reload\n"
    (drop_in,) = (directory / "drop-ins").iterdir()
    assert drop_in.suffix == ".conf"
    return drop_in.read_text().splitlines()


@pytest.mark.parametrize(
    ("directory", "lines"),
    [
        ("/srv/tokens", ["ReadWritePaths=-/srv/tokens"]),
        ("/srv", ["ReadWritePaths=-/srv"]),
        ("/", ["ReadWritePaths=-/"]),
        ("/tmpfiles", ["ReadWritePaths=-/tmpfiles"]),
        ("/tmp", ["PrivateTmp=no", "ReadOnlyPaths=", "ReadWritePaths=-/tmp"]),
        ("/dev/shm", ["ReadOnlyPaths=", "ReadWritePaths=-/dev/shm"]),
        ("/var/tmp/x", ["PrivateTmp=no", "ReadWritePaths=-/var/tmp/x"]),
        ("/home/alice", ["ProtectHome=read-only", "ReadWritePaths=-/home/alice"]),
        ("/run/user/1000", ["ProtectHome=read-only", "ReadWritePaths=-/run/user/1000"]),
        ('/srv/50% off\'s \\ "x"', ['ReadWritePaths="-/srv/50%% off\'s \\\\ \\"x\\""']),
    ],
)
def test_the_command_for_a_directory_writes_a_drop_in(
    tmp_path: Path, directory: str, lines: list[str]
) -> None:
    assert written_by(sandbox.opening(directory), tmp_path) == ["[Service]", *lines]


def test_systemd_accepts_the_drop_in_for_a_directory_with_special_characters(tmp_path: Path) -> None:
    lines = written_by(sandbox.opening('/srv/50% off\'s \\ "x"'), tmp_path)
    unit = tmp_path / "odd.service"
    unit.write_text("\n".join([*lines, "Type=oneshot", "ExecStart=/bin/true\n"]))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_command_for_groups_takes_the_user_namespace_away(tmp_path: Path) -> None:
    assert written_by(sandbox.foreign_groups(), tmp_path) == ["[Service]", "PrivateUsers=no"]


def test_each_setting_that_a_command_changes_is_in_the_unit() -> None:
    unit = (ROOT / "systemd" / "osg-token-renewer.service").read_text().splitlines()
    assert {"PrivateTmp=yes", "ProtectHome=yes", "PrivateUsers=yes", "ProtectSystem=strict"} <= set(unit)
    read_only = [
        path.lstrip("-")
        for line in unit
        if line.startswith("ReadOnlyPaths=")
        for path in line.split("=")[1].split()
    ]
    for path in read_only:
        assert "ReadOnlyPaths=" in str(sandbox.opening(path))
    assert len(read_only) >= 4


@pytest.mark.parametrize("started", [None, "1", "0"])
def test_a_process_that_systemd_did_not_start_itself_gets_no_command(
    monkeypatch: pytest.MonkeyPatch, started: Optional[str]
) -> None:
    """A shell, a cron job or a test inherits the environment of the service that started it."""
    if started is None:
        monkeypatch.delenv("SYSTEMD_EXEC_PID")
    else:
        monkeypatch.setenv("SYSTEMD_EXEC_PID", started)
    assert (sandbox.opening("/srv"), sandbox.foreign_groups(), sandbox.hides("/home/alice")) == (
        None,
        None,
        False,
    )


def test_a_read_only_directory_is_reported_with_the_command(tmp_path: Path) -> None:
    def body() -> None:
        os.environ["SYSTEMD_EXEC_PID"] = str(os.getpid())
        mount(tmp_path, "remount,ro")
        with pytest.raises(
            Local, match=f"^no file can be made in {tmp_path}: Read-only file system$"
        ) as failure:
            FileSink().preflight(file_token("x", "a", str(tmp_path / "x")))
        assert failure.value.hint == f"if the service's unit forbids it: {sandbox.opening(str(tmp_path))}"

    apart(body, tmpfs={tmp_path: "size=128k"})


@pytest.mark.parametrize(
    "directory", ["/home/nobody-has-this", "/run/user/nobody-has-this", "/var/tmp/nobody-has-this"]
)
def test_a_directory_that_the_unit_hides_is_reported_with_the_command(directory: str) -> None:
    with pytest.raises(
        Local, match=f"^the service's unit hides the directory {directory}, or it cannot be used: "
    ) as failure:
        FileSink().preflight(file_token("x", "a", f"{directory}/x"))
    assert failure.value.hint == f"let the service see it: {sandbox.opening(directory)}"


def test_a_directory_that_does_not_exist_is_reported_as_missing() -> None:
    with pytest.raises(Local, match=r"^there is no directory /srv/nobody-has-this$"):
        FileSink().preflight(file_token("x", "a", "/srv/nobody-has-this/x"))
