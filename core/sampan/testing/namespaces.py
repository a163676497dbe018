"""Network namespaces for suites: each with a thread that lives in it, and sockets that talk for it.

A driver is called in the thread of the namespace that stands for the host, as the daemon calls it in a worker
thread; the machine's own links, routes and rules are never touched.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sampan.linux.namespaces import CLONE_NEWNET, unshare
from sampan.linux.netlink import Netlink, add_address, add_veth, link_index, set_link

__all__ = ["Namespace", "join", "listen", "reaches", "unreachable"]

T = TypeVar("T")

PATIENCE, SILENCE = 5.0, 0.4
"""Seconds to wait for an answer that must come, and without one that must not: over a veth it takes a
millisecond.
"""


class Namespace:
    """A network namespace with its loopback down, until `close`."""

    def __init__(self) -> None:
        """Make it, and the thread in it."""
        self._thread = ThreadPoolExecutor(1, initializer=unshare, initargs=(CLONE_NEWNET,))
        self.fd: int = self.run(os.open, "/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run `fn` in the namespace; give its result or raise its error."""
        return self._thread.submit(fn, *args, **kwargs).result()

    def links(self) -> set[str]:
        """Give the names of its links."""
        with self.run(Netlink) as kernel:
            return {link.name for link in kernel.links()}

    def close(self) -> None:
        """Let go; the kernel takes the namespace and its links apart when nothing holds it any more."""
        self._thread.shutdown()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def join(near: Namespace, far: Namespace, names: tuple[str, str], addresses: Sequence[tuple[str, str]]) -> None:
    """Join two namespaces by a veth pair of these names, up, with pairs of addresses; loopback comes up in both."""

    def make() -> None:
        with Netlink() as kernel:
            kernel.run(set_link("lo", up=True), add_veth(names[0], peer=names[1], netns=far.fd))

    def configure(side: int) -> None:
        with Netlink() as kernel:
            index = link_index(names[side])
            kernel.run(set_link("lo", up=True), set_link(index, up=True))
            kernel.run(*(add_address(index, pair[side]) for pair in addresses))

    near.run(make)
    near.run(configure, 0)
    far.run(configure, 1)


def listen(where: Namespace, port: int, *, protocol: str = "tcp", family: int = 4) -> socket.socket:
    """Give a socket that listens on every address in `where`."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

    def make() -> socket.socket:
        server = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        server.settimeout(PATIENCE)
        if protocol == "tcp":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("" if family == 4 else "::", port))
        if protocol == "tcp":
            server.listen()
        return server

    return where.run(make)


def reaches(client: Namespace, address: str, port: int, server: socket.socket, *, patience: float = PATIENCE) -> str:
    """Send a line both ways over TCP or UDP, as `server` is; give the client's address as the server sees it.

    Gives "" if nothing arrives. Where that is what must be, `unreachable` waits less.
    """
    server.settimeout(patience)
    talk = _talk if server.type == socket.SOCK_STREAM else _exchange
    try:
        return talk(client, (address, port), server, patience)
    except OSError:
        return ""


def unreachable(client: Namespace, address: str, port: int, server: socket.socket) -> bool:
    """Say whether nothing arrives."""
    return reaches(client, address, port, server, patience=SILENCE) == ""


def _talk(client: Namespace, to: tuple[str, int], server: socket.socket, patience: float) -> str:
    with client.run(socket.create_connection, to, patience) as out:
        into, peer = server.accept()
        with into:
            into.settimeout(patience)
            out.sendall(b"ping")
            assert into.recv(4) == b"ping"
            into.sendall(b"pong")
            assert out.recv(4) == b"pong"
        return str(peer[0])


def _exchange(client: Namespace, to: tuple[str, int], server: socket.socket, patience: float) -> str:
    with client.run(socket.socket, server.family, socket.SOCK_DGRAM) as out:
        out.settimeout(patience)
        out.connect(to)
        out.send(b"ping")
        data, peer = server.recvfrom(16)
        assert data == b"ping"
        server.sendto(b"pong", peer)
        assert out.recv(16) == b"pong"
        return str(peer[0])
