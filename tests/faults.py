"""Faults that need a process of their own: file systems that are full or read-only, a silent name server, and
a user who may not."""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Optional

from tests.host import LONGEST

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
NOBODY = 65534


def apart(
    body: Callable[[], None],
    *,
    tmpfs: Optional[Mapping[Path, str]] = None,
    users: Optional[Mapping[str, int]] = None,
    unprivileged: bool = False,
    silent_names: bool = False,
    longest: float = LONGEST,
) -> None:
    """Runs a part of a test in a child process: what fails in it is printed there, and fails the test.

    `tmpfs` are directories on which file systems of the child's own are mounted, with the mount's options:
    nothing of them is left when it has ended. `users`: all that there are, besides root, with their ids.
    `unprivileged`: as a user who is not root, if this one is. `silent_names`: on a network where nobody is
    but a name server that hears what it is asked and never answers. After `longest` seconds it is killed."""

    def child() -> None:
        if tmpfs is not None or users is not None or silent_names:
            _mount(tmpfs or {}, CLONE_NEWNET if silent_names else 0)
        if silent_names:
            heard = _silent_name_server()
        if users is not None:
            _only_users({"root": 0, **users})
        if unprivileged and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        body()
        if silent_names:
            heard.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(longest)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0


def _mount(tmpfs: Mapping[Path, str], also: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    # Root may mount; anyone else is root in a user namespace.
    if libc.unshare(CLONE_NEWNS | also | (0 if uid == 0 else CLONE_NEWUSER)) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for path, options in tmpfs.items():
        mount(path, options)


def _silent_name_server() -> socket.socket:
    """On loopback, which a new network has, but not up (netdevice(7)); the resolver would ask it for
    minutes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    # In a container it is a mount already, perhaps of a file that is gone, and nothing can be mounted on
    # that.
    subprocess.run(["umount", "-q", "/etc/resolv.conf"], check=False, stderr=subprocess.DEVNULL)
    _instead_of("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind(("127.0.0.1", 53))
    return heard


def _only_users(users: Mapping[str, int]) -> None:
    _instead_of("/etc/passwd", "".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in users.items()))


def _instead_of(path: str, content: str) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(content)
        file.flush()
        os.chmod(file.name, 0o644)
        subprocess.run(["mount", "--bind", file.name, path], check=True)


def never_answering(path: Path) -> None:
    """To be called apart: mounts a file system whose server, this process, never answers (fuse(4))."""
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    subprocess.run(
        ["mount", "-i", "-t", "fuse", "-o", options, "silent", str(path)], pass_fds=[server], check=True
    )


def mount(path: Path, options: str) -> None:
    """To be called apart: mounts another file system, or with `remount` changes one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
