"""What a thread writes into a descriptor, as the chunks of an answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor

from sampan.engine.fdstream import FdStream


async def outflow(pool: Executor, write: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Run `write(descriptor)` in a thread and give what it writes, no faster than it is taken.

    What `write` raises before its first byte is raised here; a later error comes out of the iterator. Use the iterator up
    or close it: the writer then fails with EPIPE.
    """
    near, far = FdStream.pair()
    chunks = _chunks(pool, write, near, far)
    try:
        first = await anext(chunks, b"")
    except BaseException:
        await chunks.aclose()
        raise
    return _with_first(first, chunks)


async def _chunks(
    pool: Executor, write: Callable[[int], None], near: FdStream, far: int
) -> AsyncGenerator[bytes, None]:
    writing = asyncio.get_running_loop().run_in_executor(pool, _write, write, far)
    try:
        async for chunk in near:
            yield chunk
        await writing
    finally:
        near.close()
        await asyncio.gather(writing, return_exceptions=True)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


def _write(write: Callable[[int], None], far: int) -> None:
    try:
        write(far)
    finally:
        os.close(far)
