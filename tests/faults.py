"""Faults that need a process of their own: a file system that is full or read-only, a silent name server, an
unprivileged user."""

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
    """Runs a part of a test in a child process. If it fails, the child prints why, and the test fails.

    tmpfs: directories on which the child mounts file systems of its own, with their mount options. They
        vanish with the child.
    users: the ids of the only users besides root.
    unprivileged: the child is not root, even if the parent is.
    silent_names: the child's network has only a name server, which never answers.
    longest: seconds after which the child is killed, and the test fails.
    """

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
    # Root may mount. Any other user becomes root in a user namespace.
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
    """A server on loopback that the resolver would ask for minutes. Loopback is down in a new network
    namespace (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    # In a container it already is a mount. If the mounted file is deleted, nothing can be mounted over it.
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
    """Mounts a file system whose server, this process, never answers (fuse(4)). Call it within `apart`."""
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    subprocess.run(
        ["mount", "-i", "-t", "fuse", "-o", options, "silent", str(path)], pass_fds=[server], check=True
    )


def mount(path: Path, options: str) -> None:
    """Mounts a tmpfs, or changes one with the option `remount`. Call it within `apart`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
