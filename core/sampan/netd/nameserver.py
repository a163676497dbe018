"""The name server of one sandbox: UDP and TCP, answers from the table of names, or from the world."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Coroutine
from typing import Any

from sampan.netd import dns
from sampan.netd.dns import Query
from sampan.netd.forwarding import Failed, Forwarder, receive_message, send_message
from sampan.netd.names import Member, Names, Sandbox
from sampan.netd.outside import Outside

BURST = 32
"""Queries of one sandbox that are answered before it is another's turn."""

FORWARDED = 128
"""Queries of one sandbox that may wait for the world; more are refused at once."""

CONNECTIONS = 32
"""TCP connections of one sandbox; more have to wait."""

PAUSE = 1.0
"""Seconds until a sandbox that got no place for a connection looks again."""

IDLE = 10.0
"""Seconds that a TCP client may take for a message, either way."""

REMEMBERED = 512
"""Answers of one sandbox that are kept packed, to queries of a usual length: they depend on its bytes and the table's version."""

LONGEST_QUERY = 4096
"""By UDP. A query holds one name of at most 255 bytes, and some options."""


class Room:
    """What is left of the places for TCP connections, which all sandboxes share: each takes a descriptor."""

    def __init__(self, places: int) -> None:
        """Have so many places free."""
        self.places = places


class NameServer:
    """Serves one sandbox until `close`."""

    def __init__(self, sandbox: Sandbox, names: Names, descriptors: list[int], outside: Outside, room: Room) -> None:
        """`descriptors`: the sandbox's network namespace, its UDP and its listening TCP socket; ours from now on."""
        self.sandbox = sandbox
        self._names = names
        self._outside = outside
        self._room = room
        self._netns, udp, tcp = descriptors
        self._loop = asyncio.get_running_loop()
        self._udp = socket.socket(fileno=udp)
        self._tcp = socket.socket(fileno=tcp)
        self._forwarder = Forwarder(sandbox.servers, self._netns, outside)
        self._forwarding: set[asyncio.Task[None]] = set()
        self._conversations: set[asyncio.Task[None]] = set()
        self._packed: dict[bytes, _Packed] = {}
        self._packed_version = names.version
        self._turn = 0
        for sock in (self._udp, self._tcp):
            sock.setblocking(False)
        self._loop.add_reader(self._udp, self._receive)
        self._listen()

    @property
    def inode(self) -> int:
        """The inode of the sandbox's network namespace."""
        return os.fstat(self._netns).st_ino

    @property
    def sockets(self) -> tuple[int, int]:
        """Its UDP and its TCP socket, which stay its own."""
        return self._udp.fileno(), self._tcp.fileno()

    def change(self, sandbox: Sandbox) -> None:
        """Answer by these rules from now on."""
        self.sandbox = sandbox
        self._forwarder = Forwarder(sandbox.servers, self._netns, self._outside)
        self._packed.clear()

    def close(self) -> None:
        """Answer nothing more, and let go of the sandbox."""
        self._loop.remove_reader(self._udp)
        self._loop.remove_reader(self._tcp)
        for task in (*self._forwarding, *self._conversations):
            task.cancel()
        self._udp.close()
        self._tcp.close()
        os.close(self._netns)

    # ------------------------------------------------------------------ UDP

    def _receive(self) -> None:
        if self._packed_version != self._names.version:
            self._packed.clear()
            self._packed_version = self._names.version
        receive, send, packed = self._udp.recvfrom, self._udp.sendto, self._packed
        try:
            for _ in range(BURST):
                data, client = receive(LONGEST_QUERY)
                known = packed.get(data[2:])
                reply = data[:2] + known.next() if known is not None else self._answer_datagram(data, client)
                if reply:
                    send(reply, client)
        except BlockingIOError:
            return
        except OSError:  # an answer that cannot be sent is lost, as packets may be
            return

    def _answer_datagram(self, data: bytes, client: tuple[str, int]) -> bytes:
        """Give the answer, or b"" if it comes later or never."""
        try:
            query = dns.parse(data)
        except dns.NotAnswered:
            return b""
        except dns.Refused as refused:
            return dns.refusal(data, refused.code)
        variants = self._own_answers(query, query.room)
        if variants:
            self._turn += 1
            known = _Packed([variant[2:] for variant in variants], self._turn)
            if len(data) <= dns.SMALLEST:
                if len(self._packed) >= REMEMBERED:
                    self._packed.clear()
                self._packed[data[2:]] = known
            return data[:2] + known.next()
        if not self._asks_world(query):
            return dns.answer(query, self._unknown(query))
        if len(self._forwarding) >= FORWARDED:
            return dns.answer(query, dns.SERVFAIL)
        self._begin(self._forwarding, self._forward_datagram(query, data, client))
        return b""

    async def _forward_datagram(self, query: Query, data: bytes, client: tuple[str, int]) -> None:
        reply = await self._from_world(query, data, by_tcp=False)
        if len(reply) > query.room:
            reply = dns.truncated(reply)
        try:
            self._udp.sendto(reply, client)
        except OSError:
            return

    # ------------------------------------------------------------------ TCP

    def _listen(self) -> None:
        if self._tcp.fileno() >= 0 and len(self._conversations) < CONNECTIONS:
            self._loop.add_reader(self._tcp, self._accept)

    def _accept(self) -> None:
        if len(self._conversations) >= CONNECTIONS:
            self._loop.remove_reader(self._tcp)  # until one ends
            return
        try:
            sock = self._take()
        except BlockingIOError:
            return
        except OSError:  # no place or no descriptor: the connection waits, and others are not kept waiting by looking at it
            self._loop.remove_reader(self._tcp)
            self._loop.call_later(PAUSE, self._listen)
            return
        self._begin(self._conversations, self._converse(sock)).add_done_callback(self._leave)

    def _take(self) -> socket.socket:
        """Accept a connection, which has a place then; every sandbox may have one. Raises `OSError`."""
        if self._room.places <= 0 and self._conversations:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        sock, _ = self._tcp.accept()
        sock.setblocking(False)
        self._room.places -= 1
        return sock

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._room.places += 1
        self._listen()

    async def _converse(self, sock: socket.socket) -> None:
        """Answer one after the other until the client ends it, or takes too long (RFC 7766)."""
        with sock:
            try:
                while True:
                    async with asyncio.timeout(IDLE):
                        data = await receive_message(sock)
                    reply = await self._answer_message(data)
                    if not reply:
                        return
                    async with asyncio.timeout(IDLE):
                        await send_message(sock, reply)
            except (OSError, EOFError, TimeoutError):
                return

    async def _answer_message(self, data: bytes) -> bytes:
        try:
            query = dns.parse(data)
        except dns.NotAnswered:
            return b""
        except dns.Refused as refused:
            return dns.refusal(data, refused.code)
        variants = self._own_answers(query, dns.LARGEST)
        if variants:
            self._turn += 1
            return variants[self._turn % len(variants)]
        if not self._asks_world(query):
            return dns.answer(query, self._unknown(query))
        return await self._from_world(query, data, by_tcp=True)

    # ------------------------------------------------------------------ what is answered

    def _own_answers(self, query: Query, room: int) -> list[bytes]:
        """Give the answers from the table, one for each turn of a name's members; none for a name that no network knows."""
        if query.cls != dns.INTERNET:
            return []
        if query.type == dns.PTR and (address := dns.address_of(query.name)):
            name = dns.pack_name(self._names.name_of(self.sandbox, address))
            return [dns.answer(query, dns.NOERROR, [dns.record(dns.PTR, name)], room=room)] if name else []
        members = self._names.find(self.sandbox, query.name)
        if not members:
            return []
        records = _records(members, query.type)
        turns = range(max(1, len(records)))
        return [dns.answer(query, dns.NOERROR, records[turn:] + records[:turn], room=room) for turn in turns]

    def _asks_world(self, query: Query) -> bool:
        sandbox = self.sandbox
        return sandbox.forwards and (b"." in query.name or not sandbox.dotted_only or query.type not in (dns.A, dns.AAAA))

    def _unknown(self, query: Query) -> int:
        """Give the code for a name that is not asked outside: SERVFAIL in an internal network, as Docker does."""
        return dns.NOERROR if self.sandbox.forwards else dns.SERVFAIL

    async def _from_world(self, query: Query, data: bytes, *, by_tcp: bool) -> bytes:
        try:
            return await self._forwarder.ask(data, by_tcp=by_tcp)
        except Failed:
            return dns.answer(query, dns.SERVFAIL)

    def _begin(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task


class _Packed:
    """An answer's variants without their ids, given in turn."""

    __slots__ = ("_turn", "_variants")

    def __init__(self, variants: list[bytes], turn: int) -> None:
        self._variants = variants
        self._turn = turn

    def next(self) -> bytes:
        self._turn += 1
        return self._variants[self._turn % len(self._variants)]


def _records(members: list[Member], kind: int) -> list[bytes]:
    """Give the addresses of members as records of a kind: A, AAAA, or ANY for both; none of another."""
    found = []
    for member in members:
        for address in member.addresses:
            family, own = (socket.AF_INET6, dns.AAAA) if ":" in address else (socket.AF_INET, dns.A)
            if kind in (own, dns.ANY):
                found.append(dns.record(own, socket.inet_pton(family, address)))
    return found
