"""Networks as elements of the table's sets: pure functions.

What a chain of `rules` asks about a packet is whether its links and addresses are in one of these sets, so a network comes
and goes without a change of rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from sampan_network_bridge.options import GatewayMode, Options

FAMILIES = (4, 6)

Elements = Mapping[str, frozenset[str]]
"""Elements by the name of their set or map, as nft writes them."""

SETS = {
    "bridges": "type ifname;",
    "shut": "type ifname;",
    "open_pairs": "type ifname . ifname;",
    "closed_pairs": "type ifname . ifname;",
    "trusted": "type ifname . ifname;",
} | {
    f"{name}{family}": declared.format(address=f"ipv{family}_addr")
    for family in FAMILIES
    for name, declared in {
        "local": "type {address}; flags interval;",
        "guarded": "type {address}; flags interval;",
        "within": "type ifname . {address}; flags interval;",
        "translated": "type ifname . {address}; flags interval;",
        "sources": "type ifname : {address};",
        "unprotected": "type ifname;",
        "routed": "type ifname;",
    }.items()
}
"""Every set, and its declaration; one with a colon is a map.

bridges       every network's bridge
shut          those of internal networks
open_pairs    a bridge and itself, where containers may talk to each other; closed_pairs: where they may not
trusted       a link of the host from which published ports are reached at the container's address, and a bridge
local4        prefixes
guarded4      prefixes whose addresses only packets in `within4` may be sent to
within4       a link, and a prefix that packets may be sent to from there
translated4   a bridge, and the prefix whose packets leave it with another source
sources4      a bridge, and that source, where it is not just the address of the link they leave by
unprotected4  bridges whose containers are reached at their address, on every port
routed4       bridges whose containers are reached at their address, on published ports
"""

_OPENED = {GatewayMode.NAT_UNPROTECTED: "unprotected", GatewayMode.ROUTED: "routed"}


def network(bridge: str, prefixes: Iterable[str], given: Options, *, internal: bool) -> Elements:
    """Give the elements that make a network."""
    elements: dict[str, set[str]] = {name: set() for name in SETS}
    link = f'"{bridge}"'
    trusted = set() if internal else {f'"{name}"' for name in given.trusted}
    elements["bridges"].add(link)
    elements["open_pairs" if given.icc else "closed_pairs"].add(f"{link} . {link}")
    elements["trusted"] |= {f"{name} . {link}" for name in trusted}
    if internal:
        elements["shut"].add(link)
    for prefix in prefixes:
        version = ipaddress.ip_network(prefix).version
        mode = given.mode(version)
        translated = given.masquerade and mode is not GatewayMode.ROUTED
        elements[f"local{version}"].add(prefix)
        # a link-local prefix is every link's own; without translation, answers from outside bear a container's address
        if not ipaddress.ip_network(prefix).is_link_local and (internal or (translated and mode not in _OPENED)):
            elements[f"guarded{version}"].add(prefix)
            elements[f"within{version}"] |= {f"{name} . {prefix}" for name in {link} | trusted}
        if internal:
            continue
        if translated:
            elements[f"translated{version}"].add(f"{link} . {prefix}")
            if source := given.source(version):
                elements[f"sources{version}"].add(f"{link} : {source}")
        if mode in _OPENED:
            elements[f"{_OPENED[mode]}{version}"].add(link)
    return {name: frozenset(found) for name, found in elements.items()}


def merged(networks: Iterable[Elements]) -> Elements:
    """Give the elements of several networks."""
    found = list(networks)
    return {name: frozenset[str]().union(*(elements[name] for elements in found)) for name in SETS}


def common(one: Elements, other: Elements) -> Elements:
    """Give the elements that are in both."""
    return {name: one[name] & other[name] for name in SETS}


def declarations(table: str) -> Iterator[str]:
    """Declare the sets and maps; those that are there stay as they are."""
    for name, declared in SETS.items():
        yield f"add {'map' if ' : ' in declared else 'set'} inet {table} {name} {{ {declared} }}"


def change(table: str, old: Elements, new: Elements) -> str:
    """Give the difference from `old` to `new`, "" if there is none."""
    lines = []
    for name in SETS:
        before, after = old.get(name, frozenset()), new.get(name, frozenset())
        if gone := sorted(before - after):
            lines += _forget(table, name, gone)
        if come := sorted(after - before):
            lines.append(f"add element inet {table} {name} {{ {', '.join(come)} }}\n")
    return "".join(lines)


def _forget(table: str, name: str, elements: list[str]) -> list[str]:
    """Take elements away, whether they are there or not: what is added first cannot be missing."""
    keys = [element.partition(" : ")[0] for element in elements]
    return [
        f"add element inet {table} {name} {{ {', '.join(elements)} }}\n",
        f"delete element inet {table} {name} {{ {', '.join(keys)} }}\n",
    ]
