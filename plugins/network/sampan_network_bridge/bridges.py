"""The networks' bridges in the kernel, with the host's addresses in them and the switches that they need."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import Conflict
from sampan.api.marks import Marks
from sampan.api.network import Network
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.linux.sysctl import set_sysctl
from sampan_network_bridge.options import GatewayMode, Options

_IPV6 = Path("/proc/sys/net/ipv6")


@dataclass(frozen=True, slots=True)
class Bridge:
    """A network's bridge: `addresses` are the host's in it, with prefix length, `mtu` is in bytes, `mark` its alias.

    `ipv6`: the host speaks IPv6 there. Else it would by a link-local address that no option gave it. `forwards`: IP versions.
    """

    name: str
    mark: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    ipv6: bool
    forwards: tuple[int, ...]


def bridge_of(network: Network, given: Options, marks: Marks, *, mtu: int) -> Bridge:
    """Give the bridge that a network should have; `mtu` if its options ask for none."""
    isolated = {version for version in (4, 6) if given.mode(version) is GatewayMode.ISOLATED}
    without = isolated | ({4} if given.inhibit_ipv4 else set())
    gateways = {subnet.version: subnet for subnet in network.subnets if subnet.gateway and subnet.version not in without}
    return Bridge(
        name=given.bridge_name or f"sp-{marks.engine_id[:4]}-{network.id[:6]}",
        mark=marks.network(network.id),
        mac=netlink.mac_of(str(gateways[4].gateway)) if 4 in gateways else _mac_of(network.id),
        mtu=given.mtu or mtu,
        addresses=tuple(
            f"{subnet.gateway}/{ipaddress.ip_network(subnet.prefix).prefixlen}" for subnet in gateways.values()
        ),
        ipv6=any(subnet.version == 6 for subnet in network.subnets) and 6 not in isolated,
        forwards=() if network.internal else tuple(sorted({subnet.version for subnet in network.subnets})),
    )


def make(bridge: Bridge) -> bool:
    """Make a bridge, or mend the one that is there; say whether anything was to do. Raises `OSError`, `Conflict`.

    One that somebody else made and the network names is used as it is, with our addresses; it is never deleted.
    """
    with Netlink() as kernel:
        found = kernel.link(bridge.name)
        if found is not None and (
            found.kind != "bridge" or (found.alias.startswith("sampan ") and found.alias != bridge.mark)
        ):
            owner = f"it belongs to {found.alias}" if found.alias else "it is no bridge"
            raise Conflict(
                f"make bridge {bridge.name}: a link of this name exists: {owner}", remedy="choose another bridge name"
            )
        if found is None:
            kernel.run(
                netlink.add_bridge(bridge.name, mac=bridge.mac, mtu=bridge.mtu),
                netlink.set_link(bridge.name, alias=bridge.mark),
            )
        index = netlink.link_index(bridge.name)
        own = found is None or found.alias == bridge.mark
        changed = _switch(bridge, own=own)
        there = {item.address for item in kernel.addresses(index)}
        requests = [netlink.add_address(index, address) for address in bridge.addresses if address not in there]
        if found is None or not found.up:
            requests.append(netlink.set_link(index, up=True))
        if found is not None and own and found.mtu != bridge.mtu:
            requests.append(netlink.set_link(index, mtu=bridge.mtu))
        kernel.run(*requests)
    return changed or bool(requests)


def is_there(bridge: Bridge) -> bool:
    """Say whether there is a link of the bridge's name. Raises `OSError`."""
    with Netlink() as kernel:
        return kernel.link(bridge.name) is not None


def delete(bridge: Bridge) -> None:
    """Delete a bridge if we made it. Idempotent. Raises `OSError`."""
    with Netlink() as kernel:
        found = kernel.link(bridge.name)
        if found is not None and found.alias == bridge.mark:
            kernel.discard(found.index)


def _switch(bridge: Bridge, *, own: bool) -> bool:
    """Set what the kernel decides by link. Router advertisements there would be a container's (CVE-2020-13401)."""
    wanted = {f"ipv4/conf/{bridge.name}/route_localnet": "1"}  # for ports published on 127.0.0.1
    wanted |= {f"ipv{version}/conf/{bridge.name}/forwarding": "1" for version in bridge.forwards}
    if _IPV6.exists():
        if own:
            wanted[f"ipv6/conf/{bridge.name}/accept_ra"] = "0"
        if own or bridge.ipv6:
            wanted[f"ipv6/conf/{bridge.name}/disable_ipv6"] = "0" if bridge.ipv6 else "1"
    written = [name for name, value in wanted.items() if set_sysctl(name, value)]
    return bool(written)


def _mac_of(network_id: str) -> str:
    """Give an address that stays: a bridge without one takes its ports' lowest, and containers lose it for a while."""
    return f"02:42:{network_id[0:2]}:{network_id[2:4]}:{network_id[4:6]}:{network_id[6:8]}"
