"""An issuer that answers with any bytes, as no real one would."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Listener:
    """Answers each request with the bytes that it was given last, and then closes the connection."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError):
                    self._read(connection)
                    connection.sendall(self.answer)

    @staticmethod
    def _read(connection: socket.socket) -> None:
        """A whole request: what is closed with something unread in it resets the connection before the answer
        is read."""
        with connection.makefile("rb") as stream:
            length = 0
            for line in stream:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                if not line.strip():
                    break
            stream.read(length)
