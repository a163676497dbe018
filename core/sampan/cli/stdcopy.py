"""The framing that carries stdout and stderr of a container without a tty over one connection.

Each frame: one byte of stream (1 stdout, 2 stderr, 3 an error of the daemon), three of zero, a big-endian length of four.
"""

from __future__ import annotations

from collections.abc import Iterator

from sampan.cli.failure import CliError

STDOUT, STDERR, SYSTEM = 1, 2, 3
HEADER = 8


class Demultiplexer:
    """Takes bytes as they come and gives (stream, payload); a payload may be a part of a frame."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Give what `data` completes. Raises `CliError` if it isn't this framing, or carries the daemon's error."""
        view = memoryview(data)
        while view:
            if not self._left:
                need = HEADER - len(self._head)
                self._head += view[:need]
                view = view[need:]
                if len(self._head) < HEADER:
                    return
                self._stream, self._left = self._head[0], int.from_bytes(self._head[4:8], "big")
                if self._stream > SYSTEM or self._head[1:4] != b"\0\0\0":
                    raise CliError(f"unrecognized input header: {self._head[0]}")
                self._head = b""
                continue
            piece = bytes(view[: self._left])
            self._left -= len(piece)
            view = view[len(piece) :]
            if self._stream == SYSTEM:
                raise CliError(f"error from daemon in stream: {piece.decode('utf-8', 'replace')}")
            yield self._stream, piece
