"""Published ports as elements of the table's maps: pure functions.

A range of ports that keep their numbers on the way in is one element of a `ranges` map (interval keys, the
address as data). A single port is one element of a `ports` map (a hash; address and port as data), and a
range that shifts its numbers is as many of these, since the kernel's address translation cannot shift a whole
range. The `host_` maps are for ports bound to one address of the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Binding:
    """`count` ports of one family, from `host_port` on the host ("" as `host_ip`: any) to `port` of address
    `target`.
    """

    family: int
    protocol: str
    host_ip: str
    host_port: int
    target: str
    port: int
    count: int = 1


def split(bindings: Iterable[Binding]) -> list[Binding]:
    """Give the bindings as they stand in the maps, one element each: a range that shifts its numbers falls
    into ports.
    """
    elements = []
    for item in bindings:
        if item.count == 1 or item.host_port == item.port:
            elements.append(item)
        else:
            elements += [
                replace(item, host_port=item.host_port + n, port=item.port + n, count=1) for n in range(item.count)
            ]
    return elements


def publish(table: str, elements: Iterable[Binding]) -> str:
    """Add elements to the maps."""
    return "".join(
        f"add element inet {table} {name} {{ {', '.join(f'{_key(item)} : {_value(item)}' for item in items)} }}\n"
        for name, items in _by_map(elements).items()
    )


def unpublish(table: str, elements: Iterable[Binding]) -> str:
    """Take elements from the maps. One that is not there is added first, so that no element fails the
    transaction.
    """
    return "".join(
        line
        for name, items in _by_map(elements).items()
        for line in (
            f"add element inet {table} {name} {{ {', '.join(f'{_key(item)} : {_value(item)}' for item in items)} }}\n",
            f"delete element inet {table} {name} {{ {', '.join(_key(item) for item in items)} }}\n",
        )
    )


def _by_map(elements: Iterable[Binding]) -> dict[str, list[Binding]]:
    found: dict[str, list[Binding]] = {}
    for item in elements:
        kind = "ranges" if item.count > 1 else "ports"
        found.setdefault(f"{'host_' if item.host_ip else ''}{kind}{item.family}", []).append(item)
    return found


def _key(item: Binding) -> str:
    ports = f"{item.host_port}-{item.host_port + item.count - 1}" if item.count > 1 else str(item.host_port)
    return f"{item.host_ip + ' . ' if item.host_ip else ''}{item.protocol} . {ports}"


def _value(item: Binding) -> str:
    return item.target if item.count > 1 else f"{item.target} . {item.port}"
