"""The driver's links in the kernel: a bridge and a tunnel for a network, a veth pair for an endpoint.

The host takes no part in a network: its bridge has no address and answers nothing. A tunnel's other machines are the
flood list of its link. Every link bears the driver's mark (`sampan.api.marks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sampan.api import sandbox
from sampan.api.errors import Conflict, InvalidArgument
from sampan.api.marks import Marks
from sampan.api.network import Endpoint, Network
from sampan.linux import netlink
from sampan.linux.netlink import Link, Netlink, Request
from sampan.linux.sysctl import set_sysctl
from sampan.linux.vxlan import add_flood, add_vxlan, flood_list
from sampan_network_vxlan import underlay
from sampan_network_vxlan.options import Options
from sampan_network_vxlan.underlay import Underlay

_DEAF = {"rp_filter": "1", "arp_ignore": "8"}
"""From a link without an address the host then takes and forwards nothing that says who it is from, and answers no ARP:
ip-sysctl.rst. It holds where somebody has flushed the guard's rules.
"""

_LEAST_MTU_6 = 1280
"""RFC 8200, section 5; the kernel turns IPv6 off on a link with less."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a network's links."""

    bridge: str
    tunnel: str


def names(engine_id: str, network_id: str) -> Names:
    """Give the names of a network's links: 14 bytes."""
    what = f"{engine_id[:4]}-{network_id[:6]}"
    return Names(bridge=f"sx-{what}", tunnel=f"st-{what}")


def bridges(engine_id: str) -> str:
    """Give the pattern of the bridges' names."""
    return f"sx-{engine_id[:4]}-*"


def veth_name(engine_id: str, endpoint_id: str) -> str:
    """Give the name of the host's side of an endpoint's veth pair: 15 bytes."""
    return f"se-{engine_id[:4]}-{endpoint_id[:7]}"


# ---------------------------------------------------------------- networks


def make_network(network: Network, given: Options, marks: Marks) -> list[str]:
    """Make a network's links, or what is missing of them; name each thing made. What is right is not touched.

    Raises `InvalidArgument`, `Unavailable`, `Conflict`, `OSError`.
    """
    name, mark = names(marks.engine_id, network.id), marks.network(network.id)
    with Netlink() as kernel:
        ground = underlay.find(kernel, given)
        if ground.mtu < _LEAST_MTU_6 and any(subnet.version == 6 for subnet in network.subnets):
            raise InvalidArgument(f"MTU {ground.mtu} is too small for the network's IPv6 subnet: it takes {_LEAST_MTU_6}")
        made = _make_tunnel(kernel, name.tunnel, mark, given, ground)
        made += _make_bridge(kernel, name.bridge, mark, ground.mtu)
        _make_deaf(name.bridge, name.tunnel)
        made += _join(kernel, name.tunnel, name.bridge)
    return made


def is_made(network: Network, marks: Marks) -> bool:
    """Say whether a network's links are there. Raises `OSError`."""
    name = names(marks.engine_id, network.id)
    with Netlink() as kernel:
        return kernel.link(name.bridge) is not None and kernel.link(name.tunnel) is not None


def machines(network: Network, marks: Marks) -> set[str]:
    """Give the other machines that a network's tunnel leads to, or its group. Raises `OSError`."""
    with Netlink() as kernel:
        tunnel = kernel.link(names(marks.engine_id, network.id).tunnel)
        return flood_list(kernel, tunnel.index) if tunnel is not None else set()


def delete_network(network: Network, marks: Marks) -> None:
    """Delete a network's links if they are ours. Idempotent. Raises `OSError`."""
    name, mark = names(marks.engine_id, network.id), marks.network(network.id)
    with Netlink() as kernel:
        _delete(kernel, name.bridge, mark)
        _delete(kernel, name.tunnel, mark)


def _make_tunnel(kernel: Netlink, name: str, mark: str, given: Options, ground: Underlay) -> list[str]:
    found = _own(kernel, name, mark)
    made = []
    if found is None:
        request = add_vxlan(
            name, vni=given.vni, local=ground.local, port=given.port, parent=ground.parent, group=given.group,
            learning=given.learning, mtu=ground.mtu,
        )  # fmt: skip
        try:
            kernel.run(request, netlink.set_link(name, alias=mark))
        except FileExistsError as error:
            raise Conflict(
                f"make tunnel {name}: VNI {given.vni} is taken on UDP port {given.port} of this host",
                remedy="choose another vni or port; `ip -d link show type vxlan` shows what there is",
            ) from error
        made.append(f"tunnel {name}")
    index = netlink.link_index(name)
    known = flood_list(kernel, index)
    missing = [remote for remote in ground.remotes if remote not in known]
    kernel.run(*(add_flood(index, remote) for remote in missing))
    if found is not None:
        made += [f"way of tunnel {name} to {remote}" for remote in missing]
        made += _set_mtu(kernel, found, ground.mtu)
    return made


def _make_bridge(kernel: Netlink, name: str, mark: str, mtu: int) -> list[str]:
    found = _own(kernel, name, mark)
    if found is not None:
        return _set_mtu(kernel, found, mtu)
    kernel.run(netlink.add_bridge(name, mtu=mtu), netlink.set_link(name, alias=mark))
    return [f"bridge {name}"]


def _join(kernel: Netlink, name: str, bridge: str) -> list[str]:
    """Put a link in its bridge, and both up; name what was not so."""
    port, master = kernel.link(name), kernel.link(bridge)
    if port is None or master is None:
        raise Conflict(f"put {name} in bridge {bridge}: somebody else deletes them", remedy="try again")
    wrong: list[tuple[str, Request]] = []
    if port.master != master.index:
        wrong.append((f"{name} in bridge {bridge}", netlink.set_link(port.index, master=master.index)))
    wrong += [(f"link {link.name} up", netlink.set_link(link.index, up=True)) for link in (port, master) if not link.up]
    kernel.run(*(request for _, request in wrong))
    return [what for what, _ in wrong]


def _make_deaf(*names: str) -> None:
    """Keep the host out of what goes over these links. Before they are up: then the host had not said a word on them."""
    for name in names:
        for switch, value in _DEAF.items():
            set_sysctl(f"ipv4/conf/{name}/{switch}", value)
        if Path(f"/proc/sys/net/ipv6/conf/{name}").exists():
            set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


def _own(kernel: Netlink, name: str, mark: str) -> Link | None:
    """Give our link of this name, or None. Raises `Conflict` if it is somebody else's."""
    found = kernel.link(name)
    if found is not None and found.alias != mark:
        raise Conflict(
            f"make link {name}: there is one, of {found.alias or 'somebody else'}", remedy="create the network anew: it gets another name"
        )
    return found


def _delete(kernel: Netlink, name: str, mark: str) -> None:
    found = kernel.link(name)
    if found is not None and found.alias == mark:
        kernel.discard(found.index)


def _set_mtu(kernel: Netlink, link: Link, mtu: int) -> list[str]:
    if link.mtu == mtu:
        return []
    kernel.run(netlink.set_link(link.index, mtu=mtu))
    return [f"MTU {mtu} of {link.name}"]


# ---------------------------------------------------------------- endpoints


def make_endpoint(network: Network, endpoint: Endpoint, netns: int, marks: Marks, *, mac: str) -> int:
    """Join a sandbox to a network's bridge; give the MTU in bytes. All or nothing. Raises `OSError`, `Conflict`, `System`."""
    name, bridge = veth_name(marks.engine_id, endpoint.id), names(marks.engine_id, network.id).bridge
    with Netlink() as kernel:
        master = kernel.link(bridge)
        if master is None:
            raise Conflict(f"bridge {bridge} of network {network.name} is missing")
        kernel.run(
            netlink.add_veth(name, peer=endpoint.interface, netns=netns, master=master.index, mac=mac, mtu=master.mtu),
            netlink.set_link(name, alias=marks.endpoint(endpoint.id)),
        )
        try:
            sandbox.configure(network, endpoint, netns)
            kernel.run(netlink.settle_link(name), netlink.settle_link(bridge))
            sandbox.announce(endpoint, netns)
        except BaseException:
            kernel.discard(name)
            raise
    return master.mtu


def delete_endpoint(endpoint: Endpoint, marks: Marks) -> None:
    """Delete an endpoint's link if it is ours. Idempotent. Raises `OSError`."""
    with Netlink() as kernel:
        _delete(kernel, veth_name(marks.engine_id, endpoint.id), marks.endpoint(endpoint.id))


def repair_endpoint(network: Network, endpoint: Endpoint, marks: Marks) -> list[str]:
    """Put an endpoint's link up and into its bridge again, where it is not; name each thing mended. Raises `OSError`."""
    with Netlink() as kernel:
        port = kernel.link(veth_name(marks.engine_id, endpoint.id))
        if port is None:  # and so is its other end: only an attach makes a pair
            return []
        return _join(kernel, port.name, names(marks.engine_id, network.id).bridge)


def damage(network: Network, endpoint: Endpoint, given: Options, marks: Marks) -> list[str]:
    """Name what is missing on the host of an endpoint and its network. Raises `OSError`."""
    name, veth = names(marks.engine_id, network.id), veth_name(marks.engine_id, endpoint.id)
    with Netlink() as kernel:
        bridge, tunnel, port = kernel.link(name.bridge), kernel.link(name.tunnel), kernel.link(veth)
        found = []
        for wanted, link in ((name.bridge, bridge), (name.tunnel, tunnel), (veth, port)):
            if link is None:
                found.append(f"link {wanted} is missing")
            elif not link.up:
                found.append(f"link {wanted} is down")
            elif bridge is not None and link is not bridge and link.master != bridge.index:
                found.append(f"link {wanted} is not in bridge {name.bridge}")
        if tunnel is not None:
            own = {item.address.partition("/")[0] for item in kernel.addresses()}
            lost = set(given.remotes) - own - flood_list(kernel, tunnel.index)
            found += [f"tunnel {name.tunnel} has no way to {remote}" for remote in sorted(lost)]
    return found
