"""The steps of an administrator, from `dnf install` to `dnf remove`. Each test is a step and builds on those
before it."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osg_token_renewer import __version__
from testbed import Issuer
from tests.host import SCOPE, spare_adding
from tests.machine.machine import Machine, until

SERVICE, TIMER = "osg-token-renewer.service", "osg-token-renewer.timer"
CONFIG = "/etc/osg/token-renewer/config.ini"
DROP_IN = "/etc/osg/token-renewer/config.d/lifetime.ini"
CA = "/etc/osg/issuer-ca.pem"
TOKEN = "/etc/osg/tokens/myaccount.ce.token"
FREQUENCY = "/etc/systemd/system/osg-token-renewer.timer.d/timer-frequency.conf"
USER = "osg-token-svc"

TOKEN_SECTION = f"""
[token ce]
account = myaccount
token_path = {TOKEN}
audience = ce.example.org:9619
scope = compute.read compute.create
"""
# The documented override, but every five seconds and exactly then.
FREQUENCY_OVERRIDE = """\
[Timer]
OnCalendar=
OnCalendar=*:*:0/5
RandomizedDelaySec=0
AccuracySec=1ms
"""
PASTED = re.compile(r"printf .* && systemctl daemon-reload")


def look(machine: Machine, path: str) -> str:
    """The owner, group and mode of a file, as "owner:group mode"."""
    return machine.output("stat", "--format=%U:%G %a", path)


def start(machine: Machine) -> str:
    """Runs the service; returns what the journal has of this run. `succeeded` says whether it succeeded."""
    machine.run("journalctl", "--sync")
    cursor = machine.output("journalctl", "--quiet", "--lines=0", "--show-cursor").removeprefix("-- cursor: ")
    machine.run("systemctl", "start", SERVICE, check=False)
    machine.run("journalctl", "--sync")
    return machine.output("journalctl", "--output=cat", "--unit", SERVICE, f"--after-cursor={cursor}")


def journal(machine: Machine) -> str:
    machine.run("journalctl", "--sync")
    return machine.output("journalctl", "--no-pager", "-eu", "osg-token-renewer")


def succeeded(machine: Machine) -> bool:
    return machine.output("systemctl", "show", "--property=Result", "--value", SERVICE) == "success"


def token(machine: Machine) -> str:
    return machine.read(TOKEN).strip() if machine.exists(TOKEN) else ""


def another_token(machine: Machine) -> None:
    """Waits until the timer has replaced the token."""
    before = token(machine)
    until(lambda: token(machine) not in ("", before), lambda: f"another token\n{journal(machine)}")


def traces(machine: Machine) -> set[str]:
    """All paths with the name of this program or its user, except dnf's own notes."""
    script = (
        "find /etc /opt /run /usr /var -path '*/dnf/*' -prune -o "
        "'(' -path '/etc/osg*' -o -path '*osg[-_]token*' ')' -print"
    )
    return set(machine.shell(script).splitlines())


def test_0_dnf_installs_the_packages_and_what_they_require(machine: Machine) -> None:
    assert traces(machine) == set(), "osg-token-renewer is on this machine: the tests need one without it"
    machine.run("dnf", "-y", "install", "osg-token-renewer")
    installed = machine.output("rpm", "-qa", "--qf=%{NAME} ").split()
    assert sorted(installed) == ["debian-stand-in", "osg-token-renewer", "osg-token-renewer-client"]
    for command in ("osg-token-renewer", "osg-token-renewer-setup"):
        assert machine.output(command, "--version") == f"{command} {__version__}"


def test_1_user_group_directories_modes_and_units_are_as_documented(machine: Machine) -> None:
    name, _, uid, gid, _, home, shell = machine.output("getent", "passwd", USER).split(":")
    assert (name, home, shell) == (USER, "/var/spool/osg-token-svc", "/sbin/nologin")
    assert machine.output("getent", "group", USER).split(":")[2] == gid
    assert 0 < int(uid) < 1000
    wanted = {
        "/etc/osg/token-renewer": f"root:{USER} 750",
        "/etc/osg/token-renewer/config.d": f"root:{USER} 750",
        CONFIG: f"root:{USER} 640",
        "/etc/osg/tokens": f"root:{USER} 770",
        "/var/spool/osg-token-svc": f"{USER}:{USER} 700",
        "/var/lib/osg-token-renewer": f"{USER}:{USER} 700",
        "/run/osg-token-renewer": f"{USER}:{USER} 700",
        "/etc/cron.d/osg-token-renewer": "root:root 644",
        "/usr/sbin/osg-token-renewer-setup": "root:root 755",
        "/usr/libexec/osg-token-renewer/osg-token-renewer.sh": "root:root 755",
        "/usr/libexec/osg-token-renewer/osg-token-renewer": "root:root 755",
    }
    assert {path: look(machine, path) for path in wanted} == wanted
    # sysusers.d and tmpfiles.d agree with what the package did, so that they change nothing.
    machine.run("systemd-sysusers")
    machine.run("systemd-tmpfiles", "--create", "osg-token-renewer.conf")
    assert {path: look(machine, path) for path in wanted} == wanted
    assert machine.output("getent", "passwd", USER).split(":")[2] == uid
    for unit in (SERVICE, TIMER):
        assert machine.run("systemd-analyze", "verify", "--man=no", unit).stderr == ""
        path = machine.output("systemctl", "show", "--property=FragmentPath", "--value", unit)
        assert path.endswith(f"/lib/systemd/system/{unit}")
    assert machine.output("systemctl", "show", "--property=UnitFileState", "--value", TIMER) == "disabled"
    files = machine.output("rpm", "-ql", "osg-token-renewer-client")
    for page in (
        "man8/osg-token-renewer.8",
        "man8/osg-token-renewer-setup.8",
        "man5/osg-token-renewer.ini.5",
    ):
        assert f"/usr/share/man/{page}" in files
    for completion in (
        "bash-completion/completions/osg-token-renewer",
        "zsh/site-functions/_osg-token-renewer",
    ):
        assert f"/usr/share/{completion}\n" in f"{files}\n"


def test_1_the_installed_configuration_succeeds_and_says_that_nothing_is_configured(machine: Machine) -> None:
    said = start(machine)
    assert succeeded(machine), said
    assert "no token is configured: nothing to do" in said
    assert machine.output("rpm", "--verify", "osg-token-renewer", "osg-token-renewer-client") == ""


def test_1_root_leaves_no_byte_code_that_no_package_owns(machine: Machine) -> None:
    machine.shell("osg-token-renewer status; osg-token-renewer check; osg-token-renewer-setup --help")
    there = machine.output("find", "/usr/lib/python3", "-path", "*osg_token_renewer*").splitlines()
    assert len(there) > 50
    assert set(there) <= set(machine.output("rpm", "-ql", "osg-token-renewer-client").splitlines())


def test_2_an_account_is_set_up_and_a_token_configured(machine: Machine, issuer: Issuer) -> None:
    machine.write(CA, issuer.ca_file.read_text())
    password = "/etc/osg/tokens/myaccount.pw"
    machine.shell(f"umask 077; head -c 32 /dev/urandom | base64 >{password}; chown {USER}: {password}")
    approval = threading.Thread(target=issuer.approve_next, kwargs={"deadline": 120.0}, daemon=True)
    approval.start()
    given = ["--issuer", issuer.url, "--ca-file", CA, "--scope", SCOPE]
    done = machine.run("osg-token-renewer-setup", *given, "myaccount")
    approval.join()
    printed = re.search(r"^\[account myaccount\]\n(?:.+\n)+", done.stdout, re.MULTILINE)
    assert printed is not None, done.stdout
    assert "warning" not in done.stderr
    assert look(machine, "/var/spool/osg-token-svc/.oidc-agent/myaccount") == f"{USER}:{USER} 600"
    machine.write(CONFIG, machine.read(CONFIG) + printed[0] + TOKEN_SECTION)
    assert look(machine, CONFIG) == f"root:{USER} 640"
    machine.run("osg-token-renewer", "check", "--strict")


def test_3_the_timer_obtains_the_token_and_renews_it(machine: Machine, issuer: Issuer) -> None:
    machine.write(FREQUENCY, FREQUENCY_OVERRIDE)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", TIMER)
    another_token(machine)
    assert look(machine, TOKEN) == f"{USER}:{USER} 600"
    claims = issuer.verify(token(machine))
    assert claims["aud"] == "ce.example.org:9619"
    assert set(claims["scope"].split()) == {"compute.read", "compute.create"}
    another_token(machine)
    until(lambda: journal(machine).count("token ce: renewed") >= 2, "two renewals in the journal")
    assert "warning" not in journal(machine)


def test_3_the_sandboxed_service_saves_a_new_refresh_token(machine: Machine, issuer: Issuer) -> None:
    """To write the account file, the agent must be able to read the password again."""
    machine.run("systemctl", "stop", TIMER, SERVICE)
    issuer.settings(rotate=True)
    account = "/var/spool/osg-token-svc/.oidc-agent/myaccount"
    for _ in range(2):
        before = machine.read(account)
        said = start(machine)
        assert "token ce: renewed" in said
        assert succeeded(machine), said
        assert machine.read(account) != before
    issuer.settings(rotate=False)
    machine.run("systemctl", "start", TIMER)


def test_3_a_run_with_nothing_due_says_why_in_the_journal(machine: Machine) -> None:
    machine.run("systemctl", "stop", TIMER, SERVICE)
    machine.write(DROP_IN, "[token ce]\nmin_lifetime = 60\n")
    machine.shell(f"chown root:{USER} {DROP_IN}; chmod 640 {DROP_IN}")
    said = start(machine)
    assert "token ce: fresh: " in said
    assert "1 token: 0 renewed, 1 fresh, 0 failed" in said
    priorities = machine.output(
        "journalctl", "--quiet", "--output=json", "--unit", SERVICE, "--grep=token ce: fresh: "
    )
    assert {json.loads(line)["PRIORITY"] for line in priorities.splitlines()} == {"6"}
    machine.run("rm", DROP_IN)
    assert "token ce: renewed" in start(machine)
    machine.run("systemctl", "start", TIMER)


def test_4_the_unit_fails_while_the_issuer_is_down_and_recovers_by_itself(
    machine: Machine, issuer: Issuer
) -> None:
    issuer.pause()
    # The unit's state would not do: the timer starts the unit again at once.
    until(lambda: f"{SERVICE}: Failed with result 'exit-code'" in journal(machine), lambda: journal(machine))
    pattern = (
        r"token ce: failed \(unavailable\): the issuer of account myaccount .*: "
        r"the published token is valid for \d+ .* more"
    )
    until(lambda: re.search(pattern, journal(machine)) is not None, lambda: journal(machine))
    issuer.resume()
    another_token(machine)
    until(lambda: succeeded(machine), "the unit succeeds")


def test_4_a_stop_lets_a_request_finish_and_a_kill_leaves_no_process(
    machine: Machine, issuer: Issuer
) -> None:
    machine.run("systemctl", "stop", TIMER, SERVICE)
    for how in ("stop --no-block", "kill --kill-who=main --signal=KILL"):
        before = token(machine)
        with under_way(machine, issuer):
            machine.shell(f"systemctl {how} {SERVICE}")
            if "KILL" in how:
                # All processes of the unit end with the first one, agents too.
                until(lambda: not processes(machine), lambda: processes(machine))
        until(lambda: not processes(machine), lambda: processes(machine))
        renewed = token(machine) != before
        assert renewed == ("stop" in how), journal(machine)
        assert start(machine).count("token ce: renewed") == 1
    machine.run("systemctl", "start", TIMER)


@contextmanager
def under_way(machine: Machine, issuer: Issuer) -> Iterator[None]:
    """A run of the service whose request for a token waits at the issuer, which answers when the context
    ends."""
    issuer.reset_counts()
    of_adding = spare_adding(issuer)
    issuer.fault(endpoint="token", hold=True)
    machine.run("systemctl", "start", "--no-block", SERVICE)
    until(lambda: issuer.counts().token > of_adding, lambda: journal(machine))
    yield
    issuer.clear_faults()


def processes(machine: Machine) -> str:
    """The processes of the service user."""
    return machine.shell(f"pgrep --list-full --uid {USER} || :")


def test_5_after_a_reboot_the_timer_renews(machine: Machine) -> None:
    boot = machine.output("cat", "/proc/sys/kernel/random/boot_id")
    machine.reboot()
    assert machine.output("cat", "/proc/sys/kernel/random/boot_id") != boot
    assert machine.output("systemctl", "is-active", TIMER) == "active"
    another_token(machine)
    assert look(machine, "/run/osg-token-renewer") == f"{USER}:{USER} 700"


def test_6_the_sandbox_takes_away_what_the_service_does_not_need(machine: Machine) -> None:
    machine.run("systemctl", "stop", TIMER, SERVICE)
    machine.write("/srv/probe.py", Path(__file__).with_name("probe.py").read_text())
    machine.shell(
        "install -m 4755 /usr/bin/id /srv/become-root; install -d -m 1777 /srv/everyone /home/everyone"
    )
    uid = int(machine.output("id", "-u", USER))
    own = [
        "/etc/osg/tokens",
        "/var/spool/osg-token-svc",
        "/var/lib/osg-token-renewer",
        "/run/osg-token-renewer",
    ]
    # Everyone may write to these directories.
    others = ["/srv/everyone", "/home/everyone", "/tmp", "/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue"]
    found = "/var/lib/osg-token-renewer/probe.json"
    command = ["/usr/bin/python3", "-I", "/srv/probe.py", found, *own, *others]

    # Without the sandbox the same user can do all of it, and the probe sees it.
    machine.run("runuser", "-u", USER, "--", *command)
    outside = json.loads(machine.read(found))
    assert set(outside["writes"].values()) == {"done"}
    assert 0 in outside["users of processes"]
    assert outside["user of a set-id program"] == "0"
    assert outside["netlink socket"] == "done"
    assert int(outside["capabilities"]["CapBnd"], 16) != 0

    drop_in = f"/run/systemd/system/{SERVICE}.d/probe.conf"
    machine.write(drop_in, f"[Service]\nExecStart=\nExecStart={shlex.join(command)}\n")
    machine.shell(f"systemctl daemon-reload; systemctl start {SERVICE}")
    inside = json.loads(machine.read(found))
    machine.shell(f"rm -r {found} {Path(drop_in).parent}; systemctl daemon-reload")
    assert {path: what for path, what in inside["writes"].items() if what == "done"} == dict.fromkeys(
        own, "done"
    )
    assert inside["users of processes"] == [uid]
    assert {int(mask, 16) for mask in inside["capabilities"].values()} == {0}
    assert inside["user of a set-id program"] == str(uid)
    assert inside["tcp socket"] == "done"
    assert inside["time that its cores are used"] is not None
    assert [inside[what] for what in ("raw socket", "packet socket", "netlink socket", "user namespace")] == [
        "Operation not permitted",
        "Address family not supported by protocol",
        "Address family not supported by protocol",
        "Operation not permitted",
    ]


def follow_advice(machine: Machine) -> None:
    """Runs the command that the message of a failed run names; then the next run must succeed."""
    said = start(machine)
    assert not succeeded(machine)
    command = PASTED.search(said)
    assert command is not None, said
    machine.shell(command[0])
    said = start(machine)
    assert succeeded(machine), said


def test_6_a_token_outside_the_sandbox_fails_with_a_command_that_allows_it(machine: Machine) -> None:
    machine.run("install", "-d", "-o", USER, "/srv/tokens", "/home/tokens")
    before = machine.read(CONFIG)
    for directory in ("/srv/tokens", "/tmp", "/home/tokens"):
        path = f"{directory}/ce.token"
        machine.write(CONFIG, before.replace(f"token_path = {TOKEN}", f"token_path = {path}"))
        follow_advice(machine)
        assert look(machine, path) == f"{USER}:{USER} 600"
    machine.write(CONFIG, before)
    machine.shell(f"rm -r /etc/systemd/system/{SERVICE}.d; systemctl daemon-reload")


def test_6_a_group_fails_with_a_command_that_allows_it(machine: Machine) -> None:
    before = machine.read(CONFIG)
    machine.write(CONFIG, f"{before}group = adm\nmode = 0640\n")
    machine.run("usermod", "-aG", "adm", USER)
    follow_advice(machine)
    assert look(machine, TOKEN) == f"{USER}:adm 640"
    machine.write(CONFIG, before)
    machine.shell(f"rm -r /etc/systemd/system/{SERVICE}.d; systemctl daemon-reload")
    machine.shell(f"chown {USER}: {TOKEN}; chmod 600 {TOKEN}")


def test_6_the_units_example_passes_on_a_password_that_only_root_can_read(machine: Machine) -> None:
    shown = re.search(
        r"^#(LoadCredential=(\S+):(\S+))$", machine.output("systemctl", "cat", SERVICE), re.MULTILINE
    )
    assert shown is not None
    setting, name, path = shown.groups()
    password, before = "/etc/osg/tokens/myaccount.pw", machine.read(CONFIG)
    machine.write(f"/etc/systemd/system/{SERVICE}.d/credentials.conf", f"[Service]\n{setting}\n")
    machine.shell(f"systemctl daemon-reload; mv {password} {path}; chown root:root {path}; chmod 600 {path}")
    machine.write(CONFIG, before.replace(password, f"credential:{name}"))
    said = start(machine)
    assert succeeded(machine), said
    machine.write(CONFIG, before)
    machine.shell(f"mv {path} {password}; chown {USER}: {password}")
    machine.shell(f"rm -r /etc/systemd/system/{SERVICE}.d; systemctl daemon-reload")


def test_7_removal_leaves_only_the_configuration_accounts_and_tokens(machine: Machine) -> None:
    machine.run("systemctl", "start", TIMER)
    machine.run("dnf", "-y", "remove", "osg-token-renewer", "osg-token-renewer-client")
    assert machine.run("systemctl", "is-active", TIMER, check=False).stdout.strip() == "inactive"
    assert "not-found" in machine.output("systemctl", "show", "--property=LoadState", TIMER, SERVICE)
    assert traces(machine) == {
        "/etc/osg",
        CA,
        "/etc/osg/token-renewer",
        f"{CONFIG}.rpmsave",
        "/etc/osg/tokens",
        "/etc/osg/tokens/myaccount.pw",
        TOKEN,
        "/var/spool/osg-token-svc",
        "/var/spool/osg-token-svc/.oidc-agent",
        *(path for path in traces(machine) if path.startswith("/var/spool/osg-token-svc/.oidc-agent/")),
        # The administrator wrote these.
        str(Path(FREQUENCY).parent),
        FREQUENCY,
    }
    assert machine.exists("/var/spool/osg-token-svc/.oidc-agent/myaccount")
    assert machine.output("getent", "passwd", USER)


def test_7_an_upgrade_from_the_original_keeps_renewing(machine: Machine, issuer: Issuer) -> None:
    machine.run("dnf", "-y", "--enablerepo=original", "install", "osg-token-renewer-1.0.0")
    # As the original leaves it: the password file and the token belong to root, the timer is enabled.
    machine.run("mv", f"{CONFIG}.rpmsave", CONFIG)
    machine.shell("chown root:root /etc/osg/tokens /etc/osg/tokens/*; chmod 0700 /etc/osg/tokens")
    machine.run("systemctl", "enable", "--now", TIMER)
    config, old = machine.read(CONFIG), token(machine)

    machine.run("dnf", "-y", "upgrade", "osg-token-renewer")

    packages = ("osg-token-renewer", "osg-token-renewer-client")
    assert machine.output("rpm", "-q", "--qf=%{VERSION}\n", *packages).split() == [__version__] * 2
    assert machine.read(CONFIG) == config
    # The new example is beside the configuration, because the site changed that.
    assert [path for path in traces(machine) if ".rpm" in path] == [f"{CONFIG}.rpmnew"]
    assert look(machine, CONFIG) == f"root:{USER} 640"
    assert look(machine, "/etc/osg/tokens") == f"root:{USER} 770"
    assert machine.output("systemctl", "is-enabled", TIMER) == "enabled"
    assert machine.output("systemctl", "is-active", TIMER) == "active"
    until(lambda: token(machine) != old, lambda: f"another token\n{journal(machine)}")
    assert look(machine, TOKEN) == f"{USER}:{USER} 600"
    issuer.verify(token(machine))


def test_7_an_upgrade_keeps_the_choices_of_the_site(machine: Machine) -> None:
    """A reinstallation runs the same scriptlets as an upgrade."""
    machine.shell(f"chmod 0771 /etc/osg/tokens; systemctl disable --now {TIMER}")
    config = machine.read(CONFIG)
    machine.run("dnf", "-y", "reinstall", "osg-token-renewer-client")
    assert look(machine, "/etc/osg/tokens") == f"root:{USER} 771"
    assert machine.read(CONFIG) == config
    assert machine.run("systemctl", "is-enabled", TIMER, check=False).stdout.strip() == "disabled"


def test_8_make_installs_and_removes_a_checkout(machine: Machine) -> None:
    machine.run("dnf", "-y", "remove", "osg-token-renewer", "osg-token-renewer-client")
    machine.run("mv", f"{CONFIG}.rpmsave", CONFIG)
    before = traces(machine)
    checkout = "/root/checkout"
    machine.shell(f"mkdir {checkout}; tar -xf /srv/shared/source/*.tar.gz -C {checkout} --strip-components=1")

    machine.run("make", "-C", checkout, "install")

    assert machine.output("sh", "-c", "command -v osg-token-renewer") == "/usr/local/bin/osg-token-renewer"
    assert look(machine, "/etc/osg/token-renewer/config.d") == f"root:{USER} 750"
    old = token(machine)
    said = start(machine)
    assert succeeded(machine), said
    assert token(machine) != old

    machine.run("systemctl", "enable", "--now", TIMER)
    machine.run("make", "-C", checkout, "uninstall")
    assert traces(machine) == before
