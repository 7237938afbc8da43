"""The units, as systemd reads them; cron's line; and the shim that the service starts."""

from __future__ import annotations

import configparser
import os
import re
import signal
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from osg_token_renewer import options
from osg_token_renewer.config import VARIABLE
from osg_token_renewer.engine import run as engine
from osg_token_renewer.model import Account, RenewerSettings
from osg_token_renewer.system import locks, paths, users
from tests.host import LONGEST, ROOT, Host, has_open, until

UNITS = ROOT / "systemd"
SERVICE, TIMER = UNITS / "osg-token-renewer.service", UNITS / "osg-token-renewer.timer"
SHIM = ROOT / "libexec" / "osg-token-renewer.sh"
INSTALLED = "/usr/libexec/osg-token-renewer/"
# A configuration whose only token fails without a request.
FAILING = (
    "[account a]\npassword_file = /nonexistent/a.pw\n[token t]\naccount = a\ntoken_path = /nonexistent/t\n"
)


def unit(name: str) -> configparser.ConfigParser:
    # Of a setting that is there several times, such as SystemCallFilter, this keeps the last one.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    # systemd's names are case-sensitive.
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNITS / name)
    return parser


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )


def test_systemd_accepts_the_units_without_a_warning(tmp_path: Path) -> None:
    for file in (SERVICE, TIMER):
        # The program is not installed here, so the checkout's shim takes its place.
        (tmp_path / file.name).write_text(file.read_text().replace(INSTALLED, f"{SHIM.parent}/"))
    done = systemd_analyze("verify", "--man=no", *(str(tmp_path / file.name) for file in (SERVICE, TIMER)))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_warns_of_a_wrong_unit(tmp_path: Path) -> None:
    (tmp_path / "wrong.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\nKilMode=mixed\n")
    assert "KilMode" in systemd_analyze("verify", "--man=no", str(tmp_path / "wrong.service")).stderr


def test_the_service_starts_the_shim_as_the_service_user() -> None:
    service = unit("osg-token-renewer.service")["Service"]
    assert service["ExecStart"] == INSTALLED + SHIM.name
    assert os.access(SHIM, os.X_OK)
    assert (service["User"], service["Group"], service["Type"]) == (
        users.SERVICE_USER,
        users.SERVICE_USER,
        "oneshot",
    )
    # The program's defaults, used when systemd has not set the environment.
    assert f"/run/{service['RuntimeDirectory']}" == paths.RUNTIME
    assert f"/var/lib/{service['StateDirectory']}" == paths.STATE
    assert (service["RuntimeDirectoryMode"], service["StateDirectoryMode"], service["UMask"]) == (
        "0700",
        "0700",
        "0077",
    )


def test_a_stop_of_the_service_does_not_signal_the_agents() -> None:
    """An agent that is ended between the issuer's answer and its own write of it loses the account."""
    assert unit("osg-token-renewer.service")["Service"]["KillMode"] == "mixed"


def test_the_service_is_as_restricted_as_documented() -> None:
    shown = systemd_analyze("security", "--offline=true", "--no-pager", str(SERVICE)).stdout
    exposure = re.search(r"exposure level for osg-token-renewer.service: ([0-9.]+)", shown)
    assert exposure is not None, shown
    assert float(exposure[1]) <= 1.2, shown


def test_each_exception_in_the_sandbox_has_a_comment() -> None:
    """A line above each exception says why it is there."""
    lines = SERVICE.read_text().splitlines()
    for setting in (
        "ReadWritePaths=",
        "RestrictAddressFamilies=",
        "SystemCallFilter=@chown",
        "ProcSubset=",
        "PrivateUsers=",
        "KillMode=",
    ):
        (number,) = (number for number, line in enumerate(lines) if line.startswith(setting))
        above = [line for line in lines[number - 3 : number] if not line.startswith("ProtectSystem=")]
        assert any(line.startswith("# ") for line in above), setting


def test_the_limits_of_the_unit_are_longer_than_those_of_a_run() -> None:
    """The unit's limits are the last resort: a run ends by itself before, also when it is stopped."""
    service = unit("osg-token-renewer.service")["Service"]
    longest = options.time_limit("3600")
    assert seconds(service["TimeoutStartSec"]) > engine.longest(RenewerSettings(run_timeout=longest))
    assert seconds(service["TimeoutStopSec"]) > engine.longest_stop(
        {"a": Account("a", "oidc-agent", None, timeout=longest)}
    )


def seconds(timespan: str) -> float:
    return float(systemd_analyze("timespan", timespan).stdout.split("μs:")[1].split()[0]) / 1e6


def test_cron_runs_only_if_its_line_is_uncommented_and_the_timer_is_not_active(tmp_path: Path) -> None:
    lines = (ROOT / "etc" / "cron.d" / "osg-token-renewer").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    (entry,) = (line for line in lines if line.startswith("#*/15 * * * * osg-token-svc "))
    command = entry.split(maxsplit=6)[-1].replace(INSTALLED + SHIM.name, str(tmp_path / "renewer"))
    (tmp_path / "renewer").write_text("#!/bin/sh\necho it runs $*\n")
    (tmp_path / "renewer").chmod(0o755)

    def printed(systemctl: str) -> str:
        path = tmp_path / "systemctl"
        path.write_text(
            f"#!/bin/sh\n[ \"$*\" = 'is-active --quiet osg-token-renewer.timer' ] || exit 99\n{systemctl}\n"
        )
        path.chmod(0o755)
        shell = ["/bin/sh", "-c", command]
        return subprocess.run(
            shell, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
        ).stdout

    assert printed("exit 0") == ""
    assert printed("exit 3") == "it runs -q\n"
    assert printed("exit 99") == "it runs -q\n"


def test_the_timer_fires_every_15_minutes_with_a_random_delay_and_soon_after_boot() -> None:
    timer = unit("osg-token-renewer.timer")["Timer"]
    shown = systemd_analyze("calendar", "--iterations=5", timer["OnCalendar"]).stdout
    clock = [
        datetime.strptime(line.split()[-2], "%H:%M:%S") for line in shown.splitlines() if line.endswith("UTC")
    ]
    assert len(clock) == 5
    assert {(later - earlier) % timedelta(days=1) for earlier, later in zip(clock, clock[1:])} == {
        timedelta(minutes=15)
    }
    assert "3min" in systemd_analyze("timespan", timer["RandomizedDelaySec"]).stdout
    assert systemd_analyze("timespan", timer["OnBootSec"]).returncode == 0
    # `OnCalendar=` in a drop-in clears OnBootSec; this still makes up for a missed run at boot.
    assert timer["Persistent"] == "true"
    assert unit("osg-token-renewer.timer")["Install"]["WantedBy"] == "timers.target"


@pytest.mark.parametrize(
    ("config", "arguments", "status"),
    [
        ("", [], 0),
        ("", ["no-such-command"], 2),
        ("[token t]\n", [], 78),
        (None, [], 78),
        (
            FAILING,
            [],
            1,
        ),
    ],
)
def test_the_shim_exits_with_the_status_of_the_program(
    host: Host, config: str, arguments: list[str], status: int
) -> None:
    if config is not None:
        host.configure(config)
    env = host.environment({VARIABLE: str(host.config)})
    done = subprocess.run(
        [str(SHIM), *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert done.returncode == status, done.stderr


def test_a_signal_to_the_shim_reaches_the_program(host: Host) -> None:
    host.configure(FAILING)
    link = host.root / "link"
    link.symlink_to(SHIM)
    with locks.hold_run_lock(str(host.state / "lock"), 0):
        run = host.popen([str(link)], {VARIABLE: str(host.config)})
        # It now waits for the lock, and its signal handlers are in place.
        until(lambda: has_open(run.pid, host.state / "lock"))
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
