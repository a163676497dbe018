"""Networks of containers alone: each is a bridge without an address, so neither the host nor the world is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sampan.api import sandbox
from sampan.api.driver import Probe
from sampan.api.errors import Conflict, System, Unsupported
from sampan.api.marks import Marks

from sampan.api.network import Attachment, Endpoint, Network, NetworkCapability, NetworkContext, NetworkDriver, PortMapping  # isort: skip
from sampan.linux import netlink
from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.netlink import Netlink
from sampan.linux.sysctl import set_sysctl


class ExampleDriver(NetworkDriver):
    """Keeps nothing in memory: what is there the kernel knows, and whose it is say the links' marks."""

    name = "example"

    def __init__(self, context: NetworkContext, config) -> None:
        super().__init__(context, config)
        self._marks = Marks(context.engine_id, self.name)

    @classmethod
    def probe(cls, root: Path) -> Probe:
        try:
            _try_a_bridge()
        except OSError as error:
            return Probe(False, f"this host cannot have bridges: {error}")
        return Probe(True, capabilities=frozenset({NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE}))

    def open(self, networks: Sequence[Network]) -> None:
        for network in networks:
            self.create_network(network)

    def close(self) -> None:
        """Nothing is held."""

    def default_network(self) -> None:
        """There is none."""

    def create_network(self, network: Network) -> None:
        with _translated(f"create network {network.name}"):
            self._make(network)

    def delete_network(self, network: Network) -> None:
        with _translated(f"delete network {network.name}"):
            _delete(self._bridge(network), self._marks.network(network.id))

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        bridge, link = self._bridge(network), self._link(endpoint)
        mac = endpoint.mac or netlink.mac_of(str(endpoint.ipv4))
        with _translated(f"attach endpoint {endpoint.id[:12]} to network {network.name}"), Netlink() as kernel:
            new = netlink.add_veth(link, peer=endpoint.interface, netns=netns, master=netlink.link_index(bridge), mac=mac, mtu=1500)
            kernel.run(new, netlink.set_link(link, alias=self._marks.endpoint(endpoint.id)))  # one send: no kill comes between
            try:
                sandbox.configure(network, endpoint, netns)
                kernel.run(netlink.settle_link(link), netlink.settle_link(bridge))
            except BaseException:
                kernel.discard(link)
                raise
        return Attachment(link, mac, 1500)

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        with _translated(f"detach endpoint {endpoint.id[:12]}"):
            _delete(self._link(endpoint), self._marks.endpoint(endpoint.id))

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        raise Unsupported(f"publish ports in network {network.name}: the host is not in it", remedy="join a bridge network as well")

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """No port was published."""

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        with _translated(f"check endpoint {endpoint.id[:12]}"), Netlink() as kernel:
            bridge, link = kernel.link(self._bridge(network)), kernel.link(self._link(endpoint))
        damage = []
        if bridge is None or not bridge.up:
            damage.append(f"bridge {self._bridge(network)} is not up")
        if link is None or not link.up or (bridge is not None and link.master != bridge.index):
            damage.append(f"link {self._link(endpoint)} is not up in its bridge")
        return (*damage, *sandbox.damage(network, endpoint, netns))

    def repair(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        with _translated(f"repair endpoint {endpoint.id[:12]}"), Netlink() as kernel:
            mended = self._make(network)
            bridge, link = netlink.link_index(self._bridge(network)), kernel.link(self._link(endpoint))
            if link is not None and (not link.up or link.master != bridge):
                kernel.run(netlink.set_link(link.index, up=True, master=bridge), netlink.settle_link(link.index))
                mended.append(f"link {link.name}")
        return tuple(mended)

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        with _translated("sweep example networks"), Netlink() as kernel:
            lost = self._marks.lost(networks, endpoints)
            for link in lost:
                kernel.discard(link.index)
        return tuple(f"link {link.name}" for link in lost)

    def _bridge(self, network: Network) -> str:
        return f"xb-{network.id[:12]}"

    def _link(self, endpoint: Endpoint) -> str:
        return f"xl-{endpoint.id[:12]}"

    def _make(self, network: Network) -> list[str]:
        """Make the bridge, or bring it up, and say so."""
        name, mark = self._bridge(network), self._marks.network(network.id)
        with Netlink() as kernel:
            found = kernel.link(name)
            if found is not None and found.alias != mark:
                raise Conflict(f"make bridge {name}: a link of this name exists", remedy=f"ip link delete {name}")
            if found is not None and found.up:
                return []
            if found is None:
                kernel.run(netlink.add_bridge(name), netlink.set_link(name, alias=mark))
            if Path("/proc/sys/net/ipv6").exists():
                set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")  # or the host would be in it, by a link-local address
            kernel.run(netlink.set_link(name, up=True))
        return [f"bridge {name}"]


def _delete(name: str, mark: str) -> None:
    with Netlink() as kernel:
        found = kernel.link(name)
        if found is not None and found.alias == mark:
            kernel.discard(found.index)


def _try_a_bridge() -> None:
    def make() -> None:
        with Netlink() as kernel:
            kernel.run(netlink.add_bridge("probe"))

    netns = new_netns()
    try:
        call_in_netns(netns, make)
    finally:
        os.close(netns)


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise Conflict(f"{operation}: {error.strerror}", remedy="choose another interface or address") from error
    except OSError as error:
        raise System(f"{operation}: {error.strerror or error}") from error
