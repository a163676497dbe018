"""Our end of a socketpair whose other end a shim holds.

A container's stdin, stdout or stderr, for asyncio.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import TracebackType

READ_SIZE = 1 << 18


class FdStream:
    """A stream socket in async clothes, with one reader and one writer, which are independent.

    Nothing is buffered here: what is not read stays in the kernel, so the other end is held back.
    """

    def __init__(self, fd: int) -> None:
        """Take over `fd`; it is closed by `close`."""
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._closed = False

    @classmethod
    def pair(cls) -> tuple[FdStream, int]:
        """Make a socketpair: our end, and the descriptor to hand over (close it after that)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours.detach()), theirs.detach()

    async def read(self, size: int = READ_SIZE) -> bytes:
        """Give what is there, at most `size` bytes.

        B"" at the end, which a peer that died and our `close` are too.
        """
        while not self._closed:
            try:
                return self._socket.recv(size)
            except BlockingIOError:
                self._readable = self._loop.create_future()
                self._loop.add_reader(self._socket, _wake, self._readable)
                try:
                    await self._readable
                finally:
                    if not self._closed:
                        self._loop.remove_reader(self._socket)
            except ConnectionResetError:
                return b""
        return b""

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting while the other end is slow.

        `BrokenPipeError` when it is gone or we are closed.
        """
        rest = memoryview(data)
        while rest:
            if self._closed:
                raise BrokenPipeError("write to a closed stream")
            try:
                rest = rest[self._socket.send(rest, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                self._writable = self._loop.create_future()
                self._loop.add_writer(self._socket, _wake, self._writable)
                try:
                    await self._writable
                finally:
                    if not self._closed:
                        self._loop.remove_writer(self._socket)

    def write_eof(self) -> None:
        """Tell the other end that no more will come; reading goes on."""
        if not self._closed:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:  # ENOTCONN: the other end is gone, and knows
                pass

    def close(self) -> None:
        """Close; a `read` that waits gives b"", a `write` that waits fails."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for waiter in (self._readable, self._writable):
            if waiter is not None:
                _wake(waiter)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def __enter__(self) -> FdStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
