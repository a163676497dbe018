"""Networks over several machines: Ethernet between them in UDP packets (VXLAN, RFC 7348).

On each machine a network is a bridge and a tunnel, an endpoint a veth pair. The host and the world outside are not in it, and
no port is published: for those a container joins a bridge network too. The kernel holds the whole state; `open` reads it
back, and makes what is missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

from sampan.api import sandbox
from sampan.api.driver import Probe
from sampan.api.errors import Conflict, SampanError, System, Unavailable, Unsupported
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
from sampan.linux import netlink
from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.netlink import Link, Netlink
from sampan.linux.nftables import LibraryMissing, NftError
from sampan.linux.vxlan import add_vxlan
from sampan_network_vxlan import links, obstacles, options
from sampan_network_vxlan.guard import Guard
from sampan_network_vxlan.options import Options

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig
    from sampan_network_vxlan.config import VxlanConfig

log = logging.getLogger(__name__)

_IPV6 = Path("/proc/sys/net/ipv6")


class VxlanDriver(NetworkDriver):
    """Works in the network namespace of the threads that call it, which is where the tunnels' packets leave."""

    name = "vxlan"

    def __init__(self, context: NetworkContext, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        super().__init__(context, config)
        self._settings = cast("VxlanConfig", config)
        self._marks = Marks(context.engine_id, self.name)
        self._guard: Guard | None = None
        self._making = Lock()

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of `[network.vxlan]`."""
        from sampan_network_vxlan.config import VxlanConfig

        return VxlanConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Make a bridge, a tunnel and a table in a network namespace that goes away at once."""
        try:
            netns = new_netns()
            try:
                call_in_netns(netns, _try_everything)
            finally:
                os.close(netns)
        except LibraryMissing as error:
            return Probe(False, f"{error}; to have it: apt-get install libnftables1")
        except (OSError, NftError) as error:
            remedy = "to have them: modprobe -a vxlan bridge nf_tables"
            return Probe(False, f"this host cannot have VXLAN tunnels behind a guard: {error}; {remedy}")
        able = {NetworkCapability.MULTIPLE, NetworkCapability.ADDRESSES}
        return Probe(True, capabilities=frozenset(able | ({NetworkCapability.IPV6} if _IPV6.exists() else set())))

    # ------------------------------------------------------------------ the driver

    def open(self, networks: Sequence[Network]) -> None:
        """Renew the guard, and make what is missing of each network. One whose way out is not there yet is told and waits
        for its next endpoint.
        """
        with _translated("open network driver vxlan"):
            self.close()
            guard = Guard(self.context.engine_id, links.bridges(self.context.engine_id))
            try:
                guard.renew({network.id: self._options(network) for network in networks})
            except BaseException:
                guard.close()
                raise
            self._guard = guard
        for network in networks:
            try:
                for made in self._make(network):
                    log.info("network %s: made %s", network.name, made)
            except SampanError as error:
                log.warning("network %s is not made or mended: %s", network.name, error)

    def close(self) -> None:
        """Let go of the library; links and table stay."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    def default_network(self) -> None:
        """Give none: nobody but the user knows the other machines."""

    # ------------------------------------------------------------------ networks

    def create_network(self, network: Network) -> None:
        """Make the links, then guard the VNI: which may be another network's, until the kernel has accepted it. On an error
        nothing of it is left.
        """
        guard, given = self._need_open(), self._options(network)
        with _translated(f"create network {network.name}"):
            try:
                self._make(network)
                guard.add(network.id, given)
            except BaseException:
                self.delete_network(network)
                raise

    def delete_network(self, network: Network) -> None:
        """Delete the links, then the guard's rules."""
        guard = self._need_open()
        with _translated(f"delete network {network.name}"):
            links.delete_network(network, self._marks)
            guard.remove(network.id)

    # ------------------------------------------------------------------ endpoints

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Make the endpoint's link; first the network's, if the host had no way out for it before."""
        self._need_open()
        if endpoint.ports:
            raise _no_ports(network)
        address = endpoint.ipv4 or endpoint.ipv6
        mac = endpoint.mac or (netlink.mac_of(address) if address else "")
        with _translated(f"attach endpoint {endpoint.id[:12]} to network {network.name}"):
            if not links.is_made(network, self._marks):
                self._make(network)
            mtu = links.make_endpoint(network, endpoint, netns, self._marks, mac=mac)
        return Attachment(host_interface=links.veth_name(self.context.engine_id, endpoint.id), mac=mac, mtu=mtu)

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Delete the link."""
        self._need_open()
        with _translated(f"detach endpoint {endpoint.id[:12]} from network {network.name}"):
            links.delete_endpoint(endpoint, self._marks)

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Refuse, unless there is nothing to publish."""
        if ports:
            raise _no_ports(network)
        return ()

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """Do nothing: none is published."""

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        """Look at the links on both sides, the way to the other machines, addresses, default routes and the guard."""
        with _translated(f"check endpoint {endpoint.id[:12]}"):
            return (*self._damage(network, endpoint), *sandbox.damage(network, endpoint, netns))

    def repair(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Make again what is missing of the network, and put the endpoint's link back into its bridge."""
        guard, given = self._need_open(), self._options(network)
        with _translated(f"repair endpoint {endpoint.id[:12]}"):
            mended = self._make(network)
            mended += links.repair_endpoint(network, endpoint, self._marks)
            if not guard.is_whole(network.id):
                guard.add(network.id, given)
                mended.append(f"rules of network {network.name} in table {guard.table}")
        return tuple(mended)

    def explain(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Say who is in the network, and that nobody else is; then what is damaged on the host, if anything."""
        guard, given = self._need_open(), self._options(network)
        with _translated(f"explain endpoint {endpoint.id[:12]}"):
            others = ", ".join(sorted(links.machines(network, self._marks))) or "none"
            damage = self._damage(network, endpoint)
        name = links.names(self.context.engine_id, network.id)
        return (
            f"Containers of network {network.name} on this machine reach it, and it them, by bridge {name.bridge}.",
            f"So do those on other machines ({others}), by tunnel {name.tunnel}: VNI {given.vni}, UDP port {given.port}.",
            f"Packets of this VNI from elsewhere are dropped in table inet {guard.table}.",
            "The host and the world outside do not reach it by this network, nor it them; no port is published here.",
            *(f"But {what}." for what in damage),
        )

    def obstacles(self) -> tuple[str, ...]:
        """Name the tables of others that drop what is bridged within our networks."""
        self._need_open()
        with _translated("look for firewalls that drop bridged packets"):
            return tuple(obstacles.find(links.bridges(self.context.engine_id)))

    def orphans(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Name links by their mark, and rules of networks that are not there."""
        guard = self._need_open()
        with _translated("look for orphans of vxlan networks"):
            return _named(self._marks.lost(networks, endpoints), guard, networks)

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Sweep by mark: a link without it is not ours, whatever its name."""
        guard = self._need_open()
        with _translated("sweep vxlan networks"):
            lost = self._marks.lost(networks, endpoints)
            removed = _named(lost, guard, networks)
            with Netlink() as kernel:
                for link in lost:
                    kernel.discard(link.index)
            guard.renew({network.id: self._options(network) for network in networks})
        return removed

    # ------------------------------------------------------------------ parts

    def _need_open(self) -> Guard:
        if self._guard is None:
            raise Unavailable("network driver vxlan is not open")
        return self._guard

    def _options(self, network: Network) -> Options:
        return options.parse(network.options, self._settings.port)

    def _damage(self, network: Network, endpoint: Endpoint) -> list[str]:
        guard, given = self._need_open(), self._options(network)
        found = links.damage(network, endpoint, given, self._marks)
        if not guard.is_whole(network.id):
            found.append(f"rules of network {network.name} are missing in table {guard.table}")
        return found

    def _make(self, network: Network) -> list[str]:
        with _translated(f"make network {network.name}"), self._making:
            return links.make_network(network, self._options(network), self._marks)


def _named(lost: Sequence[Link], guard: Guard, networks: Sequence[Network]) -> tuple[str, ...]:
    unknown = guard.kept() - {network.id for network in networks}
    return (
        *(f"link {link.name} ({link.alias})" for link in lost),
        *(f"rules of network {network_id[:12]} in table inet {guard.table}" for network_id in sorted(unknown)),
    )


def _no_ports(network: Network) -> SampanError:
    return Unsupported(
        f"publish ports in network {network.name}: driver vxlan publishes none",
        remedy="let the container join a bridge network as well, and publish them there",
    )


def _try_everything() -> None:
    with Netlink() as kernel:
        kernel.run(netlink.add_bridge("probe"), add_vxlan("tunnel", vni=1, local="0.0.0.0"))
    guard = Guard("probe", links.bridges("probe"))
    try:
        guard.renew({"probe": options.parse({options.VNI: "1", options.REMOTES: "192.0.2.1"}, 4789)})
    finally:
        guard.close()


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    """The boundary where the kernel's and the library's errors become the contract's."""
    try:
        yield
    except SampanError:
        raise
    except LibraryMissing as error:
        raise Unavailable(f"{operation}: {error}", remedy="apt-get install libnftables1") from error
    except FileExistsError as error:
        raise Conflict(
            f"{operation}: {error.strerror}", remedy="something of this name or address is there already"
        ) from error
    except OSError as error:
        raise System(f"{operation}: {error.strerror or error}") from error
    except NftError as error:
        raise System(f"{operation}: nftables: {error}") from error
