"""The proxy: published ports over IPv6 that the kernel cannot translate, [::1] and IPv6 to IPv4.

The network drivers' rules redirect such packets to one port, TCP and UDP; where each was sent to, connection tracking
tells. So there is one socket per protocol, whatever is published. The sockets come from the daemon, which keeps copies:
when this process dies, connections wait in their queue for the next.

Sources: ip6tables' `IP6T_SO_ORIGINAL_DST` (include/uapi/linux/netfilter_ipv6/ip6_tables.h), ipv6(7), RFC 3542.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.linux.conntrack import original_destination
from sampan.linux.messages import Message
from sampan.netd.service import Operation, Service

logger = logging.getLogger(__name__)

IP6T_SO_ORIGINAL_DST, IPV6_RECVPKTINFO, IPV6_PKTINFO = 80, 49, 50
_SOCKADDR = struct.Struct("=HHI16sI")
_PKTINFO = struct.Struct("=16sI")
_RESET = struct.pack("=ii", 1, 0)

BURST = 64
"""Connections or datagrams taken before others get their turn."""

BUFFER = 64 * 1024
CONNECT = 10.0
"""Seconds for a container to answer a connection."""

FORGET = 90.0
"""Seconds without a datagram after which a UDP client is forgotten, as by Docker's proxy."""

DOUBT = 25.0
"""Seconds after which it is asked anew where a client sends to: the kernel forgets after 30."""

MAX_CLIENTS = 2048
"""Most UDP clients of one endpoint; the one that was silent longest makes room."""


@dataclass(frozen=True, slots=True)
class Passage:
    """`count` ports from `host_port` of the host's address `host_ip` ("": every one) to `port` of address `target`."""

    protocol: str
    host_ip: str
    host_port: int
    count: int
    target: str
    port: int

    def leads(self, protocol: str, address: str, port: int) -> bool:
        """Say whether it takes what was sent to this address and port."""
        return (
            self.protocol == protocol
            and self.host_ip in ("", address)
            and self.host_port <= port < self.host_port + self.count
        )


@dataclass(slots=True)
class _Endpoint:
    """What is published of an endpoint, and who uses it."""

    passages: tuple[Passage, ...]
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    clients: dict[_Key, _Client] = field(default_factory=dict)  # who spoke last is last


_Key = tuple[Any, bytes]
"""A UDP client: its socket address, and the packed address of ours that it reaches."""


@dataclass(slots=True)
class _Client:
    """A UDP client, and the socket that speaks to the container for it. `source`: an `in6_pktinfo` to answer from."""

    key: _Key
    socket: socket.socket
    source: bytes
    destination: tuple[str, int]
    heard: float


class PortProxy(Service):
    """Passes on to the endpoints it is told of."""

    def __init__(self, most: int | None = None) -> None:
        """It listens when the daemon hands over the sockets. `most`: connections, and UDP clients, at one time.

        One endpoint has half of the connections at most.
        """
        self._loop = asyncio.get_running_loop()
        self._tcp: socket.socket | None = None
        self._udp: socket.socket | None = None
        self._endpoints: dict[str, _Endpoint] = {}
        self._clients: dict[_Key, str] = {}
        self._connections = 0
        # a connection has two descriptors, a client one; the last quarter is for names
        self._most = most or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._sweep: asyncio.TimerHandle | None = None

    def operations(self) -> Mapping[str, Operation]:
        """Give the requests: all that is published at once, with the sockets if there are none yet; and changes to it."""
        return {"proxy": self._proxy, "publish": self._publish, "withdraw": self._withdraw}

    @property
    def serving(self) -> bool:
        """Whether anything is published."""
        return bool(self._endpoints)

    def close(self) -> None:
        """Drop every connection."""
        for endpoint_id in tuple(self._endpoints):
            self._forget(endpoint_id)
        for sock in (self._tcp, self._udp):
            if sock is not None:
                self._loop.remove_reader(sock)
                sock.close()
        self._tcp = self._udp = None

    # ------------------------------------------------------------------ what is published

    def _proxy(self, message: Message, fds: list[int]) -> bool:
        """Take `endpoints`, id → passages, and the two sockets; forget others if it is `exactly` these. Says whether there
        are sockets.
        """
        told: dict[str, list[Any]] = message["endpoints"]
        if message["exactly"]:
            for endpoint_id in set(self._endpoints) - set(told):
                self._forget(endpoint_id)
        for endpoint_id, passages in told.items():
            self._set(endpoint_id, passages)
        if fds and self._tcp is None:
            udp, tcp = (socket.socket(fileno=fds.pop()) for _ in range(2))
            self._listen(tcp, udp)
        return self._tcp is not None

    def _publish(self, message: Message, fds: list[int]) -> None:
        self._set(message["endpoint"], message["passages"])

    def _withdraw(self, message: Message, fds: list[int]) -> None:
        self._forget(message["endpoint"])

    def _set(self, endpoint_id: str, passages: list[Any]) -> None:
        known = tuple(Passage(*item) for item in passages)
        self._endpoints.setdefault(endpoint_id, _Endpoint(known)).passages = known

    def _forget(self, endpoint_id: str) -> None:
        endpoint = self._endpoints.pop(endpoint_id, None)
        if endpoint is not None:
            for task in endpoint.connections:
                task.cancel()
            for client in tuple(endpoint.clients.values()):
                self._drop(endpoint, client)

    def _find(self, protocol: str, address: str, port: int) -> tuple[str, tuple[str, int]] | None:
        """Give the endpoint and its address and port for what was sent to the host's address and port."""
        for endpoint_id, endpoint in self._endpoints.items():
            for passage in endpoint.passages:
                if passage.leads(protocol, address, port):
                    return endpoint_id, (passage.target, passage.port + port - passage.host_port)
        return None

    def _listen(self, tcp: socket.socket, udp: socket.socket) -> None:
        for sock in (tcp, udp):
            sock.setblocking(False)
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        self._tcp, self._udp = tcp, udp
        self._loop.add_reader(tcp, self._accept, tcp)
        self._loop.add_reader(udp, self._receive, udp)

    # ------------------------------------------------------------------ TCP

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BURST):
            try:
                client, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("accept a connection to a published port: %s", error.strerror)
                    self._loop.remove_reader(listening)
                    self._loop.call_later(1, self._resume, listening)
                    return
                continue  # the client went away in the queue
            client.setblocking(False)
            self._welcome(client)

    def _resume(self, listening: socket.socket) -> None:
        if listening is self._tcp:
            self._loop.add_reader(listening, self._accept, listening)

    def _welcome(self, client: socket.socket) -> None:
        found = None
        with contextlib.suppress(OSError):
            raw = client.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, _SOCKADDR.size)
            address = socket.inet_ntop(socket.AF_INET6, raw[8:24])
            found = self._find("tcp", address, int.from_bytes(raw[2:4]))
        if found is None:
            _reset(client)
            return
        endpoint_id, target = found
        connections = self._endpoints[endpoint_id].connections
        if self._connections >= self._most or len(connections) >= self._most // 2:
            logger.warning("connection to %s refused: there are %d already", target, self._connections)
            _reset(client)
            return
        task = self._loop.create_task(self._pass(client, target))
        connections.add(task)
        task.add_done_callback(connections.discard)

    async def _pass(self, client: socket.socket, target: tuple[str, int]) -> None:
        """Pass on a connection until both sides have said all, or one breaks."""
        try:
            container = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            logger.warning("pass on to %s: %s", target, error.strerror)
            _reset(client)
            return
        self._connections += 1
        try:
            container.setblocking(False)
            for sock in (client, container):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(CONNECT):
                await self._loop.sock_connect(container, target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(client, container))
                both.create_task(self._pump(container, client))
        except* (OSError, TimeoutError):
            pass  # a connection that breaks on one side breaks on the other
        else:
            client.close()
            container.close()
        finally:
            self._connections -= 1
            _reset(client)
            _reset(container)

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        buffer = memoryview(bytearray(BUFFER))
        while count := await self._loop.sock_recv_into(source, buffer):
            await self._loop.sock_sendall(sink, buffer[:count])
        with contextlib.suppress(OSError):  # the other side may have closed altogether
            sink.shutdown(socket.SHUT_WR)

    # ------------------------------------------------------------------ UDP

    def _receive(self, sock: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data, ancillary, _, peer = sock.recvmsg(BUFFER, socket.CMSG_SPACE(_PKTINFO.size))
            except BlockingIOError:
                return
            except OSError as error:
                logger.debug("receive for a published port: %s", error)
                continue
            source = next((item for level, kind, item in ancillary if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO)), None)
            client = self._client(peer, source) if source else None
            if client is not None:
                try:
                    client.socket.send(data)
                except OSError as error:  # as on any way, a datagram may be lost: the container does not listen, or is slow
                    logger.debug("pass a datagram to %s: %s", client.destination, error)

    def _client(self, peer: Any, source: bytes) -> _Client | None:
        """Give the client, made now if it is new and something is published where it sends to."""
        now = self._loop.time()
        key = (peer, source[:16])
        endpoint = self._endpoints.get(self._clients.get(key, ""))
        client = endpoint.clients.pop(key) if endpoint is not None else None
        if endpoint is not None and client is not None:
            endpoint.clients[key] = client
            if now - client.heard < DOUBT:
                client.heard = now
                return client
        here = (socket.inet_ntop(socket.AF_INET6, source[:16]), self._port)
        try:
            sent_to = original_destination(socket.IPPROTO_UDP, here, peer[:2])
        except OSError as error:
            logger.warning("ask where a datagram was sent to: %s", error)
            return None
        found = self._find("udp", *sent_to) if sent_to else None
        if endpoint is not None and client is not None:
            if found is not None and found[1] == client.destination:
                client.heard = now
                return client
            self._drop(endpoint, client)
        return self._meet(key, source, *found, now) if found else None

    def _meet(self, key: _Key, source: bytes, endpoint_id: str, destination: tuple[str, int], now: float) -> _Client | None:
        endpoint = self._endpoints[endpoint_id]
        if len(endpoint.clients) >= MAX_CLIENTS:
            self._drop(endpoint, next(iter(endpoint.clients.values())))
        elif len(self._clients) >= self._most:
            crowded = max(self._endpoints.values(), key=lambda item: len(item.clients))
            self._drop(crowded, next(iter(crowded.clients.values())))
        try:
            speaks = socket.socket(socket.AF_INET6 if ":" in destination[0] else socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            logger.warning("pass on to %s: %s", destination, error)
            return None
        speaks.setblocking(False)
        try:
            speaks.connect(destination)
        except OSError as error:
            logger.debug("pass on to %s: %s", destination, error)
            speaks.close()
            return None
        client = _Client(key, speaks, _answering(source), destination, now)
        endpoint.clients[key] = client
        self._clients[key] = endpoint_id
        self._loop.add_reader(speaks, self._answer, client)
        if self._sweep is None:
            self._sweep = self._loop.call_later(FORGET / 3, self._forget_silent)
        return client

    def _answer(self, client: _Client) -> None:
        for _ in range(BURST):
            try:
                data = client.socket.recv(BUFFER)
            except BlockingIOError:
                return
            except OSError as error:  # ICMP: nobody listens there
                logger.debug("hear from %s: %s", client.destination, error)
                return
            client.heard = self._loop.time()
            if self._udp is not None:
                with contextlib.suppress(OSError):
                    self._udp.sendmsg([data], [(socket.IPPROTO_IPV6, IPV6_PKTINFO, client.source)], 0, client.key[0])

    def _drop(self, endpoint: _Endpoint, client: _Client) -> None:
        endpoint.clients.pop(client.key, None)
        self._clients.pop(client.key, None)
        self._loop.remove_reader(client.socket)
        client.socket.close()

    def _forget_silent(self) -> None:
        since = self._loop.time() - FORGET
        for endpoint, client in tuple(self._all_clients()):
            if client.heard < since:
                self._drop(endpoint, client)
        self._sweep = self._loop.call_later(FORGET / 3, self._forget_silent) if self._clients else None

    def _all_clients(self) -> Iterator[tuple[_Endpoint, _Client]]:
        for endpoint in self._endpoints.values():
            for client in endpoint.clients.values():
                yield endpoint, client

    @property
    def _port(self) -> int:
        return int(self._udp.getsockname()[1]) if self._udp is not None else 0


def _answering(source: bytes) -> bytes:
    """Answer from the address that was reached; only a link's own address (fe80::/10) needs the link."""
    address, index = _PKTINFO.unpack(source)
    return _PKTINFO.pack(address, index if address[0] == 0xFE and address[1] & 0xC0 == 0x80 else 0)


def _reset(sock: socket.socket) -> None:
    """Close so that the other side sees a broken connection and no orderly end. Idempotent."""
    if sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()
