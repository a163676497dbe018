"""Which ports of the host are taken, and by whom: the maps' contents, kept in memory to answer before
anything is done.

The table starts from what the kernel's maps hold, so it is right after a restart. A port is also taken if
some process of the host listens there (`occupied`). We hold no socket: one in the daemon
would die with it, and the port map would stay (see docs/adr/0072).
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sampan.api.errors import Conflict, InvalidArgument, Unavailable, Unsupported
from sampan.api.network import Endpoint, PortMapping
from sampan_network_bridge.bindings import LOOPBACK6, Binding, door, split
from sampan_network_bridge.occupied import SOCKETS, Occupied, place
from sampan_network_bridge.options import GatewayMode, Options

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
        self, endpoint: Endpoint, ports: Sequence[PortMapping], given: Options
    ) -> tuple[tuple[PortMapping, ...], list[Binding]]:
        """Take the ports for an endpoint, all or none; give them with host ports filled in, and the table's new
        elements.

        What the endpoint has already gives no new element. Raises `Conflict`, `InvalidArgument`, `Unsupported`,
        `Unavailable` if no free port is left.
        """
        added: list[Binding] = []
        filled: dict[PortMapping, PortMapping] = {}
        occupied = Occupied(sum(mapping.count for mapping in ports))
        with self._lock:
            try:
                for group in _groups(ports):
                    number = self._number(endpoint, group, given, occupied)
                    for asked in group:
                        mapping = _fill(asked, number, given)
                        filled[asked] = mapping
                        for item in bind(endpoint, mapping, given, proxy=self._proxy):
                            added += self._take(item, occupied)
            except BaseException:
                for item in added:
                    self._remove(item)
                raise
        return tuple(filled[mapping] for mapping in ports), added

    def restore(self, elements: Iterable[Binding]) -> None:
        """Take what an endpoint had before, all or nothing. Raises `Conflict` if another endpoint has it by now.

        A process of the host is no hindrance: packets are translated before they reach it.
        """
        with self._lock:
            wanted = list(elements)
            for item in wanted:
                if not item.is_door:
                    self._check_owners(item)
            for item in wanted:
                self._add(item)

    def elements(self, endpoint: Endpoint, ports: Iterable[PortMapping], given: Options) -> list[Binding]:
        """Give what stands in the table when these ports, with host ports filled in, are published."""
        return split(item for mapping in ports for item in bind(endpoint, mapping, given, proxy=self._proxy))

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

    def _take(self, item: Binding, occupied: Occupied) -> list[Binding]:
        """Check what the binding's endpoint does not have of it yet, take that, and give its elements."""
        there = self._elements.get(item.target, {})
        missing = [element for element in split([item]) if element not in there]
        if missing:
            self._check(item, occupied)
        for element in missing:
            self._add(element)
        return missing

    def _number(self, endpoint: Endpoint, group: Sequence[PortMapping], given: Options, occupied: Occupied) -> int:
        """Give the host port of a group: the one asked for, the first that is free for all of it, or 0 if it needs none."""
        asked = group[0]
        if not any(_translated(endpoint, mapping, given, proxy=self._proxy) for mapping in group):
            return 0
        if asked.host_port and not asked.host_port_end:
            return asked.host_port
        if asked.host_port:
            numbers: Iterable[int] = range(asked.host_port, asked.host_port_end + 1)
        else:
            low, high = occupied.ephemeral
            span = high - low + 2 - asked.count
            start = self._next
            numbers = (low + (start + step) % span for step in range(span))
        for number in numbers:
            try:
                for mapping in group:
                    for item in bind(endpoint, _fill(mapping, number, given), given, proxy=self._proxy):
                        self._check(item, occupied)
            except Conflict:
                continue
            if not asked.host_port:
                self._next = number - low + asked.count
            return number
        if asked.host_port:
            where = place(asked.host_ip or given.host_binding or "0.0.0.0", asked.host_port)
            raise Conflict(f"Bind for {where}-{asked.host_port_end} failed: all ports are already allocated")
        raise Unavailable(
            f"publish port {asked.container_port}/{asked.protocol}: no free port from {low} to {high}",
            remedy="name a host port, or widen net.ipv4.ip_local_port_range",
        )

    def _check(self, item: Binding, occupied: Occupied) -> None:
        if item.is_door:
            return
        self._check_owners(item)
        ports = range(item.host_port, item.host_port + item.count)
        occupied.check(item.family, item.protocol, _anywhere(item), ports)

    def _check_owners(self, item: Binding) -> None:
        own = set(split([item]))
        for number in range(item.host_port, item.host_port + item.count):
            for host_ip, owner in self._owners.get((item.family, item.protocol, number), {}).items():
                if owner not in own and (not item.host_ip or host_ip in ("", item.host_ip)):
                    raise Conflict(f"Bind for {place(_anywhere(item), number)} failed: port is already allocated")

    def _add(self, item: Binding) -> None:
        for port in _ports_of_the_host(item):
            self._owners.setdefault(port, {})[item.host_ip] = item
        self._elements.setdefault(item.target, {})[item] = None

    def _remove(self, item: Binding) -> None:
        elements = self._elements.get(item.target, {})
        if item not in elements:
            return
        del elements[item]
        if not elements:
            del self._elements[item.target]
        for port in _ports_of_the_host(item):
            owners = self._owners[port]
            del owners[item.host_ip]
            if not owners:
                del self._owners[port]


def _ports_of_the_host(item: Binding) -> Iterable[Port]:
    """Give the host's ports that a binding takes: a door takes none."""
    numbers = () if item.is_door else range(item.host_port, item.host_port + item.count)
    return ((item.family, item.protocol, number) for number in numbers)


def _groups(ports: Sequence[PortMapping]) -> list[list[PortMapping]]:
    """Put together mappings that differ in the host's address only: those get the same port, as with Docker."""
    groups: dict[PortMapping, list[PortMapping]] = {}
    for mapping in ports:
        groups.setdefault(replace(mapping, host_ip=""), []).append(mapping)
    return list(groups.values())


def _fill(mapping: PortMapping, number: int, given: Options) -> PortMapping:
    return replace(mapping, host_port=number, host_port_end=0, host_ip=mapping.host_ip or given.host_binding)


def bind(endpoint: Endpoint, mapping: PortMapping, given: Options, *, proxy: bool) -> list[Binding]:
    """Give a mapping by the host's family, `proxy` if there is one, and as doors where the network's options open them.

    Without a host port there are only doors. Raises `InvalidArgument` and `Unsupported` for what cannot be.
    """
    last = max(mapping.host_port, mapping.container_port) + mapping.count - 1
    if mapping.protocol not in SOCKETS:
        raise InvalidArgument(f"publish a port: no protocol {mapping.protocol!r}", remedy="tcp, udp or sctp")
    if mapping.count < 1 or mapping.host_port < 0 or mapping.container_port < 1 or last > 65535:
        raise InvalidArgument(
            f"publish a port: {mapping.host_port}:{mapping.container_port}/{mapping.protocol} is out of range"
        )
    translated = _translated(endpoint, mapping, given, proxy=proxy) if mapping.host_port else {}
    host_ip = _host_ip(mapping, given)
    bindings = [
        Binding(
            family, mapping.protocol, host_ip, mapping.host_port, target, mapping.container_port, mapping.count
        )
        for family, target in translated.items()
    ]
    own = {family: target for family, target in _targets(endpoint, proxy=False).items() if given.has_doors(family)}
    return bindings + [
        door(family, mapping.protocol, target, mapping.container_port, mapping.count)
        for family, target in own.items()
        if family in _families(mapping, given)
    ]


def _translated(endpoint: Endpoint, mapping: PortMapping, given: Options, *, proxy: bool) -> dict[int, str]:
    """Give where packets to the host's addresses of each family are sent on to."""
    targets = _targets(endpoint, proxy=proxy and mapping.protocol != "sctp")
    families = _families(mapping, given)
    asked = mapping.host_ip or given.host_binding
    if asked and (families - set(targets) or (asked == LOOPBACK6 and not proxy)):
        (version,) = families
        raise Unsupported(
            f"publish port {mapping.host_port}/{mapping.protocol} on {asked}: the container has no"
            f" IPv{version} address that such packets could be translated to",
            remedy=f"join a network with an IPv{version} subnet, or publish on an address of another family",
        )
    return {
        family: target
        for family, target in targets.items()
        if family in families and given.mode(6 if ":" in target else 4) is not GatewayMode.ROUTED
    }


def _families(mapping: PortMapping, given: Options) -> set[int]:
    asked = mapping.host_ip or given.host_binding
    try:
        return {ipaddress.ip_address(asked).version} if asked else {4, 6}
    except ValueError as error:
        raise InvalidArgument(f"publish port {mapping.host_port}: {asked!r} is no address") from error


def _host_ip(mapping: PortMapping, given: Options) -> str:
    """Give the host's address, or "" for all of the families there are."""
    asked = mapping.host_ip or given.host_binding
    return "" if not asked or ipaddress.ip_address(asked).is_unspecified else str(ipaddress.ip_address(asked))


def _targets(endpoint: Endpoint, *, proxy: bool) -> dict[int, str]:
    """Give where packets to the host's addresses of each family go: by the proxy, IPv6 reaches an IPv4 address too."""
    own = {4: endpoint.ipv4, 6: endpoint.ipv6 or (endpoint.ipv4 if proxy else None)}
    return {family: address.partition("/")[0] for family, address in own.items() if address}


def _anywhere(item: Binding) -> str:
    return item.host_ip or ("0.0.0.0" if item.family == 4 else "::")
