"""A fault at a chosen moment: stops a process before one of its system calls, as a debugger does
(ptrace(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import traceback
from collections.abc import Callable

TRACEME, CONT, SYSCALL, SETOPTIONS = 0, 7, 24, 0x4200
SYSTEM_CALL, NOBODY_OUTLIVES_ME = 1, 0x100000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def at_moment(number: int, body: Callable[[], None], fault: Callable[[int], None]) -> bool:
    """Runs `body` in a child process, stops it before its system call with this number (from 0), and then
    calls `fault` with the child's process id.

    Returns False if the child ended before; then there was no fault. If `body` fails, the child prints why,
    and the test fails.
    """
    pid = os.fork()
    if pid == 0:
        _child(body)
    os.waitpid(pid, 0)
    _ptrace(SETOPTIONS, pid, SYSTEM_CALL | NOBODY_OUTLIVES_ME)
    # The child stops before and after each system call.
    for _ in range(2 * number + 1):
        _ptrace(SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0
            return False
    try:
        fault(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _ptrace(CONT, pid)
        _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    return True


def _child(body: Callable[[], None]) -> None:
    status = 1
    try:
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    # After SIGKILL there is no process to continue.
    if _libc.ptrace(request, pid, None, data) == -1 and ctypes.get_errno() != errno.ESRCH:
        raise OSError(ctypes.get_errno(), "ptrace")
