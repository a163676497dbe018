"""Bytes in motion: the queue behind a connection, the raw stream of a hijack, Docker's stdcopy frames."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from sampan.http.errors import ClientGone

HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
"""The stream ids of stdcopy."""


class Source(Protocol):
    """What feeds a `ByteQueue`; asked to stop and to go on, so that memory stays bounded."""

    def pause_reading(self) -> None:
        """Stop feeding."""

    def resume_reading(self) -> None:
        """Feed again."""


class ByteQueue:
    """Bytes received and not yet read.

    One reader; past `HIGH_WATER` the source is paused until `LOW_WATER`.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.eof = False

    def __len__(self) -> int:
        return self._size

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._source.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        """No more will come; what is queued can still be read."""
        self.eof = True
        self._wake()

    def push_back(self, data: bytes) -> None:
        """Put bytes back in front, to be read next."""
        if data:
            self._chunks.appendleft(data)
            self._size += len(data)

    async def wait(self) -> bool:
        """Wait until there is something to read; False at the end."""
        while not self._chunks:
            if self.eof:
                return False
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return True

    async def read(self) -> bytes:
        """Give the next piece as it arrived; b"" at the end."""
        if not await self.wait():
            return b""
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < LOW_WATER:
            self._paused = False
            self._source.resume_reading()
        return data

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Wire(Protocol):
    """The writing side of a connection."""

    async def send(self, data: bytes) -> None:
        """Write, and wait while the peer is slow; `ClientGone` when it went."""

    def send_eof(self) -> None:
        """Say that nothing more will come; reading goes on."""


class Stream:
    """The raw two-way stream after a hijack. Each way ends on its own."""

    def __init__(self, queue: ByteQueue, wire: Wire) -> None:
        self._queue = queue
        self._wire = wire
        self._closed = False

    async def read(self) -> bytes:
        """Give the next bytes; b"" when the client closed its side (it may still listen)."""
        return b"" if self._closed else await self._queue.read()

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client is slow.

        Raises `ClientGone` (a `ConnectionError`) when nobody listens.
        """
        if self._closed:
            raise ClientGone("write to a closed stream")
        if data:
            await self._wire.send(data)

    def write_eof(self) -> None:
        """Close our side; the client's bytes can still be read."""
        self._wire.send_eof()

    def close(self) -> None:
        """End both ways. The connection itself goes when the handler returns."""
        self._closed = True
        self._wire.send_eof()
        self._queue.feed_eof()


_FRAME = struct.Struct(">BxxxL")


def frame(stream_id: int, data: bytes) -> bytes:
    """Give `data` as one stdcopy frame: stream id, three zero bytes, length as a big-endian u32, payload."""
    return _FRAME.pack(stream_id, len(data)) + data


async def pump(source: AsyncIterator[bytes], stream: Stream, stream_id: int | None) -> None:
    """Send all of `source` into `stream`: framed, or raw where `stream_id` is None.

    As slow as the slower of the two.
    """
    async for data in source:
        if data:
            await stream.write(data if stream_id is None else frame(stream_id, data))
