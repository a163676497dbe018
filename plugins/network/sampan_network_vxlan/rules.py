"""The driver's nftables table as text: who may send into a network.

VXLAN has no password: whoever gets a UDP packet to the port is in. A container of a bridge network could, by the host's address.
So packets with a network's VNI are taken from its machines only, and only its machines' are let pass to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sampan_network_vxlan.options import Options

_HOST = "host"
_VNI = "@th,96,24"
"""VXLAN's header stands 8 bytes into UDP, the VNI 4 bytes into that: RFC 7348, section 5."""


def table_name(engine_id: str) -> str:
    """Give the table's name; it carries the engine's id, so that many engines live on one host."""
    return f"sampan_vxlan_{engine_id}"


def render(table: str, bridges: str, networks: Mapping[str, Options]) -> str:
    """Set the rules for these networks, by id, in one transaction; without any there is no table.

    `bridges`: the pattern of the networks' bridges' names.
    """
    if not networks:
        return f"add table inet {table}\ndelete table inet {table}\n"
    return "\n".join([
        f"add table inet {table}",
        # in `input` and not before: by then the kernel has put fragments together
        f"add chain inet {table} arriving {{ type filter hook input priority filter; }}",
        f"add chain inet {table} passing {{ type filter hook forward priority filter; }}",
        f"flush table inet {table}",
        # such a link takes no address of the host's; this is for broadcasts from nowhere, as DHCP's
        f'add rule inet {table} arriving iifname "{bridges}" drop comment "{_HOST}"',
        *(f"add rule inet {table} {rule}" for network_id, given in networks.items() for rule in _rules(network_id, given)),
    ]) + "\n"  # fmt: skip


def subjects(network_id: str) -> list[tuple[str, str]]:
    """Give the rules that keep a network: the chain and the comment of each."""
    return [("arriving", _HOST), ("arriving", _about(network_id)), ("passing", _about(network_id))]


def _about(network_id: str) -> str:
    return f"network {network_id}"


def _rules(network_id: str, given: Options) -> Iterator[str]:
    packet = f"udp dport {given.port} {_VNI} {given.vni}"
    end = f'drop comment "{_about(network_id)}"'
    if given.remotes:
        ip = "ip" if given.version == 4 else "ip6"
        machines = f"{{ {', '.join(given.remotes)} }}"
        yield f"arriving {packet} {ip} saddr != {machines} {end}"
        yield f"passing {packet} {ip} daddr {machines} {ip} saddr != {machines} {end}"
    else:
        yield f'arriving {packet} iifname != "{given.parent}" {end}'
        yield f'passing {packet} oifname "{given.parent}" {end}'
