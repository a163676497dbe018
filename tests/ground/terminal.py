"""A program on a terminal of its own, typed at and read as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType

TIMEOUT = 20.0


class Terminal:
    """Runs `command` with a new pseudo-terminal as its controlling terminal."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], pass_fds: Sequence[int], rows: int = 24, columns: int = 80
    ) -> None:
        self.output = b""
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command], stdin=slave, stdout=slave, stderr=slave, env=environment, pass_fds=pass_fds
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size; the kernel tells the program by SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def is_raw(self) -> bool:
        """Whether keys go on as they are: ^C is no signal to the program here."""
        return not termios.tcgetattr(self._master)[3] & termios.ISIG

    def type(self, text: bytes) -> None:
        """Type."""
        os.write(self._master, text)

    def expect(self, text: bytes) -> bytes:
        """Read until `text` has come; give all up to its end. What follows stays for the next call."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.output:
            assert self._read(deadline), f"{text!r} has not come: {self.output!r}"
        before, found, self.output = self.output.partition(text)
        return before + found

    def shows(self, text: bytes, seconds: float) -> bool:
        """Say whether `text` comes within so many seconds. Nothing is taken."""
        deadline = time.monotonic() + seconds
        while text not in self.output and select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not self._read(deadline):
                break
        return text in self.output

    def end(self) -> int:
        """Read all that comes until the program ends; give its exit status."""
        deadline = time.monotonic() + TIMEOUT
        while self._read(deadline):
            pass
        return self.process.wait(TIMEOUT)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more in {TIMEOUT:.0f} s: {self.output!r}"
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody has the other side any more
            return False
        self.output += data
        return bool(data)
