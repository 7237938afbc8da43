"""Tries what a service should not be able to do: probe.py RESULT DIRECTORY ...

It writes to RESULT, as JSON, what it could do and with which error the rest failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from typing import Callable

from osg_token_renewer.sources.oidc_agent import turns

CLONE_NEWUSER = 0x10000000
SET_ID_PROGRAM = ["/srv/become-root", "-u"]


def attempt(what: Callable[..., object], *arguments: object) -> str:
    try:
        what(*arguments)
    except OSError as error:
        return str(error.strerror)
    return "done"


def write(directory: str) -> None:
    path = os.path.join(directory, "probe")
    # It stays empty, because a message queue is a file that takes no content.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def new_user_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def open_socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


def own_status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return {key: value.strip() for key, value in (line.split(":", 1) for line in file)}


def probe(directories: list[str]) -> dict[str, object]:
    return {
        "writes": {directory: attempt(write, directory) for directory in directories},
        "users of processes": sorted(
            {os.stat(f"/proc/{name}").st_uid for name in os.listdir("/proc") if name.isdigit()}
        ),
        "capabilities": {key: value for key, value in own_status().items() if key.startswith("Cap")},
        "user of a set-id program": subprocess.run(
            SET_ID_PROGRAM, capture_output=True, text=True, check=True
        ).stdout.strip(),
        "raw socket": attempt(open_socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet socket": attempt(open_socket, socket.AF_PACKET, socket.SOCK_RAW),
        "netlink socket": attempt(open_socket, socket.AF_NETLINK, socket.SOCK_RAW),
        "tcp socket": attempt(open_socket, socket.AF_INET6, socket.SOCK_STREAM),
        "user namespace": attempt(new_user_namespace),
        "time that its cores are used": turns.used(),
    }


if __name__ == "__main__":
    with open(sys.argv[1], "w") as result:
        json.dump(probe(sys.argv[2:]), result)
