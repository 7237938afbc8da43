"""The program's own places are full or closed: tokens are renewed all the same, and what cannot be done is
said."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from testbed import Issuer
from tests.faults import apart
from tests.host import LONGEST, Host

FULL, NO_ROOM, CLOSED = "mode=700,nr_inodes=1", "mode=700,size=4k", "mode=700,ro"


@pytest.mark.parametrize(
    ("runtime", "state", "said"),
    [
        (FULL, "mode=700", ["runtime_dir"]),
        (NO_ROOM, "mode=700", ["runtime_dir"]),
        ("mode=700", FULL, ["no copy of its file can be kept", "the history cannot be written"]),
        ("mode=700", CLOSED, ["no copy of its file can be kept", "the history cannot be written"]),
        (
            FULL,
            CLOSED,
            [
                "runtime_dir",
                "no lock can be taken in",
                "no copy of its file can be kept",
                "the history cannot be written",
            ],
        ),
    ],
)
def test_a_run_renews_tokens_and_says_what_it_cannot_do(
    host: Host, issuer: Issuer, registry: Host, runtime: str, state: str, said: list[str]
) -> None:
    host.configure(host.adopt(registry, "robot") + host.token("one", "robot", audience="one"))

    elsewhere = host.runtime.parent / "elsewhere"

    def body() -> None:
        # Where it turns to: not to what belongs to this machine.
        done = host.run(env={"RUNTIME_DIRECTORY": str(elsewhere)})
        assert done.status == 0, done.stderr
        for words in said:
            assert words in done.stderr

    apart(body, tmpfs={host.runtime: runtime, host.state: state}, longest=LONGEST)
    shutil.rmtree(elsewhere, ignore_errors=True)
    assert issuer.verify(host.read("one").strip())["aud"] == "one"


def test_a_full_run_directory_stops_only_accounts_that_need_an_agent(
    host: Host, issuer: Issuer, registry: Host
) -> None:
    probe = host.credentials_account(issuer, "probe", issuer.add_client())
    robot = host.adopt(registry, "robot")
    accounts = probe + robot + f"[renewer]\nstate_dir = {host.state}\n"
    host.configure(accounts + host.token("one", "probe") + host.token("two", "robot"))

    def body() -> None:
        as_the_unit_shows_it(host)
        # Temporary directories are looked for also where a program was started.
        os.chdir("/")
        runtime = f"/run/{host.short.name}"
        done = host.run(env={"RUNTIME_DIRECTORY": runtime, "TMPDIR": ""})
        assert done.status == 1, done.stderr
        assert issuer.verify(host.read("one").strip())
        failure = done.line("token two: failed (local): ")
        assert (
            f"no directory can be made in {runtime}: No space left on device: no token is published"
            in failure
        )
        assert failure.endswith("make room there, or name another directory as runtime_dir in [renewer]")
        assert done.line(f"warning: runtime_dir {runtime} is passed over: ")
        assert done.line("warning: there can be no temporary runtime directory either: ")

    apart(body, tmpfs={}, longest=LONGEST)


def as_the_unit_shows_it(host: Host) -> None:
    """ProtectSystem=strict and ReadOnlyPaths=, with ReadWritePaths= of this host, and a /run that is full up
    to its last inode."""
    runtime = f"/run/{host.short.name}"
    commands = [
        *(["mount", "--bind", path, path] for path in ("/tmp", "/var/tmp", str(host.root))),
        *(["mount", "-o", "remount,bind,ro", path] for path in ("/", "/tmp", "/var/tmp")),
        ["mount", "-t", "tmpfs", "-o", "mode=755,nr_inodes=2", "tmpfs", "/run"],
        ["mkdir", "-m", "700", runtime],
    ]
    for command in commands:
        subprocess.run(command, check=True)
