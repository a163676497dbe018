"""The engine's proxy: published ports over IPv6 where the kernel cannot translate ([::1], and IPv6 to IPv4).

The drivers' rules send such packets to one port, the same for as long as anything is published; sampan-netd listens there.
The listening sockets are made here and held by both processes: while sampan-netd starts, connections wait in them.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from sampan.engine.netd import Ask, Netd
from sampan.engine.records import EndpointRecord
from sampan.linux.files import write_atomic

log = logging.getLogger(__name__)

ATTEMPTS = 32
"""Ports tried: one must be free for TCP and UDP."""

Passage = tuple[str, str, int, int, str, int]
"""Protocol, host address ("": every one), host port, count, container's address and port: `sampan.netd.proxy.Passage`."""


class Proxy:
    """Tells `sampan-netd` which endpoint's ports it passes on."""

    def __init__(self, netd: Netd, state: Path) -> None:
        """Nothing listens yet. `state`: the engine's state directory."""
        self.port = 0
        """Where it listens on every IPv6 address, TCP and UDP; 0 where the host has no IPv6."""
        self._netd = netd
        self._file = state / "proxy-port"
        self._sockets: tuple[socket.socket, ...] = ()
        self._endpoints: dict[str, list[Passage]] = {}
        self._settled = False
        self._netd_listens = False
        netd.add(self)

    async def open(self) -> None:
        """Take the port of the daemon before, or a new one; without IPv6 there is none, and that is told."""
        if not Path("/proc/net/if_inet6").exists():
            log.info("this host has no IPv6: ports are published over IPv4 only")
            return
        before = self._port_before()
        if before:
            with contextlib.suppress(OSError):
                self._sockets = _listen(before)
            if self._sockets or (await self._netd.find() and self._netd_listens):
                self.port = before
                return
        try:
            self._sockets = _listen_somewhere()
        except OSError as error:
            log.warning("ports are published over IPv4 only: listen for the proxy: %s", error.strerror)
            return
        self.port = self._sockets[0].getsockname()[1]
        write_atomic(self._file, b"%d" % self.port, durable=False)

    def _port_before(self) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self._file.read_text())
        return 0

    async def settle(self, endpoints: Iterable[EndpointRecord]) -> None:
        """Pass on to exactly these from now on: what runs after the daemon's start."""
        self._endpoints = {endpoint.id: made for endpoint in endpoints if (made := passages(endpoint))}
        self._settled = True
        if await self._netd.find():
            self._netd.tell("proxy", endpoints=self._endpoints, exactly=True)
        elif self._endpoints:
            self._netd.start()

    async def publish(self, endpoint: EndpointRecord) -> None:
        """Pass on to an endpoint's published ports from now on. Does not wait for sampan-netd to start."""
        made = passages(endpoint)
        if not made or not self.port:
            return
        self._endpoints[endpoint.id] = made
        self._netd.tell("publish", endpoint=endpoint.id, passages=made)
        self._netd.start()

    async def withdraw(self, endpoint_id: str) -> None:
        """Pass on nothing more to an endpoint. Idempotent."""
        if self._endpoints.pop(endpoint_id, None) is not None:
            self._netd.tell("withdraw", endpoint=endpoint_id)

    def close(self) -> None:
        """Let go of the sockets; sampan-netd goes on."""
        for sock in self._sockets:
            sock.close()
        self._sockets = ()

    # ------------------------------------------------------------------ what a new process is told

    @property
    def in_use(self) -> bool:
        """Whether anything is passed on."""
        return bool(self._endpoints)

    async def restore(self, ask: Ask) -> None:
        """Tell all. Before `settle` nothing is taken back of what the process knows already."""
        await self._tell_all(ask)
        if self.port and not self._netd_listens and not self._sockets:  # an earlier daemon's went with the process that had them
            with contextlib.suppress(OSError):
                self._sockets = _listen(self.port)
                await self._tell_all(ask)
        if self._endpoints and not self._netd_listens:
            log.error("published ports are not reached over IPv6: port %d of the proxy is taken; restart the daemon", self.port)


    async def _tell_all(self, ask: Ask) -> None:
        fds = [sock.fileno() for sock in self._sockets]
        self._netd_listens = await ask("proxy", fds, endpoints=self._endpoints, exactly=self._settled)


def passages(endpoint: EndpointRecord) -> list[Passage]:
    """Give what of an endpoint's published ports may have to be passed on."""
    target = (endpoint.ipv6 or endpoint.ipv4 or "").partition("/")[0]
    found: list[Passage] = []
    for protocol, container_port, host_port, host_ip, count in endpoint.ports:
        if not host_port:
            continue  # reached at the container's own address alone
        address = ipaddress.ip_address(host_ip or "::")
        if target and protocol != "sctp" and address.version == 6:
            host_ip = "" if address.is_unspecified else str(address)
            found.append((protocol, host_ip, host_port, count, target, container_port))
    return found


def _listen_somewhere() -> tuple[socket.socket, ...]:
    for _ in range(ATTEMPTS):
        try:
            return _listen(0)
        except OSError as error:  # the port that was free for TCP is taken for UDP
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {ATTEMPTS} ports tried for TCP and UDP")


def _listen(port: int) -> tuple[socket.socket, ...]:
    """Bind a port for TCP and UDP on every IPv6 address. Raises `OSError`."""
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = socket.socket(socket.AF_INET6, kind)
            made.append(sock)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::", port))
            port = sock.getsockname()[1]
        made[0].listen(socket.SOMAXCONN)
    except OSError:
        for sock in made:
            sock.close()
        raise
    return tuple(made)
