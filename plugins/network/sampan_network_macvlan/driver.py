"""Networks of containers that stand on the wire themselves, each with a hardware address and an IP address of its own there.

A network is a parent, a link of the host; an endpoint is a macvlan link on it. Packets go from the sandbox to the wire past the
host's routing, rules and addresses: there is no address translation, and a container needs no published ports.
Nothing is remembered but which networks there are. Sources: `ip-link(8)`, `drivers/net/macvlan.c`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sampan.api import sandbox
from sampan.api.driver import Probe
from sampan.api.errors import Conflict, InvalidArgument, SampanError, System, Unsupported
from sampan.api.marks import Marks
from sampan.api.network import (
    Attachment,
    Endpoint,
    Network,
    NetworkCapability,
    NetworkContext,
    NetworkDriver,
    PortMapping,
)  # fmt: skip
from sampan.linux import netlink, uppers
from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.netlink import Link, Netlink
from sampan_network_macvlan import links, options, parents
from sampan_network_macvlan.options import Options

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig

log = logging.getLogger(__name__)

_IPV6 = Path("/proc/sys/net/ipv6")


class MacvlanDriver(NetworkDriver):
    """Containers as machines of the parent's network. Works in the network namespace of the threads that call it."""

    name = "macvlan"

    def __init__(self, context: NetworkContext, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        super().__init__(context, config)
        self._marks = Marks(context.engine_id, self.name)
        self._networks: dict[str, Network] = {}
        self._lock = Lock()

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Make a parent and a link on it in a network namespace that goes away at once."""
        try:
            netns = new_netns()
            try:
                call_in_netns(netns, _try_a_link)
            finally:
                os.close(netns)
        except OSError as error:
            remedy = "to have them: modprobe macvlan, or a kernel with CONFIG_MACVLAN"
            return Probe(False, f"this host cannot have macvlan links: {error}; {remedy}")
        able = {NetworkCapability.MULTIPLE, NetworkCapability.ADDRESSES}
        return Probe(True, capabilities=frozenset(able | ({NetworkCapability.IPV6} if _IPV6.exists() else set())))

    # ------------------------------------------------------------------ the driver

    def open(self, networks: Sequence[Network]) -> None:
        """Make the parents that are missing and ours to make. A network whose parent is not there waits for it."""
        with self._lock:
            self._networks = {network.id: network for network in networks}
        for network in networks:
            try:
                with _translated(f"open network {network.name}"):
                    parents.ensure(network, self._marks)
            except SampanError as error:
                log.warning("%s; its containers cannot start until then", error)

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def default_network(self) -> None:
        """Give none: which parent, and which of its addresses are free, only the user knows."""

    # ------------------------------------------------------------------ networks

    def create_network(self, network: Network) -> None:
        """Find or make the parent, and try whether it carries such links. On an error nothing is left."""
        given = options.parse(network.options)
        with self._lock, _translated(f"create network {network.name}", given):
            others = list(self._networks.values())
            parents.reject_contradictions(network, others, self._marks)
            parent = parents.ensure(network, self._marks)
            try:
                _refuse_mtu(network, given, parent)
                links.rehearse(parent, given, self._marks)
            except BaseException:
                parents.remove(network, others, self._marks)
                raise
            self._networks[network.id] = network

    def delete_network(self, network: Network) -> None:
        """Forget it; delete its parent if that was made here and no other network stands on it."""
        with self._lock, _translated(f"delete network {network.name}"):
            self._networks.pop(network.id, None)
            parents.remove(network, self._networks.values(), self._marks)

    # ------------------------------------------------------------------ endpoints

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Make the link in the sandbox. Ports asked for are discarded, as Docker does: every port is reached as it is."""
        given = options.parse(network.options)
        with _translated(f"attach endpoint {endpoint.id[:12]} to network {network.name}", given):
            with self._lock:
                parent = parents.ensure(network, self._marks)
            mac = links.make(network, endpoint, netns, parent, given, self._marks)
        return Attachment(mac=mac, mtu=given.mtu or parent.mtu)

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Delete the link, in whichever sandbox it is."""
        with _translated(f"detach endpoint {endpoint.id[:12]} from network {network.name}"):
            links.delete(endpoint, self._marks)

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Refuse: packets to the host do not pass by the container's link."""
        raise Unsupported(
            f"publish a port in network {network.name}: a macvlan network has no ports of the host",
            remedy="use the container's own address, or join a bridge network as well",
        )

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """Do nothing: no port was published."""

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        """Look at the parent, and at the link: where it stands, its mode, its name, addresses and routes."""
        given = options.parse(network.options)
        with _translated(f"check endpoint {endpoint.id[:12]}"):
            parent = parents.find(network, self._marks)
            damage = _damage_of(parents.name_of(network, self._marks), parent)
            damage += links.damage(endpoint, netns, parent, given, self._marks)
            damage += sandbox.damage(network, endpoint, netns)
        return tuple(damage)

    def explain(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Say what the mode lets through, and that nothing else stands in the way."""
        given = options.parse(network.options)
        addresses = " and ".join(address.partition("/")[0] for address in endpoint.addresses) or "no address"
        said = [_WITHIN[given.mode]]
        if given.parent:
            said += [
                f"Whoever is on the wire of {given.parent} reaches {addresses} at every port, by no rule of this host;"
                " published ports are not needed, and there are none.",
                "The host itself does not reach it, nor is reached: the kernel keeps a macvlan link from its parent's own"
                " addresses.",
            ]
        else:
            said.append(f"Nobody outside of the network reaches {addresses}, the host neither, and it reaches nobody outside.")
        return tuple(said)

    def obstacles(self) -> tuple[str, ...]:
        """Name the parents that carry no packets."""
        with self._lock:
            networks = list(self._networks.values())
        with _translated("look at the parents of macvlan networks"):
            found = [(network, parents.find(network, self._marks)) for network in networks]
        told = []
        for network, parent in found:
            for problem in _damage_of(name := parents.name_of(network, self._marks), parent):
                told.append(f"network {network.name}: {problem}; to mend it: ip link set {name} up" if parent else
                            f"network {network.name}: {problem}; make it, or remove the network")  # fmt: skip
        return tuple(told)

    def orphans(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Name links in sandboxes that live on, and parents."""
        with _translated("look for orphans of macvlan networks"):
            lost, unused = links.orphans(endpoints, self._marks), parents.orphans(networks, self._marks)
        return (*map(str, lost), *map(_name, unused))

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Sweep links in sandboxes that live on, then parents."""
        with _translated("sweep macvlan networks"):
            lost, unused = links.orphans(endpoints, self._marks), parents.orphans(networks, self._marks)
            for orphan in lost:
                links.delete_orphan(orphan)
            with Netlink() as kernel:
                for link in unused:
                    kernel.discard(link.index)
        with self._lock:
            self._networks = {network.id: network for network in networks}
        return (*map(str, lost), *map(_name, unused))


_WITHIN = {
    "bridge": "Containers on the same parent reach each other directly (mode bridge).",
    "private": "Containers on the same parent never reach each other (mode private), even if the switch sends packets back.",
    "vepa": "Containers on the same parent reach each other only through a switch that sends packets back (mode vepa).",
    "passthru": "The container has the parent and its hardware address to itself (mode passthru).",
}


def _refuse_mtu(network: Network, given: Options, parent: Link) -> None:
    if given.mtu > parent.mtu:
        raise InvalidArgument(
            f"create network {network.name}: an MTU of {given.mtu} is more than parent {parent.name} has ({parent.mtu})",
            remedy=f"ask for {parent.mtu} or less, or raise the parent's: ip link set {parent.name} mtu {given.mtu}",
        )


def _name(link: Link) -> str:
    return f"link {link.name} ({link.alias})"


def _damage_of(name: str, parent: Link | None) -> list[str]:
    if parent is None:
        return [f"parent {name} is missing"]
    return [] if parent.up else [f"parent {name} is down"]


def _try_a_link() -> None:
    with Netlink() as kernel:
        kernel.run(netlink.add_bridge("parent"), netlink.set_link("parent", up=True))
        kernel.run(uppers.add_macvlan("child", lower=netlink.link_index("parent")), uppers.add_altname("child", "a-second-name"))


@contextmanager
def _translated(operation: str, given: Options | None = None) -> Iterator[None]:
    """Turn the kernel's refusals into errors that say what to do. `given`: the options of the link that was asked for."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise Conflict(f"{operation}: {error.strerror}", remedy="choose another interface") from error
        if given is not None and error.errno == errno.EBUSY:
            raise Conflict(
                f"{operation}: parent {given.parent} carries other links than macvlan, or is a port of a bridge or bond",
                remedy="name the bridge or bond itself as parent",
            ) from error
        if given is not None and error.errno == errno.EINVAL:
            raise Conflict(
                f"{operation}: parent {given.parent or 'of the network'} takes no more links in mode {given.mode}:"
                " in passthru it carries one and no other",
                remedy="name another parent, or detach what stands on it",
            ) from error
        if given is not None and given.vlan is not None and error.errno == errno.EOPNOTSUPP:
            raise Unsupported(
                f"{operation}: make VLAN link {given.parent}: this kernel has no 802.1Q",
                remedy="modprobe 8021q, or use a kernel with CONFIG_VLAN_8021Q",
            ) from error
        raise System(f"{operation}: {error.strerror or error}") from error
