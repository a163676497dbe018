"""The driver's nftables table as text: pure functions, and the only place where a rule is written.

One table `inet sampan_<engine id>`. Its rules never change with what runs: networks are elements of sets,
published ports elements of maps (`bindings`). A packet's way costs the same with one port and with a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator

from sampan_network_bridge import sets
from sampan_network_bridge.sets import FAMILIES


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
    yield from sets.declarations(table)
    for family in FAMILIES:
        address = f"ipv{family}_addr"
        yield f"add set inet {table} doors{family} {{ type {address} . inet_proto . inet_service; flags interval; }}"
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
    proxied = "meta l4proto { 6, 17 }"  # TCP, UDP: by number, as `bindings.PROTOCOLS` says
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


def _guard(family: int) -> str:
    ip = "ip" if family == 4 else "ip6"
    return f"{ip} daddr @guarded{family} iifname . {ip} daddr != @within{family} fib daddr type != local drop"


def _leaving(family: int) -> list[str]:
    ip = "ip" if family == 4 else "ip6"
    out = f"iifname . {ip} saddr @translated{family} iifname . oifname != @open_pairs"
    return [
        # a container that reaches a published port, its own or a neighbour's: the answer must come back this
        # way
        f"{ip} saddr @local{family} oifname @bridges ct status dnat masquerade",
        f"{out} snat {ip} to iifname map @sources{family}",
        f"{out} masquerade",
    ]


def _judge(family: int) -> list[str]:
    ip, version, icmp = ("ip", "ipv4", 1) if family == 4 else ("ip6", "ipv6", 58)
    door = f"{ip} daddr . meta l4proto . th dport @doors{family} accept"
    return [
        f"oifname @unprotected{family} meta nfproto {version} accept",
        f"oifname @routed{family} meta l4proto {icmp} accept",
        f"oifname @routed{family} {door}",
        f"iifname . oifname @trusted {door}",
    ]


_CHAINS: dict[str, list[str]] = {
    # a container's address is for packets of its own network, and this is asked before connections are known, so that
    # nobody's packet passes for an answer. Also, bridges route 127/8 (route_localnet, for ports published on 127.0.0.1),
    # and containers must not reach the host's own
    "guard": ["iifname @bridges ip daddr 127.0.0.0/8 drop", _guard(4), _guard(6)],
    # nor may a neighbour on the wire, by a packet to 127.0.0.1 that we would turn around before the kernel
    # drops it. From internal networks only the host itself is reached, not what is published there
    "incoming": ["ip daddr 127.0.0.0/8 return", "iifname @shut return", "jump translate"],
    "outgoing": ["jump translate"],
    "translate": ["meta nfproto ipv6 jump divert", *_translate(4), *_translate(6)],
    "leaving": ["ip saddr 127.0.0.0/8 oifname @bridges masquerade", *_leaving(4), *_leaving(6)],
    "crossing": ["iifname @bridges jump judge", "oifname @bridges jump judge"],
    "judge": [
        "iifname . oifname @open_pairs accept",
        "iifname @shut drop",
        "oifname @shut drop",
        "ct state established,related accept",
        # into a container by a published port; by its address, from outside or from another network, only where the
        # gateway mode says so
        "oifname @bridges ct status dnat accept",
        "iifname . oifname @closed_pairs drop",
        *_judge(4),
        *_judge(6),
        "oifname @bridges drop",
        "accept",
    ],
}
