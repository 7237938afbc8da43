"""Sealed files in memory (memfd_create(2)): how a secret reaches a subprocess."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from osg_token_renewer.errors import Local
from osg_token_renewer.system.locks import move_up

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@contextmanager
def make_memory_file(content: bytes) -> Iterator[int]:
    """The descriptor of a file without a name, which nobody can change any more. Raises Local.

    Unlike a pipe, it can be read more than once; unlike a file of root's, another user can read it.
    """
    try:
        descriptor = move_up(os.memfd_create("osg-token-renewer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        raise Local(f"no file can be made in memory: {error.strerror}") from error
    with open(descriptor, "wb", buffering=0) as file:
        try:
            file.write(content)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            raise Local(f"a file in memory cannot be written: {error.strerror}") from error
        yield descriptor


def inherited_path(descriptor: int) -> str:
    """Where a program that has inherited the descriptor finds the file."""
    return f"/proc/self/fd/{descriptor}"
