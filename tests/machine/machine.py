"""A machine for the tests: a systemd that boots from an overlay of this machine's root file system, in
namespaces of its own.

All its mounts are in one mount namespace, and all its processes in one process namespace, whose first process
dies with the tests. So nothing stays mounted or running, however the tests end. After SIGKILL an empty
directory and empty control groups are left.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Optional

from tests.host import Result

# Seconds. A step takes half a minute at most; on a machine that is ten times slower the tests must also end.
LONGEST = 900.0
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

# The distribution's own services do not start, because the tests are about what they install. The units of a
# new package are disabled until somebody enables them, as on EL. A machine id makes this boot not the first
# one, at which systemd would enable units. The start limit is off: systemd refuses the sixth start in 10 s,
# and the tests are faster than an administrator.
_BOOT = """\
set -eu
for group; do echo 0 >"$group/cgroup.procs"; done
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
mount -t overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" overlay "$PLACE/root"
cd "$PLACE/root/etc"
rm -rf systemd/system/*.wants
mkdir -p systemd/system-preset
echo 'disable *' >systemd/system-preset/00-as-on-el.preset
mkdir -p systemd/system.conf.d
printf '[Manager]\\nDefaultStartLimitIntervalSec=0\\n' >systemd/system.conf.d/starts.conf
rm -f machine-id
echo 0123456789abcdef0123456789abcdef >machine-id
status=133
# With --keep-unit a reboot ends systemd-nspawn with exit status 133.
while [ "$status" = 133 ]; do
    status=0
    systemd-nspawn --quiet --directory="$PLACE/root" --boot --register=no --keep-unit --link-journal=no \\
        --console=pipe --bind-ro="$SHARED:/srv/shared" systemd.unit=multi-user.target || status=$?
done
"""


class Machine:
    """A booted machine, until the context ends. It sees the directory `shared` as /srv/shared, and has this
    machine's network."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def __enter__(self) -> Machine:
        self._place = Path(tempfile.mkdtemp(prefix="otr-machine-"))
        groups = list(_control_groups(self._place.name))
        for group in groups:
            group.mkdir()
        self._console = self._place.with_suffix(".console")
        with open(self._console, "wb") as console:
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, *_APART, "sh", "-c", _BOOT, "boot", *map(str, groups)],
                env={**ENVIRONMENT, "PLACE": str(self._place), "SHARED": str(self._shared)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._booted()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(self, *command: str, check: bool = True) -> Result:
        """Runs a command there as root. With `check`, the test fails if the command does."""
        entered = ["nsenter", f"--target={self._first_process()}", "--all", *command]
        done = subprocess.run(
            entered,
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert result.status == 0 or not check, (
            f"{shlex.join(command)}: exit status {result.status}\n{result.stdout}{result.stderr}"
        )
        return result

    def output(self, *command: str) -> str:
        """What a command prints, without white space around it."""
        return self.run(*command).stdout.strip()

    def shell(self, script: str) -> str:
        """Runs a shell script, as an administrator types it, until a command fails; returns its output."""
        return self.output("sh", "-euc", script)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file. An existing file keeps its mode and owner."""
        there = self._file(path)
        if not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
            there.chmod(mode)
        there.write_text(text)

    def read(self, path: str) -> str:
        return self._file(path).read_text()

    def exists(self, path: str) -> bool:
        return self._file(path).exists()

    def reboot(self) -> None:
        before = self._first_process()
        # The reboot may end this command.
        self.run("systemctl", "reboot", check=False)
        until(lambda: self._first_process() not in (None, before), "another first process")
        self._booted()

    def _booted(self) -> None:
        until(self._is_up, lambda: f"the machine boots:\n{self._console.read_text(errors='replace')}")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._console.read_text(errors="replace")
        if self._first_process() is None:
            return False
        # Degraded: a service of the distribution failed. The tests are not about it.
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in (
            "running",
            "degraded",
        )

    def _first_process(self) -> Optional[int]:
        """The process id of its systemd on this machine; None between two boots."""
        for shell in _children(self._process.pid):
            for nspawn in _children(shell, "systemd-nspawn"):
                for first in _children(nspawn, "systemd"):
                    return first
        return None

    def _file(self, path: str) -> Path:
        return Path(f"/proc/{self._first_process()}/root{path}")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        until(lambda: remove_control_groups(self._place.name), "all processes have ended")
        shutil.rmtree(self._place)
        self._console.unlink()


# `setpriv` asks the kernel for SIGKILL when we end, and becomes the command after it.
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def until(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Waits until the condition holds; otherwise the test fails, and says `what` did not happen."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline, (
            f"not within {LONGEST:g} s: {what if isinstance(what, str) else what()}"
        )
        time.sleep(0.1)


def _children(parent: int, name: Optional[str] = None) -> list[int]:
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with suppress(OSError):
                before, after = (directory / "stat").read_text().rsplit(")", 1)
                if int(after.split()[1]) == parent and name in (None, before.split("(", 1)[1]):
                    found.append(int(directory.name))
    return found


def _control_groups(name: str) -> Iterator[Path]:
    """The two control groups of this name below our own: systemd uses the hierarchy of version 2, or one of
    version 1 besides."""
    mounts: Mapping[str, Path] = {
        "name=systemd": Path("/sys/fs/cgroup/systemd"),
        "": Path("/sys/fs/cgroup/unified"),
    }
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in mounts:
            mounted = mounts[controllers] if mounts[controllers].is_dir() else Path("/sys/fs/cgroup")
            yield mounted / path.lstrip("/") / name


def remove_control_groups(name: str) -> bool:
    """Removes a machine's control groups; returns False while one of them still has a process."""
    for group in _control_groups(name):
        for directory, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return False
    return True
