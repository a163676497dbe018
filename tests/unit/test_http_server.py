"""The server over real sockets: framing, hijack, half-close, bounds.

Clients are raw sockets in threads or asyncio streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.api.errors import Conflict, InvalidArgument, NotFound, NotModified
from sampan.http.exchange import Limits
from sampan.http.request import Request
from sampan.http.response import Response, StreamResponse, Upgrade, empty, json_response
from sampan.http.router import Router
from sampan.http.server import Server
from sampan.http.streams import Stream, frame, pump

FAST = Limits(
    head_time=0.2, idle_time=5.0, linger_time=0.3, eof_grace=0.05, head_bytes=8192, request_line_bytes=4096
)
HOST = b"Host: d\r\n"


class App:
    """Handlers, and what they saw."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.closed = asyncio.Event()
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.seen: list[Any] = []
        self.router = Router()
        add = self.router.add
        add("GET", "/_ping", self.ping)
        add("HEAD", "/_ping", self.ping)
        add("POST", "/echo", self.echo)
        add("POST", "/ignore", self.ping)
        add("POST", "/attach", self.attach)
        add("POST", "/exec", self.exec)
        add("POST", "/session", self.session)
        add("GET", "/forever", self.forever)
        add("GET", "/events", self.events)
        add("GET", "/numbers", self.numbers)
        add("GET", "/broken-stream", self.broken_stream)
        add("GET", "/missing", self.missing)
        add("GET", "/same", self.same)
        add("GET", "/bug", self.bug)
        add("POST", "/slow-upload", self.slow_upload)

    async def ping(self, request: Request) -> Response:
        return Response(200, b"OK", {"Content-Type": "text/plain"})

    async def echo(self, request: Request) -> Response:
        return Response(200, await request.body.read(1 << 30))

    async def attach(self, request: Request) -> Upgrade:
        async def run(stream: Stream) -> None:
            while data := await stream.read():
                await stream.write(data)
            await stream.write(b"<after EOF>")

        return Upgrade(run)

    async def exec(self, request: Request) -> Upgrade:
        self.seen.append(await request.json())
        return await self.attach(request)

    async def session(self, request: Request) -> Upgrade:
        return Upgrade((await self.attach(request)).run, content_type="", protocol=request.upgrade)

    async def forever(self, request: Request) -> Response:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return empty()

    async def events(self, request: Request) -> StreamResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                await self.go_on.wait()
                yield b"first\n"
                await asyncio.Event().wait()
            finally:
                self.closed.set()

        return StreamResponse(200, "application/json", chunks())

    async def numbers(self, request: Request) -> StreamResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in (b"one ", b"", b"two"):
                yield number

        return StreamResponse(200, "text/plain", chunks())

    async def broken_stream(self, request: Request) -> StreamResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("disk gone")

        return StreamResponse(200, "text/plain", chunks())

    async def missing(self, request: Request) -> Response:
        raise NotFound("No such container: x")

    async def same(self, request: Request) -> Response:
        raise NotModified("already started")

    async def bug(self, request: Request) -> Response:
        raise KeyError("surprise")

    async def slow_upload(self, request: Request) -> Response:
        self.started.set()
        await self.go_on.wait()
        size = 0
        async for data in request.body:
            size += len(data)
        return json_response({"size": size})


Body = Callable[["Client", App, Server], Awaitable[None]]


class Client:
    """A raw connection: what a test sends and what comes back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self) -> Client:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 20)
        return self

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def end(self) -> None:
        self.writer.write_eof()

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 10)

    async def until(self, mark: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), 10)

    async def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        head = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:-2])}
        length = int(headers.get("content-length", 0)) if body else 0
        return int(head[0].split()[1]), headers, await self.reader.readexactly(length)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def serve(tmp_path: Path, body: Body, limits: Limits = FAST) -> None:
    """Run `body` against a server of `App`; the server must then close by itself and leave nothing."""

    async def main() -> None:
        app = App()
        server = Server(app.router, limits)
        await server.listen_unix(tmp_path / "s")
        client = await Client(tmp_path / "s").open()
        try:
            await asyncio.wait_for(body(client, app, server), 60)
        finally:
            await client.close()
            await server.close(0.2)
        assert server.connections == 0
        assert not (tmp_path / "s").exists()

    asyncio.run(main())


def request(method: str, path: str, body: bytes | None = None, headers: bytes = b"") -> bytes:
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (
        method.encode(),
        path.encode(),
        HOST,
        headers,
        length,
        body or b"",
    )


PING = request("GET", "/_ping")


def test_keep_alive_and_docker_headers(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        for _ in range(3):
            client.send(PING)
            status, headers, data = await client.answer()
            assert (status, data) == (200, b"OK")
            assert headers["api-version"] == "1.51"
            assert headers["ostype"] == "linux"
            assert headers["docker-experimental"] == "false"
            assert headers["server"].startswith("Sampan/")
        assert server.connections == 1

    serve(tmp_path, body)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(*(request("POST", "/echo", b"%d" % n) for n in range(5)), PING)
        assert [(await client.answer())[2] for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", b"OK"]

    serve(tmp_path, body)


def test_one_byte_at_a_time(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        chunked = request("POST", "/echo", None, b"Transfer-Encoding: chunked\r\n")
        chunked += b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n"
        for byte in chunked + PING:
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer())[2] == b"abc0123456789"
        assert (await client.answer())[2] == b"OK"

    serve(tmp_path, body)


def test_head_has_the_length_and_no_body(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("HEAD", "/_ping"), PING)
        status, headers, _ = await client.answer(body=False)
        assert (status, headers["content-length"]) == (200, "2")
        assert (await client.answer())[2] == b"OK"

    serve(tmp_path, body)


def test_errors_keep_the_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("GET", "/missing"))
        status, headers, data = await client.answer()
        assert (status, json.loads(data)) == (404, {"message": "No such container: x"})
        assert headers["content-type"] == "application/json"
        client.send(request("GET", "/same"))
        status, headers, data = await client.answer()
        assert (status, data) == (304, b"") and "content-length" not in headers
        assert not caplog.records
        client.send(request("GET", "/bug"))
        status, _, data = await client.answer()
        assert status == 500 and "surprise" in json.loads(data)["message"]
        assert [record.exc_info is not None for record in caplog.records] == [True]
        client.send(request("GET", "/nowhere"), request("PUT", "/_ping"), request("GET", "/_ping?a=%ff"))
        for expected in (404, 404, 400):
            assert (await client.answer())[0] == expected
        client.send(PING)
        assert (await client.answer())[0] == 200

    serve(tmp_path, body)


def test_expect_continue_is_sent_when_the_body_is_wanted(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        head = b"POST /echo HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        client.send(head)
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hi")
        assert (await client.answer())[2] == b"hi"
        client.send(head.replace(b"/echo", b"/ignore"))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.rest() == b""

    serve(tmp_path, body)


def test_unread_body_is_drained_up_to_a_bound(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("POST", "/ignore", bytes(100_000)), PING)
        assert (await client.answer())[2] == b"OK"
        assert (await client.answer())[2] == b"OK"
        client.send(b"POST /ignore HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000000\r\n\r\n", bytes(600_000))
        assert (await client.answer())[2] == b"OK"
        assert await client.rest() == b""

    serve(tmp_path, body)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (
            request("POST", "/echo", b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
            400,
        ),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 5, 5\r\n\r\nabcde", 400),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: +5\r\n\r\nabcde", 400),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 0x5\r\n\r\nabcde", 400),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length : 5\r\n\r\nabcde", 400),
        (
            request("POST", "/echo", None, b"Transfer-Encoding: chunked\r\n" * 2),
            400,
        ),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 501),
        (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\nHost: d\n\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\rY: b\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\n\r\n", 400),
        (b"GET  /_ping HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"GET _ping HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"\x00garbage", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: d\r\n\r\n", 414),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 9000, 431),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n", 400),
    ],
)
def test_malformed_requests_are_refused_and_nothing_behind_them_is_served(
    tmp_path: Path, raw: bytes, status: int
) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(raw, PING)
        got, headers, data = await client.answer()
        assert got == status
        assert json.loads(data)["message"]
        assert headers["api-version"] == "1.51"
        client.end()
        assert await client.rest() == b""

    serve(tmp_path, body)


def test_slow_head_is_cut_off_and_idle_connections_end(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(b"GET /_ping HTTP/1.1\r\n")
        assert (await client.answer())[0] == 408
        assert await client.rest() == b""
        idle = await Client(client.path).open()
        idle.send(PING)
        assert (await idle.answer())[0] == 200
        assert await idle.rest() == b""
        await idle.close()

    serve(tmp_path, body, Limits(head_time=0.1, idle_time=0.1, linger_time=0.1))


def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(PING)
        await client.answer()
        second = await Client(client.path).open()
        assert (await second.answer())[0] == 503
        assert await second.rest() == b""
        await second.close()
        client.send(PING)
        assert (await client.answer())[0] == 200

    serve(tmp_path, body, Limits(connections=1))


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"])
@pytest.mark.parametrize("split", [True, False])
def test_hijack_keeps_glued_bytes_and_writes_after_half_close(
    tmp_path: Path, upgrade: bytes, split: bool
) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("POST", "/attach", None, upgrade), b"HELLO ")
        if split:
            head = await client.until(b"\r\n\r\n")
            client.send(b"WORLD")
        else:
            client.send(b"WORLD")
            client.end()
            head = await client.until(b"\r\n\r\n")
        if split:
            client.end()
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n")
        assert (b"Upgrade: tcp\r\n" in head and b"Connection: Upgrade\r\n" in head) == bool(upgrade)
        assert b"application/vnd.docker.raw-stream" in head
        assert b"ength" not in head and b"chunked" not in head
        assert await client.rest() == b"HELLO WORLD<after EOF>"

    serve(tmp_path, body)


def test_eof_that_came_with_the_request_does_not_cancel_the_hijack_later(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        async def run(stream: Stream) -> None:
            assert await stream.read() == b""
            await asyncio.sleep(FAST.eof_grace * 3)
            await stream.write(b"late output")

        async def handler(request: Request) -> Upgrade:
            for _ in range(5):  # turns of the loop, in which the EOF arrives
                await asyncio.sleep(0)
            return Upgrade(run)

        app.router.add("POST", "/late", handler)
        client.send(request("POST", "/late"))
        client.end()
        assert (await client.rest()).endswith(b"late output")

    serve(tmp_path, body)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"])
def test_body_before_a_hijack_is_the_handlers_and_the_rest_the_streams(
    tmp_path: Path, upgrade: bytes, chunked: bool
) -> None:
    json_body = b'{"Detach":false,"Tty":false}'
    headers = upgrade + b"Content-Type: application/json\r\n"
    if chunked:
        packet = request("POST", "/exec", None, headers + b"Transfer-Encoding: chunked\r\n")
        packet += b"%x\r\n%b\r\n0\r\n\r\n" % (len(json_body), json_body)
    else:
        packet = request("POST", "/exec", json_body, headers)

    async def body(client: Client, app: App, server: Server) -> None:
        client.send(packet, b"first stdin\r\n0\r\n\r\n")
        client.end()
        await client.until(b"\r\n\r\n")
        assert await client.rest() == b"first stdin\r\n0\r\n\r\n<after EOF>"
        assert app.seen == [{"Detach": False, "Tty": False}]

    serve(tmp_path, body)


def test_a_body_that_the_handler_left_does_not_reach_the_stream(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(
            request("POST", "/attach", b"unread", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"), b"stdin"
        )
        client.end()
        await client.until(b"\r\n\r\n")
        assert await client.rest() == b"stdin<after EOF>"

    serve(tmp_path, body)


def test_h2c_upgrade_passes_through(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(
            request("POST", "/session", None, b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            b"PRI * HTTP/2.0\r\n\r\n",
        )
        assert b"Upgrade: h2c\r\n" in await client.until(b"\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"PRI * HTTP/2.0\r\n\r\n"

    serve(tmp_path, body)


def test_server_half_close_leaves_reading_open(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        got = asyncio.get_running_loop().create_future()

        async def run(stream: Stream) -> None:
            await stream.write(b"bye")
            stream.write_eof()
            data = b""
            while more := await stream.read():
                data += more
            got.set_result(data)

        async def handler(request: Request) -> Upgrade:
            return Upgrade(run)

        app.router.add("POST", "/half", handler)
        client.send(request("POST", "/half"))
        await client.until(b"\r\n\r\n")
        assert await client.rest() == b"bye"
        client.send(b"still here")
        client.end()
        assert await asyncio.wait_for(got, 5) == b"still here"

    serve(tmp_path, body)


def test_output_is_not_lost_when_the_client_still_sends(tmp_path: Path) -> None:
    """Closing a socket with unread bytes resets it: the client must still get all output and a clean end."""

    async def body(client: Client, app: App, server: Server) -> None:
        async def run(stream: Stream) -> None:
            await stream.write(bytes(200_000))

        async def handler(request: Request) -> Upgrade:
            return Upgrade(run)

        app.router.add("POST", "/deaf", handler)
        client.send(request("POST", "/deaf"), bytes(500_000))
        await client.until(b"\r\n\r\n")
        assert len(await client.rest()) == 200_000

    serve(tmp_path, body)


def test_eof_before_a_hijack_cancels_the_handler(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("GET", "/forever"))
        await app.started.wait()
        client.end()
        await asyncio.wait_for(app.cancelled.wait(), 5)
        assert await client.rest() == b""

    serve(tmp_path, body)


def test_a_prompt_answer_reaches_a_client_that_half_closed(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(PING)
        client.end()
        assert (await client.rest()).endswith(b"OK")

    serve(tmp_path, body)


def test_eof_within_a_body_never_looks_like_its_end(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 10\r\n\r\nabc")
        client.end()
        assert await client.rest() == b""

    serve(tmp_path, body)


def test_stream_head_goes_out_before_the_first_chunk_and_eof_closes_the_generator(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("GET", "/events"))
        assert b"Transfer-Encoding: chunked\r\n" in await client.until(b"\r\n\r\n")
        app.go_on.set()
        assert await client.until(b"first\n\r\n") == b"6\r\nfirst\n\r\n"
        await client.close()
        await asyncio.wait_for(app.closed.wait(), 5)

    serve(tmp_path, body)


def test_streams_are_chunked_or_delimited_by_close(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("GET", "/numbers"))
        await client.until(b"\r\n\r\n")
        assert await client.until(b"0\r\n\r\n") == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"
        client.send(b"GET /numbers HTTP/1.0\r\n\r\n")
        assert b"chunked" not in await client.until(b"\r\n\r\n")
        assert await client.rest() == b"one two"

    serve(tmp_path, body)


def test_an_error_in_a_stream_breaks_it_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        client.send(request("GET", "/broken-stream"))
        await client.until(b"\r\n\r\n")
        got = b""
        with contextlib.suppress(ConnectionError):
            got = await client.rest()
        assert not got.endswith(b"0\r\n\r\n")
        assert len(caplog.records) == 1

    serve(tmp_path, body)


def test_upload_to_a_slow_handler_is_held_back(tmp_path: Path) -> None:
    size = 200 << 20

    async def body(client: Client, app: App, server: Server) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client.writer.transport.set_write_buffer_limits(high=1 << 16)
        client.send(b"POST /slow-upload HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n" % size)
        piece, sent = bytes(1 << 18), 0

        async def upload() -> None:
            nonlocal sent
            while sent < size:
                client.send(piece)
                sent += len(piece)
                await client.writer.drain()

        task = asyncio.create_task(upload())
        await app.started.wait()
        held = -1
        while held != sent:  # the client comes to a halt while nobody reads
            held = sent
            await asyncio.sleep(0.05)
        assert sent < 8 << 20
        app.go_on.set()
        await task
        assert json.loads((await client.answer())[2]) == {"size": size}
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB

    serve(tmp_path, body)


def test_a_flood_of_tiny_chunks_does_not_starve_others(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        second = await Client(client.path).open()
        second.send(PING)
        await second.answer()

        async def count(request: Request) -> Response:
            app.started.set()
            app.seen.append(len(await request.body.read()))
            return empty()

        app.router.add("POST", "/count", count)
        client.send(request("POST", "/count", None, b"Transfer-Encoding: chunked\r\n"), b"1\r\nx\r\n" * 30_000)
        client.send(b"0\r\n\r\n")
        await app.started.wait()
        second.send(PING)
        await second.answer()
        assert app.seen == []
        assert (await client.answer())[0] == 204
        assert app.seen == [30_000]
        await second.close()

    serve(tmp_path, body)


def test_writes_wait_for_a_slow_client(tmp_path: Path) -> None:
    async def body(client: Client, app: App, server: Server) -> None:
        written = 0

        async def source() -> AsyncIterator[bytes]:
            nonlocal written
            for _ in range(320):
                yield bytes(1 << 16)
                written += 1 << 16

        async def handler(request: Request) -> Upgrade:
            return Upgrade(lambda stream: pump(source(), stream, 1))

        app.router.add("POST", "/flood", handler)
        client.send(request("POST", "/flood"))
        await client.until(b"\r\n\r\n")
        held = -1
        while held != written:
            held = written
            await asyncio.sleep(0.05)
        assert written < 8 << 20
        data = await client.rest()
        assert data == frame(1, bytes(1 << 16)) * 320

    serve(tmp_path, body)


def test_close_lets_requests_end_and_then_cancels(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        server = Server(app.router, FAST)
        await server.listen_unix(tmp_path / "s")
        idle = await Client(tmp_path / "s").open()
        idle.send(PING)
        await idle.answer()
        slow, stuck = await Client(tmp_path / "s").open(), await Client(tmp_path / "s").open()
        slow.send(request("POST", "/slow-upload", b"abc"))
        await app.started.wait()
        app.started.clear()
        stuck.send(request("GET", "/forever"))
        await app.started.wait()
        closing = asyncio.create_task(server.close(0.3))
        assert await idle.rest() == b""
        app.go_on.set()
        status, headers, data = await slow.answer()
        assert (status, json.loads(data), headers["connection"]) == (200, {"size": 3}, "close")
        await closing
        assert app.cancelled.is_set()
        assert server.connections == 0
        with pytest.raises(OSError):
            await Client(tmp_path / "s").open()
        for client in (idle, slow, stuck):
            await client.close()

    asyncio.run(main())


def test_unix_socket_mode_group_and_reuse(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(path))
        stale.close()
        server = Server(App().router)
        await server.listen_unix(path, 0o600, os.getgid())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_gid == os.getgid()
        with pytest.raises(Conflict, match="another server answers"):
            await Server(App().router).listen_unix(path)
        await server.close(0)
        assert list(tmp_path.iterdir()) == []
        path.write_text("not a socket")
        with pytest.raises(Conflict, match="not a socket"):
            await server.listen_unix(path)

    asyncio.run(main())


def test_listens_on_tcp_and_on_a_given_descriptor() -> None:
    async def main() -> None:
        server = Server(App().router)
        port = await server.listen_tcp("127.0.0.1", 0)
        given = socket.create_server(("127.0.0.1", 0))
        await server.listen_fd(given.detach())
        idle = socket.socket()
        with pytest.raises(InvalidArgument, match="not a listening"):
            await server.listen_fd(idle.fileno())
        idle.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PING)
        assert (await reader.readuntil(b"OK")).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
        await server.close(0.2)

    asyncio.run(main())
