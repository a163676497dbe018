"""What a handler may give back: a whole answer, an answer that goes on, or the connection itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampan.http.streams import Stream

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. For HEAD the body only gives the length."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamResponse:
    """An answer whose body is made as it is sent; the head goes out before the first chunk is asked for.

    If `chunks` is an async generator, it is closed (`aclose`) however the answer ends. An error out of it
    comes too late for a status, so it breaks the connection off: the client sees a truncated body, never a
    short one that looks whole.
    """

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Gives the connection to `run` as a raw stream, and ends it when `run` returns.

    A client that sent `Upgrade` gets 101 and `protocol`; another gets 200 and raw bytes, Docker's older form.
    """

    run: Callable[[Stream], Awaitable[None]]
    content_type: str = RAW_STREAM
    protocol: str = "tcp"


AnyResponse = Response | StreamResponse | Upgrade


def json_response(obj: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Give `obj` as JSON, with the newline at the end that Docker sends too."""
    body = json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Response(status, body, {"Content-Type": "application/json", **(headers or {})})


def empty(status: int = 204) -> Response:
    """Give an answer without a body."""
    return Response(status)
