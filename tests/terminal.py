"""Runs a program on a terminal of its own, reads the screen as a person sees it, and types answers."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.host import LONGEST, until

COLUMNS, ROWS = 120, 40
# The numbers of the system calls that wait for input: read; poll, select, pselect6 and ppoll.
_READ, *_WAIT = ("0", "7", "23", "270", "271") if os.uname().machine == "x86_64" else ("63", "72", "73")
# Makes standard input the terminal of its session, because getpass opens /dev/tty; then becomes the program.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
_CONTROL = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")
# The beginning of a control sequence, whose rest is not read yet.
_BEGUN = re.compile(r"\x1b(\[\??[0-9;]*)?\Z")


class Terminal:
    """Starts the program; ends it with the context, if it still runs."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._own, other = pty.openpty()
        self._name = os.ttyname(other)
        size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            env={**env, "TERM": "xterm", **size},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._own)

    def wait_for(self, text: str, timeout: float = LONGEST) -> None:
        """Reads until the program has shown the text."""
        deadline = time.monotonic() + timeout
        while text not in self.shown:
            assert self._read(deadline - time.monotonic()), f"{text!r} was not shown, but:\n{self.shown}"

    def wait_until(self, looks: Callable[[list[str]], bool], timeout: float = LONGEST) -> list[str]:
        """Reads until the condition on the screen's lines holds; returns the lines."""
        deadline = time.monotonic() + timeout
        while not looks(self.screen()):
            assert self._read(deadline - time.monotonic()), "\n".join(self.screen())
        return self.screen()

    def type(self, text: str) -> None:
        """Waits until the program reads, and types. Python would lose a Ctrl-C between the question and the
        reading, and getpass drops what was typed before it turned the echo off."""
        until(self._is_read)
        os.write(self._own, text.encode())

    def _is_read(self) -> bool:
        """Whether the program is in a system call that waits for input (proc(5) shows its number and
        arguments). Python reads from the terminal; shells wait for several files."""
        number, *arguments = Path(f"/proc/{self.process.pid}/syscall").read_text().split()
        if number in _WAIT:
            return True
        try:
            return number == _READ and os.readlink(
                f"/proc/{self.process.pid}/fd/{int(arguments[0], 16)}"
            ) in (self._name, "/dev/tty")
        except OSError:
            return False

    def end(self, timeout: float = LONGEST) -> int:
        """Reads to the end of the program; returns its exit status."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.0, deadline - time.monotonic()))

    def screen(self) -> list[str]:
        """The lines of the screen now, without empty lines at the end."""
        return screen(self.shown)

    def _read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self._own], [], [], max(0.0, timeout))
        if not ready:
            return False
        try:
            piece = os.read(self._own, 64 * 1024)
        except OSError:
            # Nobody has the other end open any more.
            return False
        self.shown += piece.decode("utf-8", "replace")
        return bool(piece)


def screen(shown: str) -> list[str]:
    """The lines that a terminal of COLUMNS columns makes of the text. It knows wrapping and the few control
    sequences that move the cursor or erase."""
    cursor = _Cursor()
    shown = _BEGUN.sub("", shown)
    while shown:
        control = _CONTROL.match(shown)
        if control:
            cursor.control(control[3], int(control[2]) if control[2].isdigit() else 0)
        else:
            cursor.print(shown[0])
        shown = shown[control.end() if control else 1 :]
    return cursor.lines()


def unwrapped(lines: Sequence[str]) -> str:
    """Joins the lines of a text that was too long for one line of the screen."""
    return "".join(line.ljust(COLUMNS) for line in lines).rstrip()


class _Cursor:
    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], str] = {}
        self._row = self._column = 0

    def control(self, name: str, number: int) -> None:
        if name == "A":
            self._row = max(0, self._row - (number or 1))
        elif name == "K":
            kept = 0 if number == 2 else self._column
            self._cells = {
                place: cell for place, cell in self._cells.items() if place[0] != self._row or place[1] < kept
            }
        else:
            # Colours, and hiding or showing the cursor.
            assert name in "mhl", f"an unexpected control sequence: {name!r}"

    def print(self, character: str) -> None:
        if character == "\n":
            self._row += 1
        elif character == "\r":
            self._column = 0
        else:
            assert character.isprintable(), f"an unexpected character: {character!r}"
            if self._column == COLUMNS:
                self._row, self._column = self._row + 1, 0
            self._cells[self._row, self._column] = character
            self._column += 1

    def lines(self) -> list[str]:
        last = max((row for row, _ in self._cells), default=-1)
        return [
            "".join(self._cells.get((row, column), " ") for column in range(COLUMNS)).rstrip()
            for row in range(last + 1)
        ]
