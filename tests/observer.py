"""Observes with strace(1) what programs show to other users while they run."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, quote_plus

_CALL = re.compile(r"^\d+ +(\w+)\((?:\d+<(.*?)>(?:\(deleted\))?, )?(.*)")
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
# Only the connected program sees what is written here. Datagrams are different: they may go to a log.
_PRIVATE = (
    "pipe:",
    "/memfd:",
    "UNIX-STREAM:",
    "TCP:",
    "TCPv6:",
    "socket:",
    "anon_inode:",
    "NETLINK:",
    "UDP:",
    "UDPv6:",
)


class Sight(NamedTuple):
    """Something that others could see. `where` is the name of a file or log, or "arguments" for the arguments
    and the environment of a process."""

    where: str
    content: bytes


class Observer:
    """`prefix` starts another command, and observes it and all that it starts."""

    def __init__(self, directory: Path) -> None:
        self._trace = directory / "trace"
        calls = (
            "execve,execveat,write,pwrite64,writev,pwritev,sendto,sendmsg,"
            "symlink,symlinkat,mkdir,mkdirat,rename,renameat2"
        )
        shape = ["-f", "-qq", "-xx", "-v", "-yy", "-s", "4000000", "-A", "-o", str(self._trace)]
        what = ["-e", f"trace={calls}", "-e", "signal=none"]
        self.prefix: Sequence[str] = ["strace", *shape, "--seccomp-bpf", *what]

    def sights(self) -> Iterator[Sight]:
        """The arguments and environment of each process, the names of files, and all content written to files
        and logs."""
        with open(self._trace, encoding="ascii") as trace:
            for line in trace:
                found = _CALL.match(line)
                if not found:
                    # The end of a call whose beginning had the content, or a call that a kill prevented.
                    assert "resumed>" in line or "????(" in line, line
                    continue
                where = (
                    "arguments"
                    if found[1].startswith("exec")
                    else _decoded(found[2] or "names").decode("utf-8", "replace")
                )
                if not where.startswith(_PRIVATE):
                    yield Sight(where, _decoded(found[3]))


def _decoded(text: str) -> bytes:
    """Decodes strings: with -xx, strace writes them in hexadecimal."""
    return _HEX.sub(lambda run: bytes.fromhex(run[0].replace("\\x", "")).decode("latin-1"), text).encode(
        "latin-1"
    )


def forms(secret: str) -> set[bytes]:
    """The forms in which a text may contain a secret: as it is, form-encoded, escaped, in hexadecimal, and in
    base64 at any offset."""
    content = secret.encode()
    texts = {secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""), quote_plus(secret)}
    encoded = {text.encode() for text in texts} | {content.hex().encode()}
    for before in range(3):
        # The first and the last characters also depend on the neighbouring bytes.
        within = base64.b64encode(b"\0" * before + content)[4 if before else 0 : -4]
        encoded |= {within, within.replace(b"+", b"-").replace(b"/", b"_")}
    return encoded
