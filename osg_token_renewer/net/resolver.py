"""Looks up host names within a time limit."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future

from urllib3.util.connection import allowed_gai_family

# What the resolver is being asked for, by name and port.
_lookups: dict[tuple[str, int], Future[list[str]]] = {}
_looking = threading.Lock()


def find_addresses(name: str, port: int, deadline: float) -> list[str]:
    """Of the host of that name; raises OSError, or NoResult at the deadline.

    The resolver may wait for minutes, and cannot be told to end: it is asked in a thread that nobody waits
    for, and once for all who want to know."""
    try:
        socket.getaddrinfo(name.strip("[]"), port, flags=socket.AI_NUMERICHOST)
    except UnicodeError:
        # No name, as urllib3 will say.
        return [name]
    except OSError:
        with _looking:
            lookup = _lookups.get((name, port))
            if lookup is None:
                lookup = Future()
                threading.Thread(
                    target=_look_up, args=(name, port, lookup), name=f"look up {name}", daemon=True
                ).start()
                _lookups[name, port] = lookup
        return lookup.result(max(0.0, deadline - time.monotonic()))
    return [name]


def _look_up(name: str, port: int, lookup: Future[list[str]]) -> None:
    try:
        found = socket.getaddrinfo(name, port, allowed_gai_family(), socket.SOCK_STREAM)
        lookup.set_result(list(dict.fromkeys(str(address[0]) for *_, address in found)))
    except OSError as error:
        lookup.set_exception(error)
    finally:
        with _looking:
            del _lookups[name, port]
