"""The endpoints' links in the kernel: veth pairs.

Every link we make bears the driver's mark (`sampan.api.marks`).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from sampan.api import sandbox
from sampan.api.errors import Conflict
from sampan.api.marks import Marks
from sampan.api.network import Endpoint, Network
from sampan.linux import netlink
from sampan.linux.netlink import Netlink, Request

_SYSCTL = Path("/proc/sys/net")  # the calling thread's network namespace decides what is seen here


def veth_name(engine_id: str, endpoint_id: str) -> str:
    """Give the name of the host's side of an endpoint's veth pair: 15 bytes."""
    return f"sv-{engine_id[:4]}-{endpoint_id[:7]}"


def marks(engine_id: str) -> Marks:
    """Give the marks of the engine's bridge driver."""
    return Marks(engine_id, "bridge")


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
    bridge = netlink.link_index(veth.bridge)
    with Netlink() as kernel:
        found = kernel.link(veth.name)
        if found is not None and (found.alias != veth.mark or found.carrier):
            raise Conflict(f"make link {veth.name}: there is one, of {found.alias or 'somebody else'}")
        if found is not None and found.master == bridge:
            return
        if found is not None:
            kernel.discard(found.index)  # its bridge was removed and made again
        try:
            kernel.run(
                netlink.add_veth(veth.name, peer=interface, netns=netns, master=bridge, mac=mac, mtu=veth.mtu),
                _port(veth.name, icc=veth.icc, alias=veth.mark),
            )
        except BaseException:
            kernel.discard(veth.name)
            raise


def join(veth: Veth, network: Network, endpoint: Endpoint, netns: int, *, mac: str) -> None:
    """Bring a made pair up with the endpoint's addresses, and its bridge to notice. Raises `OSError` and as `configure`."""
    sandbox.configure(network, endpoint, netns, mac=mac)
    with Netlink() as kernel:
        kernel.run(netlink.settle_link(veth.name), netlink.settle_link(veth.bridge))


def rejoin(veth: Veth) -> bool:
    """Put an endpoint's link back into its bridge, as after the bridge was made again; say whether it was not there.

    Raises `OSError`.
    """
    bridge = netlink.link_index(veth.bridge)
    with Netlink() as kernel:
        found = kernel.link(veth.name)
        if found is None or found.alias != veth.mark or (found.up and found.master == bridge):
            return False
        kernel.run(
            netlink.set_link(found.index, up=True, master=bridge),
            _port(found.index, icc=veth.icc),
            netlink.settle_link(found.index),
            netlink.settle_link(bridge),
        )
    return True


def shut(veth: Veth) -> bool:
    """Let nothing pass an endpoint's link any more; say whether it is still there. Raises `OSError`."""
    try:
        index = netlink.link_index(veth.name)  # waits for no lock, as netlink would if the sandbox is being taken apart
        with Netlink() as kernel:
            found = kernel.link(veth.name)
            if found is None or found.alias != veth.mark:
                return False
            kernel.run(netlink.shut_port(index))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


def delete_veth(veth: Veth) -> None:
    """Delete an endpoint's link, if it is that. Idempotent. Raises `OSError`."""
    with Netlink() as kernel:
        found = kernel.link(veth.name)
        if found is not None and found.alias == veth.mark:
            kernel.discard(found.index)


def _port(link: str | int, *, icc: bool, alias: str = "") -> Request:
    return netlink.set_link(link, alias=alias, hairpin=True, isolated=not icc and not _bridge_netfilter())


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
