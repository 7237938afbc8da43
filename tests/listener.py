"""An issuer that answers with any bytes that a test wants, valid or not."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Listener:
    """Answers each request with the bytes in `answer`, and then closes the connection."""

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
        """Reads a whole request. If a socket is closed with unread bytes, the kernel resets the connection
        before the client has read the answer."""
        with connection.makefile("rb") as stream:
            length = 0
            for line in stream:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                if not line.strip():
                    break
            stream.read(length)
