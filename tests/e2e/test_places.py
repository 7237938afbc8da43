"""The program's own places are full or closed: tokens are renewed all the same, and what cannot be done is said."""

from __future__ import annotations

import shutil

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
        (FULL, CLOSED, ["runtime_dir", "there can be no lock in", "no copy of its file can be kept", "the history cannot be written"]),
    ],
)
def test_tokens_are_renewed_and_what_cannot_be_done_is_said(
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
