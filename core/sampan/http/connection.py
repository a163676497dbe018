"""One client's connection: requests in order, then perhaps a raw stream. One task runs it from top to bottom.

Everything received goes into one `ByteQueue`; heads, bodies and, after a hijack, the raw stream are read
out of it, so no byte glued behind a request can be lost. End of file before a hijack cancels the handler
(after `Limits.eof_grace`); after it, it is a half-close.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

from sampan import __version__
from sampan.http.errors import BadRequest, ClientGone, error_response
from sampan.http.exchange import Exchange, Limits, find_head_end
from sampan.http.request import Body, Peer, Query, Request
from sampan.http.response import AnyResponse, Response, StreamResponse, Upgrade
from sampan.http.router import MAX_VERSION
from sampan.http.streams import ByteQueue, Stream

log = logging.getLogger(__name__)

App = Callable[[Request], Awaitable[AnyResponse]]

_WRITE_HIGH_WATER = 1 << 18
_BASE_HEADERS = (
    ("Api-Version", f"{MAX_VERSION[0]}.{MAX_VERSION[1]}"),
    ("Docker-Experimental", "false"),
    ("Ostype", "linux"),
    ("Server", f"Sampan/{__version__} (linux)"),
)


class Connection(asyncio.Protocol):
    """Serves one accepted connection until it ends.

    `on_end` is called once, when its task and its socket are gone.
    """

    def __init__(self, app: App, limits: Limits, on_end: Callable[[Connection], None]) -> None:
        self._app = app
        self._limits = limits
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._inbox = ByteQueue(self)
        self._exchange: Exchange | None = None
        self._peer = Peer("")
        self._task: asyncio.Task[None] | None = None
        self._idle = False
        self._closing = False
        self._hijacked = False
        self._lost = False
        self._ended = asyncio.Event()
        """The client will send no more."""
        self._discarding = False
        self._eof_sent = False
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        self._peer = _peer_of(self._transport)
        self._task = self._loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        """Queue what arrived."""
        if not self._discarding:
            self._inbox.feed(data)

    def eof_received(self) -> bool:
        """The client closed its sending side; keep ours open."""
        self._ended.set()
        self._inbox.feed_eof()
        if not self._hijacked and self._task is not None:
            self._timer = self._loop.call_later(self._limits.eof_grace, self._task.cancel)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone both ways."""
        self._lost = True
        self._ended.set()
        self._inbox.feed_eof()
        self.resume_writing()
        self._stop_timer()
        if self._task is None or self._task.done():
            self._on_end(self)
        elif not self._hijacked:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client is slow: hold our writers."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let our writers go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What the queue and the stream call

    def pause_reading(self) -> None:
        """Take no more from the client."""
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    async def send(self, data: bytes) -> None:
        """Write, and wait while the client is slow."""
        assert self._transport is not None
        if self._lost or self._eof_sent or self._transport.is_closing():
            raise ClientGone("the client is gone")
        self._transport.write(data)
        if self._writable is not None:
            await asyncio.shield(self._writable)
            if self._lost:
                raise ClientGone("the client is gone")

    def send_eof(self) -> None:
        """Close the sending side."""
        assert self._transport is not None
        if not (self._eof_sent or self._lost or self._transport.is_closing()):
            self._eof_sent = True
            self._transport.write_eof()

    # What the server calls

    def finish(self) -> None:
        """End after the request in hand; at once if there is none."""
        self._closing = True
        if self._idle and self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """End now: cancel what runs and drop the connection."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    # The life of the connection

    async def _serve(self) -> None:
        assert self._transport is not None
        try:
            while not self._closing and (head := await self._read_head()):
                if not await self._answer(head):
                    break
            await self._linger()
        except (asyncio.CancelledError, ClientGone):
            pass
        except Exception:
            log.exception("connection of %s broken off", self._peer.address)
            self._transport.abort()
        finally:
            self._stop_timer()
            if self._lost:
                self._loop.call_soon(self._on_end, self)
            else:
                self._transport.close()
                self._timer = self._loop.call_later(self._limits.flush_time, self._transport.abort)

    async def _read_head(self) -> bytes:
        """Give the next request's head, b"" if the client sends none (more)."""
        idle = True
        try:
            async with asyncio.timeout(self._limits.idle_time) as deadline:
                self._idle = True
                try:
                    if not await self._inbox.wait():
                        return b""
                finally:
                    self._idle = False
                deadline.reschedule(self._loop.time() + self._limits.head_time)
                idle = False
                return await self._collect_head()
        except TimeoutError:
            if idle:
                return b""
            text = f"request head did not arrive within {self._limits.head_time:g} s"
            await self._refuse(BadRequest(text, 408))
        except BadRequest as error:
            await self._refuse(error)
        return b""

    async def _collect_head(self) -> bytes:
        buffer = bytearray()
        while data := await self._inbox.read():
            searched = max(0, len(buffer) - 3)
            buffer += data
            while buffer[:2] == b"\r\n":  # RFC 9112 §2.2: empty lines before a request are skipped
                del buffer[:2]
                searched = 0
            if buffer[:1] and not (buffer[:1].isalpha() or buffer[:1] == b"\r"):
                raise BadRequest(
                    "client sent a TLS handshake to a plain HTTP port"
                    if buffer[0] == 0x16
                    else "malformed request: it does not begin with a method"
                )
            end = find_head_end(buffer, searched)
            if (end if end >= 0 else len(buffer)) > self._limits.head_bytes:
                raise BadRequest(f"request head is larger than {self._limits.head_bytes} bytes", 431)
            if end >= 0:
                self._inbox.push_back(bytes(buffer[end:]))
                return bytes(buffer[:end])
        return b""

    async def _answer(self, head: bytes) -> bool:
        """Serve one request; True if another may follow."""
        try:
            exchange = self._exchange = Exchange(head, self._limits)
        except BadRequest as error:
            await self._refuse(error)
            return False
        try:
            response = await self._ask(exchange)
            if isinstance(response, Upgrade):
                await self._hijack(exchange, response)
                return False
            if isinstance(response, StreamResponse):
                await self._stream(exchange, response)
            else:
                await self._send_whole(exchange, response)
            return await self._settle(exchange)
        finally:
            self._exchange = None

    async def _ask(self, exchange: Exchange) -> AnyResponse:
        """Run the handler; what it raises becomes an answer."""
        try:
            request = Request(
                exchange.method,
                exchange.path,
                query=Query(exchange.query),
                headers=exchange.headers,
                body=Body(self._receive_body, exchange.length),
                peer=self._peer,
                upgrade=exchange.upgrade,
            )
            response = await self._app(request)
            if isinstance(response, Upgrade) and not await self._drain(exchange):
                raise BadRequest("request body is too large for a request that upgrades the connection")
            return response
        except ClientGone:
            raise
        except Exception as error:
            return error_response(error, f"{exchange.method} {exchange.path}")

    async def _receive_body(self) -> bytes:
        exchange = self._exchange
        if exchange is None:  # the exchange is over, but its handler goes on: what it has is not the whole body
            raise ClientGone("the client closed the connection before the end of the request body")
        if exchange.body_complete:
            return b""
        if exchange.wants_continue and not self._inbox:
            await self.send(exchange.proceed())
        while True:
            data = exchange.body()
            if exchange.body_complete:
                self._inbox.push_back(exchange.rest())
                return data
            if data:
                await asyncio.sleep(0)  # a flood of small chunks must not starve the other connections
                return data
            received = await self._inbox.read()
            if not received:
                raise ClientGone("the client closed the connection before the end of the request body")
            exchange.feed(received)

    async def _send_whole(self, exchange: Exchange, response: Response) -> None:
        headers = dict(response.headers)
        if response.status not in (204, 304):
            headers["Content-Length"] = str(len(response.body))
        out = exchange.head(response.status, self._headers(exchange, headers))
        if response.body and exchange.method != "HEAD" and response.status not in (204, 304):
            out += exchange.data(response.body)
        await self.send(out + exchange.end())

    async def _stream(self, exchange: Exchange, response: StreamResponse) -> None:
        try:
            if (
                exchange.wants_continue
            ):  # too late once the answer began, and its body may be made of the request's
                await self.send(exchange.proceed())
            headers = {"Content-Type": response.content_type, **response.headers}
            await self.send(exchange.head(response.status, self._headers(exchange, headers)))
            if exchange.method != "HEAD":
                async for chunk in response.chunks:
                    if chunk:
                        await self.send(exchange.data(chunk))
            await self.send(exchange.end())
        finally:
            await _close(response.chunks)

    async def _hijack(self, exchange: Exchange, upgrade: Upgrade) -> None:
        self._stop_timer()
        self._hijacked = True
        content_type = {"Content-Type": upgrade.content_type} if upgrade.content_type else {}
        await self.send(exchange.hijack_head(upgrade.protocol, [*content_type.items(), *_BASE_HEADERS]))
        await upgrade.run(Stream(self._inbox, self))

    async def _settle(self, exchange: Exchange) -> bool:
        """Bring the connection to where the next request begins; False if it must end here."""
        if exchange.wants_continue or not await self._drain(exchange):
            return False
        return exchange.keep_alive

    async def _drain(self, exchange: Exchange) -> bool:
        """Read away what the handler left of the body; False if that is too much, or breaks HTTP."""
        if exchange.body_complete:
            return True
        left = self._limits.drain_bytes
        try:
            async with asyncio.timeout(self._limits.linger_time):
                while left > 0:
                    data = await self._receive_body()
                    if not data:
                        return True
                    left -= len(data)
        except (TimeoutError, BadRequest):
            pass
        return False

    async def _refuse(self, error: BadRequest) -> None:
        """Answer what is not HTTP; there is no exchange to frame it."""
        body = error_response(error, "").body
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (*headers, *_BASE_HEADERS)]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def _linger(self) -> None:
        """Say we are done, and take what still comes for a moment.

        Closing with unread bytes would reset our answer away.
        """
        if self._ended.is_set():
            return
        self.send_eof()
        self._discarding = True
        self.resume_reading()
        try:
            async with asyncio.timeout(self._limits.linger_time):
                await self._ended.wait()
        except TimeoutError:
            pass

    def _headers(self, exchange: Exchange, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        result = [*headers.items(), *_BASE_HEADERS, ("Date", _date())]
        if self._closing or exchange.wants_continue:
            result.append(("Connection", "close"))
        return result

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_dated = (0, "")


def _date() -> str:
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]


async def _close(chunks: AsyncIterator[bytes]) -> None:
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


def _peer_of(transport: asyncio.Transport) -> Peer:
    name: Any = transport.get_extra_info("peername")
    certificate = transport.get_extra_info("peercert")
    raw: Any = transport.get_extra_info("socket")
    if raw is not None and raw.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return Peer(f"unix:pid={pid},uid={uid}", uid=uid, pid=pid)
    address = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
    return Peer(address, certificate=certificate or None)
