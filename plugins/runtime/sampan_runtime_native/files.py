"""What the driver keeps of a container, in a directory of the container's state.

`gate` is the socket at which the first process waits for `start`, `filter` the compiled seccomp program, for `exec`,
`listener` who is told of its notifications, `hooks` those that come after the program has started. All of it is made anew by
`create` and removed by `delete`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from sampan.api.errors import Conflict


class Files:
    """The files in `directory`, which need not be there yet; `cache` is where all containers have some, or None."""

    def __init__(self, directory: Path, cache: Path | None = None) -> None:
        """Touches nothing."""
        self._directory = directory
        self.cache = cache
        self._gate = directory / "gate"
        self._filter = directory / "filter"
        self._listener = directory / "listener"
        self._hooks = directory / "hooks"

    def make(self) -> None:
        """Make the directory. Raises `OSError`, as the other methods."""
        self._directory.mkdir(parents=True, mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Remove what was made, as far as it is there."""
        for path in (self._gate, self._filter, self._listener, self._hooks):
            path.unlink(missing_ok=True)

    def open_gate(self) -> socket.socket:
        """Make the gate and give the socket that listens at it."""
        gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._gate.unlink(missing_ok=True)
            with self._opened() as directory:
                gate.bind(f"/proc/self/fd/{directory}/gate")
            gate.listen(1)
        except BaseException:
            gate.close()
            raise
        return gate

    def has_gate(self) -> bool:
        """Whether a first process waits, or waited, at the gate: nobody has knocked yet."""
        return self._gate.exists()

    def knock(self, starter: socket.socket) -> None:
        """Connect to who waits at the gate, and take the gate away. Raises `Conflict` if nobody does."""
        try:
            with self._opened() as directory:
                starter.connect(f"/proc/self/fd/{directory}/gate")
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Conflict("start: the container's first process waits no more; it was started or is dead") from error
        self._gate.unlink(missing_ok=True)

    def save_filter(self, program: bytes, flags: int) -> None:
        """Keep a seccomp program and the flags it is installed with."""
        self._filter.write_bytes(flags.to_bytes(4, "little") + program)

    def load_filter(self) -> tuple[bytes, int]:
        """Give what `save_filter` has kept; an empty program where there is none."""
        try:
            stored = self._filter.read_bytes()
        except FileNotFoundError:
            return b"", 0
        return stored[4:], int.from_bytes(stored[:4], "little")

    def save_listener(self, text: str) -> None:
        """Keep whom to tell of notifications."""
        self._listener.write_text(text)

    def load_listener(self) -> str:
        """Give what `save_listener` has kept."""
        return self._listener.read_text()

    def save_hooks(self, text: str) -> None:
        """Keep what comes after the program."""
        self._hooks.write_text(text)

    def load_hooks(self) -> str:
        """Give what `save_hooks` has kept; an empty text where there is none."""
        try:
            return self._hooks.read_text()
        except FileNotFoundError:
            return ""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Give a descriptor of the directory: a socket's address holds 107 bytes, and the path may be longer."""
        fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
