"""`make install` and `make uninstall`."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import subprocess
from pathlib import Path

import pytest

from osg_token_renewer import __version__
from osg_token_renewer.system import paths
from osg_token_renewer.system.users import SERVICE_USER
from tests import faults
from tests.host import ROOT

PREFIX = "/opt/osg"
MODULES = f"{PREFIX}/lib/modules"


def make(target: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the real make, with root's umask closed to others."""
    # A make that runs these tests must not pass its own settings on.
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"
    }
    return subprocess.run(
        ["make", "--silent", "-C", str(ROOT), target, *settings],
        env=env,
        umask=0o077,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make_below(destination: Path, target: str) -> str:
    """Installs below a directory, or removes it again; returns what make prints."""
    done = make(target, f"DESTDIR={destination}", f"PREFIX={PREFIX}", f"PYTHONDIR={MODULES}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation that no test changes."""
    destination = tmp_path_factory.mktemp("installed")
    make_below(destination, "install")
    return destination


def files(root: Path) -> set[str]:
    return {
        f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_symlink() or not path.is_dir()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_everything_that_a_host_needs_is_installed_and_removed_again(tmp_path: Path) -> None:
    make_below(tmp_path, "install")
    installed = files(tmp_path)
    modules = {path for path in installed if path.startswith(MODULES)}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "osg_token_renewer").rglob("*.py")}
    assert {path[len(MODULES) + 1 :] for path in modules if path.endswith(".py")} == sources
    assert len([path for path in modules if path.endswith(".pyc")]) == len(sources)
    manual = {path for path in installed if re.match(rf"{PREFIX}/share/(man|bash-completion|zsh)/", path)}
    assert installed - modules - manual == {
        f"{PREFIX}/bin/osg-token-renewer",
        f"{PREFIX}/sbin/osg-token-renewer-setup",
        f"{PREFIX}/libexec/osg-token-renewer/osg-token-renewer",
        f"{PREFIX}/libexec/osg-token-renewer/osg-token-renewer.sh",
        f"{PREFIX}/lib/systemd/system/osg-token-renewer.service",
        f"{PREFIX}/lib/systemd/system/osg-token-renewer.timer",
        f"{PREFIX}/lib/sysusers.d/osg-token-renewer.conf",
        f"{PREFIX}/lib/tmpfiles.d/osg-token-renewer.conf",
        "/etc/osg/token-renewer/config.ini",
        *(f"/{path.relative_to(ROOT)}" for path in ROOT.glob("etc/*.d/*")),
    }
    assert make_below(tmp_path, "uninstall") == ""
    assert files(tmp_path) == set()
    assert list(tmp_path.rglob("*osg[-_]token*")) == []


def test_an_installation_in_another_prefix_uses_that_prefix(installed: Path) -> None:
    for unit in ("lib/systemd/system/osg-token-renewer.service", "../../etc/cron.d/osg-token-renewer"):
        text = (installed / PREFIX[1:] / unit).read_text()
        assert f"{PREFIX}/libexec/osg-token-renewer/osg-token-renewer.sh" in text
        assert "/usr/libexec" not in text


def test_the_installed_programs_run_with_the_systems_python(installed: Path) -> None:
    modules = installed / MODULES[1:]
    for name in (
        "bin/osg-token-renewer",
        "sbin/osg-token-renewer-setup",
        "libexec/osg-token-renewer/osg-token-renewer",
    ):
        program = installed / PREFIX[1:] / name
        assert program.read_text().startswith("#!/usr/bin/python3 -I\n")
        # Python does not know the directory of these modules, so it is told.
        start = (
            "import runpy, sys; _, program, *sys.argv, modules = sys.argv; sys.argv[:0] = [program]; "
            "sys.path.append(modules); runpy.run_path(program, None, '__main__')"
        )
        command = ["/usr/bin/python3", "-I", "-c", start, str(program), "--version", str(modules)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.stdout.split()[1:] == [__version__], done.stderr


def test_only_directories_for_secrets_are_closed_to_others(installed: Path) -> None:
    for path, wanted in {
        "etc/osg/token-renewer": 0o750,
        "etc/osg/token-renewer/config.d": 0o750,
        "etc/osg/token-renewer/config.ini": 0o640,
        "etc/osg/tokens": 0o770,
        "var/spool/osg-token-svc": 0o700,
        "var/lib/osg-token-renewer": 0o700,
        f"{PREFIX[1:]}/bin": 0o755,
        f"{MODULES[1:]}/osg_token_renewer/report": 0o755,
        f"{MODULES[1:]}/osg_token_renewer/report/__pycache__": 0o755,
        f"{MODULES[1:]}/osg_token_renewer/cli.py": 0o644,
    }.items():
        assert mode(installed / path) == wanted, path


def test_a_changed_configuration_and_changed_modes_survive_install_and_uninstall(tmp_path: Path) -> None:
    config = tmp_path / "etc/osg/token-renewer/config.ini"
    tokens = tmp_path / "etc/osg/tokens"
    make_below(tmp_path, "install")
    config.write_text("[account a]\n")
    tokens.chmod(0o751)
    (tokens / "a.pw").write_text("password\n")
    assert make_below(tmp_path, "install") == f"{config} is left as it is\n"
    assert (config.read_text(), mode(tokens)) == ("[account a]\n", 0o751)
    assert make_below(tmp_path, "uninstall") == f"{config} is left as it is\n"
    assert files(tmp_path) == {"/etc/osg/token-renewer/config.ini", "/etc/osg/tokens/a.pw"}


def test_a_prefix_where_python_finds_no_modules_is_refused(tmp_path: Path) -> None:
    done = make("install", f"DESTDIR={tmp_path}", f"PREFIX={PREFIX}")
    assert done.returncode != 0
    assert "set PYTHONDIR" in done.stderr
    assert files(tmp_path) == set()


if os.geteuid() == 0:

    def test_a_host_without_the_service_user_gets_it_with_its_directories(installed: Path) -> None:
        """On file systems of the test's own; `installed` has built the man pages before."""

        def install() -> None:
            for file in ("passwd", "group"):
                Path("/etc", file).write_text(
                    "root:x:0:0::/root:/bin/sh\n" if file == "passwd" else "root:x:0:\n"
                )
            done = make("install")
            assert done.returncode == 0, done.stderr
            user = pwd.getpwnam(SERVICE_USER)
            assert user.pw_dir == f"/var/spool/{SERVICE_USER}"
            for directory in (user.pw_dir, paths.STATE):
                assert Path(directory).stat().st_uid == user.pw_uid
            assert grp.getgrgid(Path("/etc/osg/tokens").stat().st_gid).gr_name == SERVICE_USER

        own = ("/etc", "/run", "/usr/local", "/var/lib", "/var/spool")
        faults.apart(install, tmpfs={Path(directory): "mode=755" for directory in own})


def test_the_packages_have_the_version_of_the_program() -> None:
    spec = (ROOT / "rpm" / "osg-token-renewer.spec").read_text()
    assert re.findall(r"^Version: *(.*)$", spec, re.MULTILINE) == [__version__]
    assert re.findall(r"^%changelog\n.* - (.*)-\d+$", spec, re.MULTILINE) == [__version__]
