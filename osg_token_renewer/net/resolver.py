"""Looks up host names within a time limit."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future

from urllib3.util.connection import allowed_gai_family


def find_addresses(name: str, port: int, within: float) -> list[str]:
    """The addresses of the host `name`. Raises OSError, or Future's TimeoutError after `within` seconds."""
    try:
        socket.getaddrinfo(name.strip("[]"), port, flags=socket.AI_NUMERICHOST)
    except UnicodeError:
        # It is not a host name, as urllib3 will say.
        return [name]
    except OSError:
        lookup: Future[list[str]] = Future()
        about = (name, port, lookup)
        # getaddrinfo(3) may wait for minutes and cannot be interrupted: the thread is left behind in it.
        threading.Thread(target=_look_up, args=about, name=f"look up {name}", daemon=True).start()
        return lookup.result(max(0.0, within))
    return [name]


def _look_up(name: str, port: int, lookup: Future[list[str]]) -> None:
    try:
        found = socket.getaddrinfo(name, port, allowed_gai_family(), socket.SOCK_STREAM)
        lookup.set_result(list(dict.fromkeys(str(address[0]) for *_, address in found)))
    except OSError as error:
        lookup.set_exception(error)
