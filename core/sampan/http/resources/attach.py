"""Joining a client's hijacked connection to the stdio of a container or an exec."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from sampan.api.errors import Conflict
from sampan.api.types import ExecStartRequest
from sampan.engine import logs
from sampan.engine.container import Container, PendingStreams
from sampan.engine.containers import attributes
from sampan.engine.engine import Engine
from sampan.engine.execs import Exec
from sampan.engine.records import Status
from sampan.engine.streams import StdioPair
from sampan.http.detach import Detacher, parse_keys
from sampan.http.request import Request
from sampan.http.response import MULTIPLEXED_STREAM, RAW_STREAM, Upgrade
from sampan.http.streams import STDERR, STDOUT, Stream, frame, pump

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def attach(engine: Engine, container: Container, request: Request) -> Upgrade:
    """Answer `POST /containers/{id}/attach`: may come before the start, and then gets the first byte."""
    query, tty = request.query, container.record.config.tty
    if container.status is Status.PAUSED:
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    keys = parse_keys(query.get("detachKeys") or DEFAULT_DETACH_KEYS) if tty else b""
    stdin = query.get_bool("stdin") and container.record.config.open_stdin
    stdout, stderr = query.get_bool("stdout"), query.get_bool("stderr")
    streaming, replay = query.get_bool("stream"), query.get_bool("logs")
    pair = StdioPair.open(stdin=stdin, stdout=stdout, stderr=stderr and not tty) if streaming else None
    waiting = _wait_for_start(container, pair) if pair is not None and container.shim is None else None
    engine.events.emit("container", "attach", container.id, attributes(container.record))

    async def run(stream: Stream) -> None:
        try:
            if replay:
                await _replay(engine, container, stream, tty=tty, stdout=stdout, stderr=stderr)
            if pair is None:
                return
            if waiting is None and container.shim is not None:
                in_, out, err = pair.remote
                await container.shim.attach(
                    stdin=in_, stdout=out, stderr=err, stdin_eof_closes=container.record.config.stdin_once
                )
            pair.release_remote()
            await join(stream, pair, framed=not tty, detach_keys=keys)
        finally:
            if pair is not None:
                pair.close()
            if waiting in container.pending:
                container.pending.remove(waiting)
                waiting.close()

    return Upgrade(run, _content_type(request, tty))


def _wait_for_start(container: Container, pair: StdioPair) -> PendingStreams:
    """Leave the far ends for the start, which closes them."""
    stdin, stdout, stderr = pair.remote
    pair.remote = (-1, -1, -1)
    waiting = PendingStreams(stdin, stdout, stderr, container.record.config.stdin_once)
    container.pending.append(waiting)
    return waiting


def _content_type(request: Request, tty: bool) -> str:
    return RAW_STREAM if tty or request.version < (1, 42) else MULTIPLEXED_STREAM


async def _replay(
    engine: Engine, container: Container, stream: Stream, *, tty: bool, stdout: bool, stderr: bool
) -> None:
    records = logs.read(engine.registry, container, since_ns=0, until_ns=0, tail=None, follow=False)
    async for record in records:
        if (record.stream == "stdout" and stdout) or (record.stream == "stderr" and stderr):
            await stream.write(
                record.data if tty else frame(STDERR if record.stream == "stderr" else STDOUT, record.data)
            )


def start_exec(engine: Engine, item: Exec, asked: ExecStartRequest, request: Request) -> Upgrade:
    """Answer `POST /exec/{id}/start`: an error of the start goes into the stream, as Docker's does."""
    wanted, tty = item.request, item.request.tty
    keys = parse_keys(wanted.detach_keys or DEFAULT_DETACH_KEYS) if tty else b""
    pair = StdioPair.open(
        stdin=wanted.attach_stdin, stdout=wanted.attach_stdout, stderr=wanted.attach_stderr and not tty
    )

    async def run(stream: Stream) -> None:
        try:
            try:
                await engine.execs.start(item, pair, tty=tty, console_size=asked.console_size)
            except Exception as error:
                text = f"{error}\r\n".encode()
                await stream.write(text if tty else frame(STDOUT, text))
                return
            pair.release_remote()
            if not await join(stream, pair, framed=not tty, detach_keys=keys):
                await item.ended.wait()  # a client that sees the end of the stream asks for the exit code next
        finally:
            pair.close()

    return Upgrade(run, _content_type(request, tty))


async def join(stream: Stream, pair: StdioPair, *, framed: bool, detach_keys: bytes) -> bool:
    """Carry bytes both ways until the outputs have ended, the client has gone, or typed the detach keys (then True)."""
    outputs = [
        pump(source, stream, stream_id if framed else None)
        for source, stream_id in ((_chunks(pair.stdout), STDOUT), (_chunks(pair.stderr), STDERR))
        if source is not None
    ]
    detached = asyncio.Event()
    feeding = asyncio.create_task(_feed(stream, pair, detach_keys, detached))
    out = asyncio.gather(*outputs) if outputs else feeding
    leaving = asyncio.create_task(detached.wait())
    try:
        await asyncio.wait({asyncio.ensure_future(out), leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (feeding, leaving):
            task.cancel()
        out.cancel()
        await asyncio.gather(feeding, leaving, out, return_exceptions=True)
    return detached.is_set()


def _chunks(source: object) -> AsyncIterator[bytes] | None:
    return source.__aiter__() if source is not None else None  # type: ignore[attr-defined]


async def _feed(stream: Stream, pair: StdioPair, detach_keys: bytes, detached: asyncio.Event) -> None:
    """Carry the client's bytes to the process; its end of file goes along, in order."""
    detacher = Detacher(detach_keys)
    write: Callable[[bytes], Awaitable[None]] | None = pair.stdin.write if pair.stdin else None
    try:
        while data := await stream.read():
            data = detacher.feed(data)
            if write is not None and data:
                await write(data)
            if detacher.matched:
                detached.set()
                return
        if pair.stdin is not None:
            pair.stdin.write_eof()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the process no longer reads; its output may go on
