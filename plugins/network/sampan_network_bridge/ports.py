"""Which ports of the host are taken, and by whom: the maps' contents, kept in memory to answer before
anything is done.

The table starts from what the kernel's maps hold, so it is right after a restart. A port is also taken if
some process of the host listens there, which a trial `bind(2)` tells. We hold no socket: one in the daemon
would die with it, and the port map would stay (see docs/adr/0072).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sampan.api.errors import Conflict, InvalidArgument, System, Unavailable, Unsupported
from sampan.api.network import Endpoint, PortMapping
from sampan_network_bridge.bindings import Binding, split

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SOCKETS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, 132)}

Port = tuple[int, str, int]
"""Family, protocol, number."""


class Ports:
    """The ports that are published. Safe to share between threads."""

    def __init__(self, elements: Iterable[Binding] = ()) -> None:
        """Start with these elements of the maps."""
        self._lock = threading.Lock()
        self._owners: dict[Port, dict[str, str]] = {}
        self._elements: dict[str, dict[Binding, None]] = {}  # in the order of coming
        self._next = 0
        for item in elements:
            self._add(item)

    def reserve(
        self, endpoint: Endpoint, ports: Sequence[PortMapping], default_host_ip: str
    ) -> tuple[tuple[PortMapping, ...], list[Binding]]:
        """Take the ports for an endpoint, all or none; give them with host ports filled in, and the maps' new
        elements.

        What the endpoint has already gives no new element. Raises `Conflict`, `InvalidArgument`,
        `Unsupported`, `Unavailable` if no free port is left.
        """
        resolved: list[PortMapping] = []
        added: list[Binding] = []
        with self._lock:
            try:
                for mapping in ports:
                    bindings = [] if mapping.host_port == 0 else bind(endpoint, mapping, default_host_ip)
                    if mapping.host_port == 0:
                        mapping, bindings = self._choose(endpoint, mapping, default_host_ip)
                    for item in split(bindings):
                        if item not in self._elements.get(item.target, ()):
                            self._check(item)
                            self._add(item)
                            added.append(item)
                    resolved.append(mapping)
            except BaseException:
                for item in added:
                    self._remove(item)
                raise
        return tuple(resolved), added

    def of(self, *targets: str) -> list[Binding]:
        """Give the elements that lead to these addresses."""
        with self._lock:
            return [item for target in targets for item in self._elements.get(target, ())]

    def targets(self) -> list[str]:
        """Give every address that some port leads to."""
        with self._lock:
            return [target for target, elements in self._elements.items() if elements]

    def release(self, elements: Iterable[Binding]) -> None:
        """Give ports back. Idempotent."""
        with self._lock:
            for item in list(elements):
                self._remove(item)

    def _choose(self, endpoint: Endpoint, mapping: PortMapping, default: str) -> tuple[PortMapping, list[Binding]]:
        low, high = (int(word) for word in _RANGE.read_text().split())
        span = high - low + 2 - mapping.count
        for step in range(span):
            number = low + (self._next + step) % span
            chosen = replace(mapping, host_port=number)
            bindings = bind(endpoint, chosen, default)
            try:
                for item in bindings:
                    self._check(item)
            except Conflict:
                continue
            self._next = number - low + mapping.count
            return chosen, bindings
        raise Unavailable(
            f"publish port {mapping.container_port}/{mapping.protocol}: no free port from {low} to {high}",
            remedy="name a host port, or widen net.ipv4.ip_local_port_range",
        )

    def _check(self, item: Binding) -> None:
        where = item.host_ip or ("0.0.0.0" if item.family == 4 else "::")
        for number in range(item.host_port, item.host_port + item.count):
            taken = self._owners.get((item.family, item.protocol, number))
            if taken and (not item.host_ip or "" in taken or item.host_ip in taken):
                raise Conflict(f"Bind for {_place(where, number)} failed: port is already allocated")
            _try_bind(item.family, item.protocol, where, number)

    def _add(self, item: Binding) -> None:
        for number in range(item.host_port, item.host_port + item.count):
            self._owners.setdefault((item.family, item.protocol, number), {})[item.host_ip] = item.target
        self._elements.setdefault(item.target, {})[item] = None

    def _remove(self, item: Binding) -> None:
        elements = self._elements.get(item.target, {})
        if item not in elements:
            return
        del elements[item]
        if not elements:
            del self._elements[item.target]
        for number in range(item.host_port, item.host_port + item.count):
            owners = self._owners[item.family, item.protocol, number]
            del owners[item.host_ip]
            if not owners:
                del self._owners[item.family, item.protocol, number]


def bind(endpoint: Endpoint, mapping: PortMapping, default_host_ip: str) -> list[Binding]:
    """Give a mapping by family. Raises `InvalidArgument` and `Unsupported` for what cannot be."""
    last = max(mapping.host_port, mapping.container_port) + mapping.count - 1
    if mapping.protocol not in _SOCKETS:
        raise InvalidArgument(f"publish a port: no protocol {mapping.protocol!r}", remedy="tcp, udp or sctp")
    if mapping.count < 1 or min(mapping.host_port, mapping.container_port) < 1 or last > 65535:
        raise InvalidArgument(
            f"publish a port: {mapping.host_port}:{mapping.container_port}/{mapping.protocol} is out of range"
        )
    targets = {4: endpoint.ipv4, 6: endpoint.ipv6}
    host_ip = mapping.host_ip or default_host_ip
    families = [family for family in (4, 6) if targets[family]]
    if host_ip:
        try:
            address = ipaddress.ip_address(host_ip)
        except ValueError as error:
            raise InvalidArgument(f"publish port {mapping.host_port}: {host_ip!r} is no address") from error
        if not targets[address.version]:
            raise Unsupported(
                f"publish port {mapping.host_port} on {host_ip}: the container has no IPv{address.version} address",
                remedy="join a network with such a subnet",
            )
        families, host_ip = [address.version], "" if address.is_unspecified else str(address)
    return [
        Binding(
            family, mapping.protocol, host_ip, mapping.host_port, str(targets[family]).partition("/")[0],
            mapping.container_port, mapping.count,
        )
        for family in families
    ]  # fmt: skip


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _try_bind(family: int, protocol: str, address: str, port: int) -> None:
    """Bind and let go, in the calling thread's network namespace. As a server would: TIME_WAIT is no
    hindrance.
    """
    kind, number = _SOCKETS[protocol]
    try:
        probe = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind | socket.SOCK_CLOEXEC, number)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT):
            return  # no process of this host can have the port either
        raise
    with closing(probe):
        if family == 6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            words = f"listen {protocol}{family} {_place(address, port)}: bind: {os.strerror(error.errno or 0).lower()}"
            raise (Conflict if error.errno == errno.EADDRINUSE else System)(words) from error
