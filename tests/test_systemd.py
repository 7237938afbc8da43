"""The units, as systemd itself reads them, and the shim that the service starts."""

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
from osg_token_renewer.model import Account, Options
from osg_token_renewer.system import locks, paths, users
from tests.host import LONGEST, ROOT, Host, has_open, until

UNITS = ROOT / "systemd"
SERVICE, TIMER = UNITS / "osg-token-renewer.service", UNITS / "osg-token-renewer.timer"
SHIM = ROOT / "libexec" / "osg-token-renewer.sh"
INSTALLED = "/usr/libexec/osg-token-renewer/"


def unit(name: str) -> configparser.ConfigParser:
    # Of an option that stands several times, as SystemCallFilter does, the last one.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    # As systemd does, and not in lower case.
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


def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    for file in (SERVICE, TIMER):
        # The only thing that is missing here is what the package installs.
        (tmp_path / file.name).write_text(file.read_text().replace(INSTALLED, f"{SHIM.parent}/"))
    done = systemd_analyze("verify", "--man=no", *(str(tmp_path / file.name) for file in (SERVICE, TIMER)))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_say_something_against_a_unit_that_is_wrong(tmp_path: Path) -> None:
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
    # Where the program looks for them when systemd does not say so.
    assert f"/run/{service['RuntimeDirectory']}" == paths.RUNTIME
    assert f"/var/lib/{service['StateDirectory']}" == paths.STATE
    assert (service["RuntimeDirectoryMode"], service["StateDirectoryMode"], service["UMask"]) == (
        "0700",
        "0700",
        "0077",
    )


def test_a_stop_of_the_service_does_not_reach_the_agents() -> None:
    """An agent that is ended between the issuer's answer and its own writing of it loses the account."""
    assert unit("osg-token-renewer.service")["Service"]["KillMode"] == "mixed"


def test_the_service_has_no_more_power_than_it_needs() -> None:
    shown = systemd_analyze("security", "--offline=true", "--no-pager", str(SERVICE)).stdout
    exposure = re.search(r"exposure level for osg-token-renewer.service: ([0-9.]+)", shown)
    assert exposure is not None, shown
    assert float(exposure[1]) <= 1.2, shown


def test_each_exception_from_the_hardening_has_its_comment() -> None:
    """A setting that takes something back, or names what may be used, stands below a line that says why."""
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


def test_a_run_has_longer_than_it_allows_itself() -> None:
    """The unit's limits are the last resort: a run ends itself before, and lets a request finish when it is
    stopped."""
    service = unit("osg-token-renewer.service")["Service"]
    longest = options.time_limit("3600")
    assert seconds(service["TimeoutStartSec"]) > engine.longest(Options(run_timeout=longest))
    assert seconds(service["TimeoutStopSec"]) > engine.longest_stop(
        {"a": Account("a", "oidc-agent", None, timeout=longest)}
    )


def seconds(timespan: str) -> float:
    return float(systemd_analyze("timespan", timespan).stdout.split("μs:")[1].split()[0]) / 1e6


def test_cron_does_nothing_until_it_is_told_to_and_nothing_where_the_timer_is_active(tmp_path: Path) -> None:
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


def test_the_timer_fires_every_quarter_of_an_hour_with_some_random_delay_and_soon_after_boot() -> None:
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
    # With `OnCalendar=` in a drop-in OnBootSec is gone; what was missed is made up for all the same.
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
            "[account a]\npassword_file = /nonexistent/a.pw\n[token t]\naccount = a\ntoken_path = /nonexistent/t\n",
            [],
            1,
        ),
    ],
)
def test_the_exit_status_of_the_shim_is_that_of_the_program(
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


def test_the_shim_becomes_the_program_so_that_a_signal_reaches_it(host: Host) -> None:
    host.configure(
        "[account a]\npassword_file = /nonexistent/a.pw\n[token t]\naccount = a\ntoken_path = /nonexistent/t\n"
    )
    link = host.root / "link"
    link.symlink_to(SHIM)
    with locks.hold_run_lock(str(host.state / "lock"), 0):
        run = host.popen([str(link)], {VARIABLE: str(host.config)})
        # It waits for the lock, with its signal handlers in place.
        until(lambda: has_open(run.pid, host.state / "lock"))
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
