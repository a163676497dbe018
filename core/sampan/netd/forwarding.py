"""Asking the world: a query goes to the servers of a sandbox, from its own network, until one gives an answer.

The servers are raced: the next is asked when the one before failed, or has been silent for a while; the first answer that is
none of a failing server counts. Each attempt has a socket of its own, and with it a source port of the kernel's choice, and
a random id; what does not come from the server asked, with this id and question, is not heard (RFC 5452).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.netd import dns
from sampan.netd.names import NAMESERVER, Upstream
from sampan.netd.outside import Outside

PAUSES = (0.4, 1.0, 1.0)
"""Seconds of silence after which the next server is asked as well, the first time round, the second, the third."""

SERVERS = 3
"""How many servers are asked, as resolv.conf(5) and Docker do; more are left out."""

DEADLINE = 4.0
"""Seconds for all of it. The client's own patience is 5, as a rule."""

TCP_DEADLINE = 8.0
"""The same for a client that asks by TCP, and waits longer."""

PORT = 53
_LONGEST_DATAGRAM = 0xFFFF


class Failed(Exception):
    """No server gave any answer in time."""


@dataclass(frozen=True, slots=True)
class _Server:
    """Where packets go, from which network namespace."""

    family: int
    address: tuple[str | int, ...]
    netns: int


class Forwarder:
    """The servers of one sandbox."""

    def __init__(self, upstreams: Sequence[Upstream], netns: int, outside: Outside) -> None:
        """`netns`: a descriptor of the sandbox's network namespace, which stays the caller's."""
        self._outside = outside
        self._servers = [server for upstream in upstreams if (server := _server(upstream, netns, outside))][:SERVERS]

    async def ask(self, query: bytes, *, by_tcp: bool) -> bytes:
        """Give the answer to a query, with its id: a failing server's if there is no better. Raises `Failed` without any."""
        race = _Race()
        try:
            async with asyncio.timeout(TCP_DEADLINE if by_tcp else DEADLINE):
                await self._run(race, query, by_tcp)
        except TimeoutError:
            pass
        finally:
            race.end()
        if not race.reply:
            raise Failed
        return query[:2] + race.reply[2:]

    async def _run(self, race: _Race, query: bytes, by_tcp: bool) -> None:
        for pause in PAUSES[:1] if by_tcp else PAUSES:
            for server in self._servers:
                if server not in race.failed:
                    race.enter(server, self._attempt(server, query, by_tcp))
                    if await race.is_won(pause):
                        return
        await race.is_won(None)

    async def _attempt(self, server: _Server, query: bytes, by_tcp: bool) -> bytes:
        """Give the answer of one server, or b""."""
        asked = os.urandom(2) + query[2:]
        try:
            reply = await self._by_tcp(server, asked) if by_tcp else await self._by_udp(server, asked)
            if not by_tcp and dns.is_truncated(reply):
                return await self._whole(server, asked, reply)
            return reply
        except (OSError, EOFError):
            return b""

    async def _whole(self, server: _Server, asked: bytes, reply: bytes) -> bytes:
        """Ask by TCP for what did not fit; where that does not work the client learns what there is."""
        try:
            return await self._by_tcp(server, asked)
        except (OSError, EOFError):
            return reply

    async def _by_udp(self, server: _Server, asked: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with self._outside.open(server.family, socket.SOCK_DGRAM, server.netns) as sock:
            sock.connect(server.address)
            sock.send(asked)
            while True:
                reply = await loop.sock_recv(sock, _LONGEST_DATAGRAM)
                if dns.answers(reply, asked):
                    return reply

    async def _by_tcp(self, server: _Server, asked: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with self._outside.open(server.family, socket.SOCK_STREAM, server.netns) as sock:
            await loop.sock_connect(sock, server.address)
            await send_message(sock, asked)
            reply = await receive_message(sock)
        if not dns.answers(reply, asked):
            raise EOFError
        return reply


class _Race:
    """Attempts under way. `reply` is the best answer so far, `failed` are servers that need not be asked again."""

    def __init__(self) -> None:
        self.reply = b""
        self.failed: set[_Server] = set()
        self._won = False
        self._running: dict[asyncio.Task[bytes], _Server] = {}

    def enter(self, server: _Server, attempt: Coroutine[Any, Any, bytes]) -> None:
        """Begin an attempt."""
        self._running[asyncio.create_task(attempt)] = server

    async def is_won(self, seconds: float | None) -> bool:
        """Wait for a good answer, until the time has passed or all attempts have failed."""
        loop = asyncio.get_running_loop()
        ends = None if seconds is None else loop.time() + seconds
        while self._running and not self._won:
            left = None if ends is None else max(0.0, ends - loop.time())
            done, _ = await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                self._judge(self._running.pop(task), task.result())
        return self._won

    def _judge(self, server: _Server, reply: bytes) -> None:
        if reply and dns.code_of(reply) in (dns.NOERROR, dns.NXDOMAIN):
            self._won = True
            self.reply = reply
        else:
            self.failed.add(server)
            self.reply = self.reply or reply

    def end(self) -> None:
        """Give up what is still under way."""
        for task in self._running:
            task.cancel()


async def receive_message(sock: socket.socket) -> bytes:
    """Receive a message of a stream (RFC 1035, 4.2.2). Raises `EOFError` if the stream ends, `OSError`."""
    (length,) = struct.unpack("!H", await _exactly(sock, 2))
    return await _exactly(sock, length)


async def send_message(sock: socket.socket, message: bytes) -> None:
    """Send a message on a stream. Raises `OSError`."""
    await asyncio.get_running_loop().sock_sendall(sock, struct.pack("!H", len(message)) + message)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _server(upstream: Upstream, netns: int, outside: Outside) -> _Server | None:
    """Find where a server is; None if it is ourselves, who would ask on for ever, or nowhere."""
    if upstream.address == NAMESERVER and not upstream.from_host:
        return None
    where = outside.home if upstream.from_host else netns
    try:
        with outside.inside(where):  # a zone is the name of a link there
            found = socket.getaddrinfo(upstream.address, PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None
    family, _, _, _, (address, *rest) = found[0]
    return _Server(family, (str(address).partition("%")[0], *rest), where)
