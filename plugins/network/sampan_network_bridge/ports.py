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
from sampan_network_bridge.bindings import LOOPBACK6, Binding, split

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SOCKETS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, 132)}

Port = tuple[int, str, int]
"""Family, protocol, number."""


class Ports:
    """The ports that are published. Safe to share between threads."""

    def __init__(self, elements: Iterable[Binding] = (), *, proxy: bool = False) -> None:
        """Start with these elements of the table. `proxy`: whether there is one, for what the kernel cannot translate."""
        self._proxy = proxy
        self._lock = threading.Lock()
        self._owners: dict[Port, dict[str, Binding]] = {}  # by host address
        self._elements: dict[str, dict[Binding, None]] = {}  # in the order of coming
        self._next = 0
        for item in elements:
            self._add(item)

    def reserve(
        self, endpoint: Endpoint, ports: Sequence[PortMapping], default_host_ip: str
    ) -> tuple[tuple[PortMapping, ...], list[Binding]]:
        """Take the ports for an endpoint, all or none; give them with host ports filled in, and the table's new
        elements.

        What the endpoint has already gives no new element. Raises `Conflict`, `InvalidArgument`, `Unsupported`,
        `Unavailable` if no free port is left.
        """
        added: list[Binding] = []
        filled: dict[PortMapping, PortMapping] = {}
        with self._lock:
            try:
                for group in _groups(ports):
                    number = self._number(endpoint, group, default_host_ip)
                    for asked in group:
                        mapping = _fill(asked, number, default_host_ip)
                        filled[asked] = mapping
                        for item in bind(endpoint, mapping, default_host_ip, proxy=self._proxy):
                            added += self._take(item)
            except BaseException:
                for item in added:
                    self._remove(item)
                raise
        return tuple(filled[mapping] for mapping in ports), added

    def restore(self, elements: Iterable[Binding]) -> None:
        """Take what an endpoint had before. Raises `Conflict` if another endpoint has it by now.

        A process of the host is no hindrance: packets are translated before they reach it.
        """
        with self._lock:
            for item in elements:
                self._check_owners(item)
                self._add(item)

    def elements(self, endpoint: Endpoint, ports: Iterable[PortMapping], default_host_ip: str) -> list[Binding]:
        """Give what stands in the table when these ports, with host ports filled in, are published."""
        return split(item for mapping in ports for item in bind(endpoint, mapping, default_host_ip, proxy=self._proxy))

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

    def _take(self, item: Binding) -> list[Binding]:
        """Check what the binding's endpoint does not have of it yet, take that, and give its elements."""
        there = self._elements.get(item.target, {})
        missing = [element for element in split([item]) if element not in there]
        if missing:
            self._check(item)
        for element in missing:
            self._add(element)
        return missing

    def _number(self, endpoint: Endpoint, group: Sequence[PortMapping], default: str) -> int:
        """Give the host port of a group: the one asked for, or the first that is free for all of it."""
        asked = group[0]
        if asked.host_port and not asked.host_port_end:
            return asked.host_port
        if asked.host_port:
            numbers: Iterable[int] = range(asked.host_port, asked.host_port_end + 1)
        else:
            low, high = (int(word) for word in _RANGE.read_text().split())
            span = high - low + 2 - asked.count
            start = self._next
            numbers = (low + (start + step) % span for step in range(span))
        for number in numbers:
            try:
                for mapping in group:
                    for item in bind(endpoint, _fill(mapping, number, default), default, proxy=self._proxy):
                        self._check(item)
            except Conflict:
                continue
            if not asked.host_port:
                self._next = number - low + asked.count
            return number
        if asked.host_port:
            where = _place(asked.host_ip or default or "0.0.0.0", asked.host_port)
            raise Conflict(f"Bind for {where}-{asked.host_port_end} failed: all ports are already allocated")
        raise Unavailable(
            f"publish port {asked.container_port}/{asked.protocol}: no free port from {low} to {high}",
            remedy="name a host port, or widen net.ipv4.ip_local_port_range",
        )

    def _check(self, item: Binding) -> None:
        self._check_owners(item)
        where = _anywhere(item)
        for number in range(item.host_port, item.host_port + item.count):
            _try_bind(item.family, item.protocol, where, number)

    def _check_owners(self, item: Binding) -> None:
        own = set(split([item]))
        for number in range(item.host_port, item.host_port + item.count):
            for host_ip, owner in self._owners.get((item.family, item.protocol, number), {}).items():
                if owner not in own and (not item.host_ip or host_ip in ("", item.host_ip)):
                    raise Conflict(f"Bind for {_place(_anywhere(item), number)} failed: port is already allocated")

    def _add(self, item: Binding) -> None:
        for number in range(item.host_port, item.host_port + item.count):
            self._owners.setdefault((item.family, item.protocol, number), {})[item.host_ip] = item
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


def _groups(ports: Sequence[PortMapping]) -> list[list[PortMapping]]:
    """Put together mappings that differ in the host's address only: those get the same port, as with Docker."""
    groups: dict[PortMapping, list[PortMapping]] = {}
    for mapping in ports:
        groups.setdefault(replace(mapping, host_ip=""), []).append(mapping)
    return list(groups.values())


def _fill(mapping: PortMapping, number: int, default_host_ip: str) -> PortMapping:
    return replace(mapping, host_port=number, host_port_end=0, host_ip=mapping.host_ip or default_host_ip)


def bind(endpoint: Endpoint, mapping: PortMapping, default_host_ip: str, *, proxy: bool) -> list[Binding]:
    """Give a mapping by the host's family, `proxy` if there is one. Raises `InvalidArgument` and `Unsupported` for what
    cannot be.
    """
    last = max(mapping.host_port, mapping.container_port) + mapping.count - 1
    if mapping.protocol not in _SOCKETS:
        raise InvalidArgument(f"publish a port: no protocol {mapping.protocol!r}", remedy="tcp, udp or sctp")
    if mapping.count < 1 or min(mapping.host_port, mapping.container_port) < 1 or last > 65535:
        raise InvalidArgument(
            f"publish a port: {mapping.host_port}:{mapping.container_port}/{mapping.protocol} is out of range"
        )
    host_ip = mapping.host_ip or default_host_ip
    targets = _targets(endpoint, proxy=proxy and mapping.protocol != "sctp")
    families = list(targets)
    if host_ip:
        try:
            address = ipaddress.ip_address(host_ip)
        except ValueError as error:
            raise InvalidArgument(f"publish port {mapping.host_port}: {host_ip!r} is no address") from error
        if address.version not in targets or (str(address) == LOOPBACK6 and not proxy):
            raise Unsupported(
                f"publish port {mapping.host_port}/{mapping.protocol} on {host_ip}: the container has no"
                f" IPv{address.version} address that such packets could be translated to",
                remedy=f"join a network with an IPv{address.version} subnet, or publish on an address of another family",
            )
        families, host_ip = [address.version], "" if address.is_unspecified else str(address)
    return [
        Binding(
            family, mapping.protocol, host_ip, mapping.host_port, targets[family], mapping.container_port, mapping.count
        )
        for family in families
    ]


def _targets(endpoint: Endpoint, *, proxy: bool) -> dict[int, str]:
    """Give where packets to the host's addresses of each family go: by the proxy, IPv6 reaches an IPv4 address too."""
    own = {4: endpoint.ipv4, 6: endpoint.ipv6 or (endpoint.ipv4 if proxy else None)}
    return {family: address.partition("/")[0] for family, address in own.items() if address}


def _anywhere(item: Binding) -> str:
    return item.host_ip or ("0.0.0.0" if item.family == 4 else "::")


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
