from __future__ import annotations

import asyncio
import socket

import pytest

from sampan.engine.fdstream import FdStream


def test_reads_writes_and_half_closes_both_ways() -> None:
    async def main() -> None:
        stream, fd = FdStream.pair()
        with socket.socket(fileno=fd) as theirs, stream:
            theirs.sendall(b"out")
            assert await stream.read() == b"out"
            await stream.write(b"in")
            stream.write_eof()
            assert theirs.recv(10) == b"in"
            assert theirs.recv(10) == b""
            theirs.sendall(b"after EOF")
            theirs.shutdown(socket.SHUT_WR)
            assert [data async for data in stream] == [b"after EOF"]
            assert await stream.read() == b""

    asyncio.run(main())


def test_slow_peer_holds_the_writer_and_nothing_is_lost() -> None:
    async def main() -> None:
        left, fd = FdStream.pair()
        right = FdStream(fd)
        with left, right:
            data = bytes(range(256)) * (4 << 12)
            writer = asyncio.create_task(left.write(data))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not writer.done()
            got = bytearray()
            while len(got) < len(data):
                got += await right.read()
            await writer
            assert got == data

    asyncio.run(main())


def test_both_ways_at_once() -> None:
    async def main() -> None:
        left, fd = FdStream.pair()
        right = FdStream(fd)
        data = bytes(2 << 20)

        async def talk(stream: FdStream) -> int:
            async def write() -> None:
                await stream.write(data)
                stream.write_eof()

            task = asyncio.create_task(write())
            size = sum([len(piece) async for piece in stream])
            await task
            return size

        with left, right:
            assert list(await asyncio.gather(talk(left), talk(right))) == [len(data)] * 2

    asyncio.run(main())


def test_close_wakes_who_waits() -> None:
    async def main() -> None:
        stream, fd = FdStream.pair()
        with socket.socket(fileno=fd):
            reader = asyncio.create_task(stream.read())
            writer = asyncio.create_task(stream.write(bytes(8 << 20)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            stream.close()
            stream.close()
            assert await reader == b""
            with pytest.raises(BrokenPipeError):
                await writer
            assert await stream.read() == b""
            with pytest.raises(BrokenPipeError):
                await stream.write(b"x")

    asyncio.run(main())


def test_a_dead_peer_is_the_end_for_readers_and_an_error_for_writers() -> None:
    async def main() -> None:
        stream, fd = FdStream.pair()
        with stream:
            await stream.write(b"never read")  # so that the close below resets
            socket.socket(fileno=fd).close()
            assert await stream.read() == b""
            with pytest.raises(BrokenPipeError):
                await stream.write(b"x")
            stream.write_eof()

    asyncio.run(main())


def test_a_cancelled_read_loses_nothing() -> None:
    async def main() -> None:
        stream, fd = FdStream.pair()
        with socket.socket(fileno=fd) as theirs, stream:
            reader = asyncio.create_task(stream.read())
            await asyncio.sleep(0)
            theirs.sendall(b"kept")
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert await stream.read() == b"kept"

    asyncio.run(main())
