"""Request bodies as models and as files."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError

from sampan.api.errors import InvalidArgument, System
from sampan.engine.fdstream import FdStream
from sampan.http.errors import ClientGone
from sampan.http.request import Body, Request

M = TypeVar("M", bound=BaseModel)


async def model(request: Request, kind: type[M]) -> M:
    """Read the JSON body as a model; no body is an empty object. Raises `InvalidArgument` naming the field."""
    data: Any = await request.json()
    return validated({} if data is None else data, kind)


def validated(data: Any, kind: type[M]) -> M:
    """Take decoded JSON as a model. Raises `InvalidArgument` naming the field."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise InvalidArgument(f"invalid JSON: {where}: {first['msg']}") from error


class _BodyFile(io.RawIOBase):
    """The reading end for a worker thread. An upload that broke off is an error, never an early end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.broken: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.readv(self._fd, [buffer])
        if count == 0 and self.broken is not None:
            raise System("read the request body: the client went away before its end") from self.broken
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


@asynccontextmanager
async def as_file(body: Body) -> AsyncIterator[BinaryIO]:
    """Give the body as a blocking file for a worker thread; the client is held back while the reader is slow."""
    near, far = FdStream.pair()
    raw = _BodyFile(far)
    feeding = asyncio.create_task(_feed(body, near, raw))
    try:
        yield cast(BinaryIO, io.BufferedReader(raw, 1 << 18))
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        near.close()
        raw.close()


async def _feed(body: Body, near: FdStream, raw: _BodyFile) -> None:
    try:
        async for chunk in body.stream():
            await near.write(chunk)
    except ClientGone as error:
        raw.broken = error
    except BrokenPipeError:
        pass  # the reader has enough
    finally:
        near.close()
