"""The terminal of whoever runs the command: raw mode that always ends, its size, and the keys that detach."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.cli.failure import CliError

DEFAULT_KEYS = "ctrl-p,ctrl-q"


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Put the terminal in raw mode for the body; put it back on every way out."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def size(fd: int) -> tuple[int, int] | None:
    """Give (height, width) of the terminal `fd`; None if it is none."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return None
    return found.lines, found.columns


def parse_keys(text: str) -> bytes:
    """Parse `ctrl-p,ctrl-q`, `ctrl-@,x`: give the bytes that are typed. Raises `CliError`."""
    keys = b""
    for name in text.split(","):
        control = name.removeprefix("ctrl-")
        if len(name.encode()) == 1:
            keys += name.encode()
        elif name.startswith("ctrl-") and len(control) == 1 and ("a" <= control <= "z" or control in "@[\\]^_"):
            keys += bytes([ord(control.upper()) & 0x1F])
        else:
            raise CliError(
                f"invalid detach keys {text!r}: unknown key {name!r}",
                remedy="Use letters and ctrl-<letter>, with commas",
            )
    return keys


class DetachKeys:
    """Watches what is typed for the key sequence, and holds back its beginning until it is known not to be one."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.seen = False

    def feed(self, data: bytes) -> bytes:
        """Give what may be passed on; `seen` becomes true when the sequence is complete."""
        passed = b""
        for at in range(len(data)):
            held = self._held + data[at : at + 1]
            while held and not self._keys.startswith(held):
                passed += held[:1]
                held = held[1:]
            self._held = held
            if held == self._keys:
                self.seen = True
                return passed
        return passed
