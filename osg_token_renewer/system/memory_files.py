"""Sealed files in memory: how a secret reaches a subprocess."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from osg_token_renewer.errors import Local
from osg_token_renewer.system.locks import make_inheritable

if TYPE_CHECKING:
    pass


@contextmanager
def make_memory_file(content: bytes) -> Iterator[int]:
    """A file without a name, for what must not be in one that has; a program that inherits the descriptor
    opens it by `path_of`.

    Unlike a pipe it can be read more than once, and unlike a file of root's by another user. Nobody can
    change it. Raises Local."""
    try:
        descriptor = make_inheritable(
            os.memfd_create("osg-token-renewer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        )
    except OSError as error:
        raise Local(f"no file can be made in memory: {error.strerror}") from error
    try:
        try:
            os.write(descriptor, content)
            fcntl.fcntl(
                descriptor,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE,
            )
        except OSError as error:
            raise Local(f"a file in memory cannot be written: {error.strerror}") from error
        yield descriptor
    finally:
        os.close(descriptor)


def inherited_path(descriptor: int) -> str:
    """Where a program that has inherited the descriptor finds it."""
    return f"/proc/self/fd/{descriptor}"
