"""The driver's nftables table as text: pure functions, and the only place where a rule is written.

One table `inet sampan_<engine id>`. Its rules never change with what runs: networks are elements of sets,
published ports elements of maps (`bindings`). A packet's way costs the same with one port and with a thousand.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

FAMILIES = (4, 6)

Elements = Mapping[str, frozenset[str]]
"""Elements of sets, by the set's name, as nft writes them."""

SETS = ("bridges", "shut", "open_pairs", "local4", "outbound4", "local6", "outbound6")


def table_name(engine_id: str) -> str:
    """Give the table's name; it carries the engine's id, so that many engines live on one host."""
    return f"sampan_{engine_id}"


def base(table: str, proxy_port: int = 0) -> str:
    """Declare table, sets, maps and chains, and set the rules, in one transaction: what the sets and maps
    hold stays. `proxy_port`: see `NetworkContext`.
    """
    return "\n".join([f"add table inet {table}", *_declarations(table), *_rules(table, proxy_port)]) + "\n"


def remove(table: str) -> str:
    """Take the whole table away, whether it is there or not."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def _declarations(table: str) -> Iterator[str]:
    yield f"add set inet {table} bridges {{ type ifname; }}"
    yield f"add set inet {table} shut {{ type ifname; }}"
    yield f"add set inet {table} open_pairs {{ type ifname . ifname; }}"
    for family in FAMILIES:
        address = f"ipv{family}_addr"
        yield f"add set inet {table} local{family} {{ type {address}; flags interval; }}"
        yield f"add set inet {table} outbound{family} {{ type {address}; flags interval; }}"
        for host, key in (("", ""), ("host_", f"{address} . ")):
            key += "inet_proto . inet_service"
            yield f"add map inet {table} {host}ports{family} {{ type {key} : {address} . inet_service; }}"
            yield f"add map inet {table} {host}ranges{family} {{ type {key} : {address}; flags interval; }}"
    for host, key in (("", ""), ("host_", "ipv6_addr . ")):
        key += "inet_proto . inet_service"
        yield f"add set inet {table} {host}ports_proxied {{ type {key}; }}"
        yield f"add set inet {table} {host}ranges_proxied {{ type {key}; flags interval; }}"
    yield f"add chain inet {table} guard {{ type filter hook prerouting priority raw; }}"
    yield f"add chain inet {table} incoming {{ type nat hook prerouting priority dstnat; }}"
    yield f"add chain inet {table} outgoing {{ type nat hook output priority -100; }}"
    yield f"add chain inet {table} leaving {{ type nat hook postrouting priority srcnat; }}"
    yield f"add chain inet {table} crossing {{ type filter hook forward priority filter; }}"
    yield f"add chain inet {table} arriving {{ type filter hook input priority filter; }}"
    yield f"add chain inet {table} translate"
    yield f"add chain inet {table} divert"
    yield f"add chain inet {table} judge"


def _rules(table: str, proxy_port: int) -> Iterator[str]:
    for chain, rules in (_CHAINS | _proxy(proxy_port)).items():
        yield f"flush chain inet {table} {chain}"
        for rule in rules:
            yield f"add rule inet {table} {chain} {rule}"


def _translate(family: int) -> list[str]:
    ip = "ip" if family == 4 else "ip6"
    port = "meta l4proto . th dport"
    return [
        *(f"dnat {ip} to {ip} daddr . {port} map @host_{kind}{family}" for kind in ("ports", "ranges")),
        *(f"fib daddr type local dnat {ip} to {port} map @{kind}{family}" for kind in ("ports", "ranges")),
    ]


def _proxy(port: int) -> dict[str, list[str]]:
    """What the kernel cannot translate goes to the proxy's port; who was not sent there has no business there."""
    if not port:
        return {"divert": [], "arriving": []}
    proxied = "meta l4proto { tcp, udp }"
    return {
        "divert": [
            *(
                f"{proxied} ip6 daddr . meta l4proto . th dport @host_{kind}_proxied redirect to :{port}"
                for kind in ("ports", "ranges")
            ),
            *(
                f"{proxied} fib daddr type local meta l4proto . th dport @{kind}_proxied redirect to :{port}"
                for kind in ("ports", "ranges")
            ),
        ],
        "arriving": [f"meta nfproto ipv6 {proxied} th dport {port} ct status & dnat == 0 reject"],
    }


def _leaving(family: int) -> list[str]:
    ip = "ip" if family == 4 else "ip6"
    return [
        # a container that reaches a published port, its own or a neighbour's: the answer must come back this
        # way
        f"{ip} saddr @local{family} oifname @bridges ct status dnat masquerade",
        f"{ip} saddr @outbound{family} oifname != @bridges masquerade",
    ]


_CHAINS: dict[str, list[str]] = {
    # bridges route 127/8 (route_localnet, for ports published on 127.0.0.1): containers must not reach the
    # host's own
    "guard": ["iifname @bridges ip daddr 127.0.0.0/8 drop"],
    # nor may a neighbour on the wire, by a packet to 127.0.0.1 that we would turn around before the kernel
    # drops it
    "incoming": ["ip daddr 127.0.0.0/8 return", "jump translate"],
    "outgoing": ["jump translate"],
    "translate": ["meta nfproto ipv6 jump divert", *_translate(4), *_translate(6)],
    "leaving": ["ip saddr 127.0.0.0/8 oifname @bridges masquerade", *_leaving(4), *_leaving(6)],
    "crossing": ["iifname @bridges jump judge", "oifname @bridges jump judge"],
    "judge": [
        "iifname . oifname @open_pairs accept",
        "iifname @shut drop",
        "oifname @shut drop",
        "ct state established,related accept",
        # into a container only by a published port: not by its address, from outside or from another network
        "oifname @bridges ct status dnat accept",
        "oifname @bridges drop",
        "accept",
    ],
}


# ---------------------------------------------------------------- networks


def network(
    bridge: str, prefixes: Iterable[str], *, internal: bool, icc: bool, masquerade: bool
) -> dict[str, frozenset[str]]:
    """Give the elements that make a network."""
    elements: dict[str, set[str]] = {name: set() for name in SETS}
    elements["bridges"].add(f'"{bridge}"')
    if internal:
        elements["shut"].add(f'"{bridge}"')
    if icc:
        elements["open_pairs"].add(f'"{bridge}" . "{bridge}"')
    for prefix in prefixes:
        version = ipaddress.ip_network(prefix).version
        elements[f"local{version}"].add(prefix)
        if masquerade and not internal:
            elements[f"outbound{version}"].add(prefix)
    return {name: frozenset(found) for name, found in elements.items()}


def change(table: str, old: Elements, new: Elements) -> str:
    """Give the difference from `old` to `new`, "" if there is none."""
    lines = []
    for name in SETS:
        gone, come = (
            old.get(name, frozenset()) - new.get(name, frozenset()),
            new.get(name, frozenset()) - old.get(name, frozenset()),
        )
        if gone:
            lines += _forget(table, name, sorted(gone))
        if come:
            lines.append(f"add element inet {table} {name} {{ {', '.join(sorted(come))} }}\n")
    return "".join(lines)


def _forget(table: str, name: str, elements: list[str]) -> list[str]:
    listed = ", ".join(elements)
    return [f"{verb} element inet {table} {name} {{ {listed} }}\n" for verb in ("add", "delete")]
