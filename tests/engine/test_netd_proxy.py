"""The proxy of sampan-netd, in a network namespace of its own: what it passes on, and what it does when a side breaks."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from sampan.linux.netlink import Netlink, set_link
from sampan.netd import proxy as module
from sampan.netd.proxy import PortProxy
from sampan.testing.namespaces import Namespace
from sampan_network_bridge.bindings import Binding
from sampan_network_bridge.firewall import Firewall

PROXY, HERE = 47001, "127.0.0.1"
ECHO, MUTE = 9007, 9009
"""Published as 8000 and 8002 are a server that gives back what it gets, and a port where nobody listens."""
PASSAGES = {protocol: [[protocol, "", 8000, 1, HERE, ECHO], [protocol, "::1", 8002, 1, HERE, MUTE]] for protocol in ("tcp", "udp")}

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """Connections to published ports, dropped at the end."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, port: int = 8000) -> Connection:
        reader, writer = await asyncio.open_connection("::1", port)
        self._writers.append(writer)
        return reader, writer

    async def refused(self, port: int = 8000) -> bool:
        """Say whether a connection is broken at once, before or after it is taken."""
        try:
            return await is_broken(await self.connect(port))
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # transports close in the loop's next round


@pytest.fixture
def host() -> Iterator[Namespace]:
    made = Namespace()
    try:
        made.run(_prepare)
        yield made
    finally:
        made.close()


def _prepare() -> None:
    with Netlink() as kernel:
        kernel.run(set_link("lo", up=True))
    firewall = Firewall("0")
    firewall.make(PROXY)
    both = [
        item
        for protocol in ("tcp", "udp")
        for item in (Binding(6, protocol, "", 8000, HERE, ECHO), Binding(6, protocol, "::1", 8002, HERE, MUTE))
    ]
    firewall.publish(both)
    firewall.close()


def run(host: Namespace, scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await scenario()

    host.run(asyncio.run, limited())


@asynccontextmanager
async def serving(most: int | None = None) -> AsyncIterator[tuple[PortProxy, Clients]]:
    """The proxy with one endpoint, and the server behind it."""
    made = PortProxy(most)
    fds = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET6, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("::", PROXY))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            fds.append(sock.detach())
    assert not made.serving
    assert made.operations()["proxy"]({"endpoints": {"one": [*PASSAGES["tcp"], *PASSAGES["udp"]]}, "exactly": True}, fds)
    assert fds == [], "taken"
    async with await asyncio.start_server(_echo, HERE, ECHO):
        clients = Clients()
        try:
            yield made, clients
        finally:
            made.close()
            await clients.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            if data == b"break":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")
        await writer.drain()
        writer.close()
    except OSError:
        pass


async def says(connection: Connection, data: bytes) -> bytes:
    reader, writer = connection
    writer.write(data)
    return await reader.read(100)


async def is_broken(connection: Connection) -> bool:
    """Say whether it ends by a reset, and not in order."""
    try:
        await connection[0].read(100)
    except ConnectionResetError:
        return True
    return False


def test_much_goes_through_both_ways_and_each_way_ends_by_itself(host: Namespace) -> None:
    async def scenario() -> None:
        async with serving() as (_, clients):
            reader, writer = await clients.connect()
            sent = os.urandom(8 << 20)
            got = asyncio.create_task(reader.read(-1))
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
            assert await got == sent + b"the end"
            writer.close()

    run(host, scenario)


def test_a_side_that_breaks_breaks_the_other(host: Namespace) -> None:
    async def scenario() -> None:
        async with serving() as (proxy, clients):
            connection = await clients.connect()
            assert await says(connection, b"hello") == b"hello"
            connection[1].write(b"break")
            assert await is_broken(connection)
            assert await clients.refused(8002), "nobody listens there"
            assert proxy._connections == 0

    run(host, scenario)


def test_connections_end_with_what_was_published(host: Namespace) -> None:
    async def scenario() -> None:
        async with serving() as (proxy, clients):
            one = await clients.connect()
            assert await says(one, b"hello") == b"hello"
            proxy.operations()["publish"]({"endpoint": "two", "passages": []}, [])
            proxy.operations()["withdraw"]({"endpoint": "one"}, [])
            assert await is_broken(one)
            assert await clients.refused()
            assert proxy.serving
            proxy.operations()["proxy"]({"endpoints": {}, "exactly": False}, [])
            assert proxy.serving
            proxy.operations()["proxy"]({"endpoints": {}, "exactly": True}, [])
            assert not proxy.serving

    run(host, scenario)


def test_one_endpoint_leaves_room_for_others(host: Namespace) -> None:
    async def scenario() -> None:
        async with serving(most=8) as (proxy, clients):
            held = [await clients.connect() for _ in range(4)]
            for connection in held:
                assert await says(connection, b"hello") == b"hello"
            assert await clients.refused()
            held[0][1].transport.abort()
            while proxy._connections == 4:
                await asyncio.sleep(0.01)
            assert await says(await clients.connect(), b"again") == b"again"

    run(host, scenario)


def test_a_connection_without_a_descriptor_is_broken_and_counts_no_more(host: Namespace) -> None:
    async def scenario() -> None:
        async with serving() as (proxy, clients):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as client:
                client.connect(("::1", 8000))  # the kernel's answer: the proxy has not had its turn
                client.setblocking(False)
                os.close(free := os.dup(client.fileno()))
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # one is left, for the client's side
                try:
                    with pytest.raises(ConnectionResetError):
                        await asyncio.get_running_loop().sock_recv(client, 100)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert proxy._connections == 0
            assert await says(await clients.connect(), b"hello") == b"hello"

    run(host, scenario)


def test_udp_clients_are_told_apart_and_the_silent_make_room(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 3)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        clients = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(5)]
        for sock in (server, *clients):
            sock.setblocking(False)
        server.bind((HERE, ECHO))
        async with serving() as (proxy, _):
            peers = []
            for number, client in enumerate(clients):
                await loop.sock_sendto(client, b"%d" % number, ("::1", 8000, 0, 0))
                data, peer = await loop.sock_recvfrom(server, 100)
                assert data == b"%d" % number
                peers.append(peer)
                await loop.sock_sendto(server, data * 2, peer)
                assert await loop.sock_recvfrom(client, 100) == (data * 2, ("::1", 8000, 0, 0))
            assert len(set(peers)) == 5
            assert len(proxy._clients) == 3
            await loop.sock_sendto(clients[4], b"once more", ("::1", 8000, 0, 0))
            assert await loop.sock_recvfrom(server, 100) == (b"once more", peers[4]), "a known client keeps its port"
            proxy.operations()["withdraw"]({"endpoint": "one"}, [])
            assert proxy._clients == {}
        for sock in (server, *clients):
            sock.close()

    run(host, scenario)


def test_udp_clients_of_all_endpoints_are_bounded(host: Namespace) -> None:
    """The endpoint with the most of them makes room."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        clients = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(6)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for sock in (server, other, *clients):
                sock.setblocking(False)
            server.bind((HERE, ECHO))
            other.bind((HERE, MUTE))
            async with serving(most=4) as (proxy, _):
                two = [["udp", "::1", 8002, 1, HERE, MUTE]]
                proxy.operations()["publish"]({"endpoint": "one", "passages": PASSAGES["udp"][:1]}, [])
                proxy.operations()["publish"]({"endpoint": "two", "passages": two}, [])
                for client in clients[:5]:
                    await loop.sock_sendto(client, b"hello", ("::1", 8000, 0, 0))
                    await loop.sock_recvfrom(server, 100)
                await loop.sock_sendto(clients[5], b"other", ("::1", 8002, 0, 0))
                assert (await loop.sock_recvfrom(other, 100))[0] == b"other"
                assert [len(proxy._endpoints[name].clients) for name in ("one", "two")] == [3, 1]
        for client in clients:
            client.close()

    run(host, scenario)
