"""Published ports as elements of the table's maps and sets: pure functions.

A range of ports that keep their numbers on the way in is one element of a `ranges` map (interval keys, the
address as data). A single port is one element of a `ports` map (a hash; address and port as data), and a
range that shifts its numbers is as many of these, since the kernel's address translation cannot shift a whole
range. The `host_` maps are for ports bound to one address of the host.

A port that is reached at the container's own address, without translation, is an element of a `doors` set.

What the kernel cannot translate, [::1] and IPv6 to IPv4, is an element of a `_proxied` set instead: such
packets go to the engine's proxy, which shifts ranges by itself. The element's comment says where it leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

LOOPBACK6 = "::1"


PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""Numbers, for nft finds names in /etc/protocols only, which a small system has not (Debian's package netbase)."""


@dataclass(frozen=True, slots=True)
class Binding:
    """`count` ports of one family, from `host_port` on the host ("" as `host_ip`: any) to `port` of address
    `target`. `host_port` 0: a door.
    """

    family: int
    protocol: str
    host_ip: str
    host_port: int
    target: str
    port: int
    count: int = 1

    @property
    def is_proxied(self) -> bool:
        """Say whether it takes the proxy: the kernel can neither change families nor route what is sent to [::1]."""
        return self.family == 6 and (self.host_ip == LOOPBACK6 or ":" not in self.target)

    @property
    def is_door(self) -> bool:
        """Say whether it lets packets through to the container's own address, and takes no port of the host."""
        return not self.host_port

    @property
    def container(self) -> str:
        """Where it leads, as text: `172.17.0.2:80`."""
        return f"[{self.target}]:{self.port}" if ":" in self.target else f"{self.target}:{self.port}"


def door(family: int, protocol: str, address: str, port: int, count: int = 1) -> Binding:
    """Give a door: `count` ports of the container's own address, reached as they are."""
    return Binding(family, protocol, "", 0, address, port, count)


def split(bindings: Iterable[Binding]) -> list[Binding]:
    """Give the bindings as they stand in the table, one element each: a range that shifts its numbers falls into
    ports, and what leads from every IPv6 address has one more for [::1].
    """
    return [element for item in bindings for element in _split(item)]


def _split(item: Binding) -> Iterator[Binding]:
    if item.count == 1 or item.host_port == item.port or item.is_proxied or item.is_door:
        yield item
    else:
        for n in range(item.count):
            yield replace(item, host_port=item.host_port + n, port=item.port + n, count=1)
    if item.family == 6 and not item.host_ip and not item.is_proxied and not item.is_door:
        yield replace(item, host_ip=LOOPBACK6)


def publish(table: str, elements: Iterable[Binding]) -> str:
    """Add elements to the table."""
    return "".join(
        f"add element inet {table} {name} {{ {', '.join(map(_whole, items))} }}\n"
        for name, items in _by_place(elements).items()
    )


def unpublish(table: str, elements: Iterable[Binding]) -> str:
    """Take elements from the table. One that is not there is added first, so that no element fails the
    transaction.
    """
    return "".join(
        line
        for name, items in _by_place(elements).items()
        for line in (
            f"add element inet {table} {name} {{ {', '.join(map(_whole, items))} }}\n",
            f"delete element inet {table} {name} {{ {', '.join(map(key, items))} }}\n",
        )
    )


def _by_place(elements: Iterable[Binding]) -> dict[str, list[Binding]]:
    found: dict[str, list[Binding]] = {}
    for item in elements:
        found.setdefault(place(item), []).append(item)
    return found


def place(item: Binding) -> str:
    """Give the name of the map or set that the element is in."""
    if item.is_door:
        return f"doors{item.family}"
    kind = "ranges" if item.count > 1 else "ports"
    return f"{'host_' if item.host_ip else ''}{kind}{'_proxied' if item.is_proxied else item.family}"


def _whole(item: Binding) -> str:
    if item.is_door:
        return key(item)
    if item.is_proxied:
        return f'{key(item)} comment "{item.container}"'
    return f"{key(item)} : {item.target if item.count > 1 else f'{item.target} . {item.port}'}"


def key(item: Binding) -> str:
    """Give the element's key as nft reads it."""
    return _key(item, str(PROTOCOLS[item.protocol]))


def shown(item: Binding) -> str:
    """Give the element's key as nft lists it."""
    return _key(item, item.protocol)


def _key(item: Binding, protocol: str) -> str:
    if item.is_door:
        return f"{item.target} . {protocol} . {_range(item.port, item.count)}"
    return f"{item.host_ip + ' . ' if item.host_ip else ''}{protocol} . {_range(item.host_port, item.count)}"


def _range(first: int, count: int) -> str:
    return f"{first}-{first + count - 1}" if count > 1 else str(first)
