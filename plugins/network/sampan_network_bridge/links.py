"""The driver's links in the kernel: bridges, veth pairs, and the few sysctls they need.

Every link we make bears the driver's mark (`sampan.api.marks`).
"""

from __future__ import annotations

import errno
import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path

from sampan.api import sandbox
from sampan.api.errors import Conflict
from sampan.api.marks import Marks
from sampan.api.network import Endpoint, Network, Subnet
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.linux.sysctl import set_sysctl

log = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")  # the calling thread's network namespace decides what is seen here


def bridge_name(engine_id: str, network_id: str) -> str:
    """Give the name of a network's bridge that the user did not name."""
    return f"sp-{engine_id[:4]}-{network_id[:6]}"


def veth_name(engine_id: str, endpoint_id: str) -> str:
    """Give the name of the host's side of an endpoint's veth pair: 15 bytes."""
    return f"sv-{engine_id[:4]}-{endpoint_id[:7]}"


def marks(engine_id: str) -> Marks:
    """Give the marks of the engine's bridge driver."""
    return Marks(engine_id, "bridge")


def enable_forwarding(*, ipv6: bool) -> None:
    """Let the host forward packets. Without it no container reaches out; we only ever turn it on."""
    for name in ("ipv4/ip_forward", *(["ipv6/conf/all/forwarding"] if ipv6 else [])):
        if set_sysctl(name, "1"):
            log.warning("turned on %s: this host now forwards between all its links, not only the containers'", name)


# ---------------------------------------------------------------- bridges


def make_bridge(network: Network, name: str, engine_id: str, mtu: int) -> None:
    """Make a network's bridge with its gateway addresses, or mend the one that is there. Raises `OSError`,
    `Conflict`.

    A bridge that somebody else made and the network names is used as it is, and never deleted.
    """
    with Netlink() as kernel:
        mine = marks(engine_id).network(network.id)
        found = next((link for link in kernel.links() if link.name == name), None)
        if found is None:
            kernel.run(
                netlink.add_bridge(name, mac=_bridge_mac(network), mtu=mtu),
                netlink.set_link(name, alias=mine, up=True),
            )
        elif found.kind != "bridge" or (found.alias.startswith("sampan ") and found.alias != mine):
            owner = f"it belongs to {found.alias}" if found.alias else "it is no bridge"
            raise Conflict(
                f"make bridge {name}: a link of this name exists: {owner}",
                remedy="choose another bridge name",
            )
        index = netlink.link_index(name)
        if found is not None and not found.up:
            kernel.run(netlink.set_link(index, up=True))
        if found is not None and found.alias == mine and found.mtu != mtu:
            kernel.run(netlink.set_link(index, mtu=mtu))
        there = {item.address for item in kernel.addresses() if item.index == index}
        wanted = [address for subnet in network.subnets if (address := gateway_address(subnet))]
        kernel.run(*(netlink.add_address(index, address) for address in wanted if address not in there))
    set_sysctl(f"ipv4/conf/{name}/route_localnet", "1")


def delete_bridge(network: Network, name: str, engine_id: str) -> None:
    """Delete a network's bridge if we made it. Idempotent. Raises `OSError`."""
    with Netlink() as kernel:
        mine = marks(engine_id).network(network.id)
        if any(link.name == name and link.alias == mine for link in kernel.links()):
            delete(kernel, name)


def gateway_address(subnet: Subnet) -> str:
    """Give the gateway's address with its prefix length, or ""."""
    if subnet.gateway is None:
        return ""
    return f"{subnet.gateway}/{ipaddress.ip_network(subnet.prefix).prefixlen}"


def _bridge_mac(network: Network) -> str:
    """Fix the address: a bridge without one takes its ports' lowest, and containers would lose their gateway
    for a while.
    """
    for subnet in network.subnets:
        if subnet.gateway and ":" not in subnet.gateway:
            return netlink.mac_of(subnet.gateway)
    return ""


# ---------------------------------------------------------------- veth pairs


@dataclass(frozen=True, slots=True)
class Veth:
    """An endpoint's link: `name` on the host, in bridge `bridge`, with `mark` as its alias; `mtu` in bytes.

    Without `icc` the port is isolated: it reaches the bridge itself, and no other isolated port.
    """

    name: str
    bridge: str
    mark: str
    mtu: int
    icc: bool


def make_veth(veth: Veth, interface: str, netns: int, *, mac: str = "") -> None:
    """Make the pair in one send, its other end as `interface` in a sandbox, down; one made before that waits there stays.

    Where br_netfilter shows bridged packets to the table, its rules decide about neighbours: the module bridges translated
    packets from port to port, so isolation would close published ports too. Raises `OSError`, `Conflict`.
    """
    with Netlink() as kernel:
        found = kernel.link(veth.name)
        if found is not None and (found.alias != veth.mark or found.carrier):
            raise Conflict(f"make link {veth.name}: there is one, of {found.alias or 'somebody else'}")
        if found is not None:
            return
        bridge, isolated = netlink.link_index(veth.bridge), not veth.icc and not _bridge_netfilter()
        try:
            kernel.run(
                netlink.add_veth(veth.name, peer=interface, netns=netns, master=bridge, mac=mac, mtu=veth.mtu),
                netlink.set_link(veth.name, alias=veth.mark, hairpin=True, isolated=isolated),
            )
        except BaseException:
            kernel.discard(veth.name)
            raise


def join(veth: Veth, network: Network, endpoint: Endpoint, netns: int, *, mac: str) -> None:
    """Bring a made pair up with the endpoint's addresses, and its bridge to notice. Raises `OSError` and as `configure`."""
    sandbox.configure(network, endpoint, netns, mac=mac)
    with Netlink() as kernel:
        kernel.run(netlink.settle_link(veth.name), netlink.settle_link(veth.bridge))


def delete_veth(veth: Veth) -> None:
    """Delete an endpoint's link, if it is that. Idempotent. Raises `OSError`."""
    with Netlink() as kernel:
        found = kernel.link(veth.name)
        if found is not None and found.alias == veth.mark:
            kernel.discard(found.index)


def _bridge_netfilter() -> bool:
    """Say whether the IP tables' hooks see what is bridged: `Documentation/networking/bridge.rst`."""
    switch = _SYSCTL / "bridge/bridge-nf-call-iptables"
    return switch.exists() and switch.read_text().strip() == "1"


def delete(kernel: Netlink, link: str | int) -> None:
    """Delete a link; one that is not there, or just vanishes with its sandbox, is no error. Raises `OSError`."""
    try:
        kernel.run(netlink.delete_link(link))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
