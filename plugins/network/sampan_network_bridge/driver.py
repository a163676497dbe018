"""Networks of containers behind a Linux bridge, with address translation and published ports.

A network is a bridge and some elements of sets; an endpoint is a veth pair and some elements of maps. All
rules are in one nftables table of this engine. The kernel holds the whole state: `open` reads it back, and
changes only what differs.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

from sampan.api import sandbox
from sampan.api.driver import Probe
from sampan.api.errors import Conflict, InvalidArgument, SampanError, System, Unavailable
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
from sampan.linux.conntrack import Flows
from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.netlink import Link, Netlink
from sampan.linux.nftables import LibraryMissing, NftError
from sampan_network_bridge import bindings, docker_user, explain, links, obstacles, options
from sampan_network_bridge.firewall import Firewall
from sampan_network_bridge.networks import Networks, Plan
from sampan_network_bridge.options import Options
from sampan_network_bridge.ports import Ports
from sampan_network_bridge.reaper import Reaper

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig
    from sampan_network_bridge.config import BridgeConfig


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What `open` gives the other methods."""

    firewall: Firewall
    networks: Networks
    ports: Ports
    reaper: Reaper
    flows: Flows


class BridgeDriver(NetworkDriver):
    """The default driver. Works in the network namespace of the threads that call it."""

    name = "bridge"

    def __init__(self, context: NetworkContext, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        super().__init__(context, config)
        self._settings = cast("BridgeConfig", config)
        self._opened: _Opened | None = None
        self._docker_user = Lock()

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of `[network.bridge]`."""
        from sampan_network_bridge.config import BridgeConfig

        return BridgeConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Make a bridge and a table in a network namespace that goes away at once."""
        try:
            netns = new_netns()
            try:
                call_in_netns(netns, _try_everything)
            finally:
                os.close(netns)
        except LibraryMissing as error:
            return Probe(False, f"{error}; to have it: apt-get install libnftables1")
        except (OSError, NftError) as error:
            return Probe(False, f"this host cannot have bridges with address translation: {error}")
        return Probe(True, capabilities=frozenset(NetworkCapability))

    # ------------------------------------------------------------------ the driver

    def open(self, networks: Sequence[Network]) -> None:
        """Renew the rules, compare sets and bridges with `networks` and mend by difference; ports stay as
        they are.
        """
        with _translated("open network driver bridge"):
            self.close()
            firewall = Firewall(self.context.engine_id)
            try:
                firewall.make(self.context.proxy_port)
                ports = Ports(firewall.published(), proxy=bool(self.context.proxy_port))
                hosted = Networks(firewall, links.marks(self.context.engine_id), mtu=self._settings.mtu)
                hosted.open(networks)
                docker_user.keep(self.context.engine_id, hosted.forwarded() if self._settings.docker_user else ())
                flows = Flows()
            except BaseException:
                firewall.close()
                raise
            self._opened = _Opened(firewall, hosted, ports, Reaper(), flows)

    def close(self) -> None:
        """Let go of the library; links and table stay, but for links that are to be deleted."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.reaper.close()
            opened.firewall.close()
            opened.flows.close()

    def default_network(self) -> Network:
        """Give Docker's default network, on a bridge of our own name: docker0 is left to Docker."""
        return Network(
            id="",
            name="bridge",
            driver=self.name,
            options={
                options.DEFAULT_BRIDGE: "true",
                options.ICC: str(self._settings.icc).lower(),
                options.MASQUERADE: str(self._settings.masquerade).lower(),
                options.HOST_BINDING: "0.0.0.0",
                options.NAME: self._settings.bridge_name,
                options.MTU: str(self._settings.mtu),
            },
        )

    # ------------------------------------------------------------------ networks

    def has_gateway(self, network: Network, version: int) -> bool:
        """Say no where the host has no address and nothing leads out."""
        return options.has_gateway(network, version)

    def create_network(self, network: Network) -> None:
        """Make the bridge and the network's elements. On an error nothing of it is left."""
        opened = self._need_open()
        with _translated(f"create network {network.name}"):
            self._need_table(opened)
            opened.networks.create(network)
            self._keep_docker_user(opened)

    def delete_network(self, network: Network) -> None:
        """Remove the elements, then the bridge if it is ours."""
        opened = self._need_open()
        with _translated(f"delete network {network.name}"):
            opened.networks.delete(network)
            self._keep_docker_user(opened)

    # ------------------------------------------------------------------ endpoints

    def prepare(self, network: Network, endpoint: Endpoint, netns: int) -> None:
        """Make the veth pair, down in the sandbox: what is slow about an attach, and needs no address."""
        opened = self._need_open()
        with _translated(f"prepare a sandbox of network {network.name}"):
            links.make_veth(self._veth(opened.networks.need(network), endpoint), endpoint.interface, netns)
            sandbox.prepare(network, endpoint, netns)  # if this fails, the pair goes with the sandbox

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Reserve the ports, make the link, then publish: the first thing seen from outside is the last thing
        done.
        """
        opened = self._need_open()
        address = endpoint.ipv4 or endpoint.ipv6
        mac = endpoint.mac or (netlink.mac_of(address) if address else "")
        with _translated(f"attach endpoint {endpoint.id[:12]} to network {network.name}"):
            opened.reaper.settle()
            self._need_table(opened)
            plan = opened.networks.need(network)
            veth = self._veth(plan, endpoint)
            resolved, elements = self._reserve(opened, network, endpoint, endpoint.ports, plan.given)
            try:
                links.make_veth(veth, endpoint.interface, netns, mac=mac)
                try:
                    links.join(veth, network, endpoint, netns, mac=mac)
                    _publish(opened, elements)
                except BaseException:
                    links.delete_veth(veth)
                    raise
            except BaseException:
                opened.ports.release(elements)
                raise
        return Attachment(host_interface=veth.name, mac=mac, mtu=veth.mtu, ports=resolved)

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Take back every port that leads to the endpoint's addresses, then delete the link."""
        with _translated(f"detach endpoint {endpoint.id[:12]} from network {network.name}"):
            opened = self._need_open()
            self._withdraw(opened, opened.ports.of(*_addresses(endpoint)))
            links.delete_veth(self._veth(opened.networks.plan(network), endpoint))

    def release(self, network: Network, endpoint: Endpoint) -> None:
        """Take back the ports; the link is shut before the next `attach`, and deleted with the sandbox or after it."""
        opened = self._need_open()
        veth = self._veth(opened.networks.plan(network), endpoint)
        with _translated(f"release endpoint {endpoint.id[:12]} of network {network.name}"):
            self._withdraw(opened, opened.ports.of(*_addresses(endpoint)))
            opened.reaper.take(veth)

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Reserve the ports, then add them to the maps."""
        opened = self._need_open()
        with _translated(f"publish ports of endpoint {endpoint.id[:12]}"):
            self._need_table(opened)
            given = opened.networks.plan(network).given
            resolved, elements = self._reserve(opened, network, endpoint, ports, given)
            try:
                _publish(opened, elements)
            except BaseException:
                opened.ports.release(elements)
                raise
        return resolved

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """Take the ports from the maps; those that this endpoint does not have are no error."""
        opened = self._need_open()
        given = opened.networks.plan(network).given
        with _translated(f"unpublish ports of endpoint {endpoint.id[:12]}"):
            others = [mapping for mapping in endpoint.ports if mapping not in ports]
            asked = set(opened.ports.elements(endpoint, ports, given))
            asked -= set(opened.ports.elements(endpoint, others, given))  # one door may be theirs too
            self._withdraw(opened, [item for item in opened.ports.of(*_addresses(endpoint)) if item in asked])

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        """Look at the link on both sides, addresses, default routes and ports."""
        opened = self._need_open()
        with _translated(f"check endpoint {endpoint.id[:12]}"):
            plan = opened.networks.plan(network)
            damage = _check_host(self._veth(plan, endpoint))
            damage += sandbox.damage(network, endpoint, netns)
            live = opened.firewall.published()
            for mapping in endpoint.ports:
                if not set(opened.ports.elements(endpoint, [mapping], plan.given)) <= live:
                    damage.append(f"port {mapping.host_port}/{mapping.protocol} is not published")
            damage += opened.networks.damage(network)
        return tuple(damage)

    def orphans(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Name ports that lead to nobody, and links."""
        with _translated("look for orphans of bridge networks"):
            return _names(self._stale_ports(networks, endpoints), links.marks(self.context.engine_id).lost(networks, endpoints))

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Sweep by alias: a link without it is not ours, whatever its name."""
        opened = self._need_open()
        with _translated("sweep bridge networks"):
            ports, unused = self._stale_ports(networks, endpoints), links.marks(self.context.engine_id).lost(networks, endpoints)
            for elements in ports.values():
                self._withdraw(opened, elements)
            opened.networks.keep(networks)
            with Netlink() as kernel:
                for link in unused:
                    links.delete(kernel, link.index)
        return _names(ports, unused)

    def repair(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Make the bridge again, put the link back into it, and publish again what is missing of the ports."""
        opened = self._need_open()
        with _translated(f"repair endpoint {endpoint.id[:12]}"):
            mended = opened.networks.mend(network)
            if opened.networks.damage(network):
                opened.firewall.make(self.context.proxy_port)
                opened.networks.renew()
                mended.append(f"network {network.name} in table {opened.firewall.table}")
            veth = self._veth(opened.networks.plan(network), endpoint)
            if links.rejoin(veth):
                mended.append(f"link {veth.name} in bridge {veth.bridge}")
            return (*mended, *self._publish_again(opened, network, endpoint))

    def explain(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Say which packets reach it and which it may send, with the live table beside what should be in it."""
        opened = self._need_open()
        with _translated(f"explain endpoint {endpoint.id[:12]}"):
            plan = opened.networks.plan(network)
            veth = self._veth(plan, endpoint)
            subject = explain.Subject(
                network, endpoint, plan.given, veth.bridge, veth.name, opened.firewall.table, self.context.proxy_port,
                published=opened.ports.elements(endpoint, endpoint.ports, plan.given),
                live=opened.firewall.published(),
            )  # fmt: skip
            return tuple(explain.sentences(subject))

    def obstacles(self) -> tuple[str, ...]:
        """Name the tables of others that drop what is forwarded from or to our bridges."""
        opened = self._need_open()
        with _translated("look for firewalls that drop forwarded packets"):
            return tuple(obstacles.find(opened.networks.forwarded()))

    # ------------------------------------------------------------------ parts

    def _need_open(self) -> _Opened:
        if self._opened is None:
            raise Unavailable("network driver bridge is not open")
        return self._opened

    def _need_table(self, opened: _Opened) -> None:
        """Make the table again with all that is up, if somebody flushed the host's: without it networks are not kept apart."""
        firewall = opened.firewall
        if firewall.is_there():
            return
        log.warning("table %s is gone, as after `nft flush ruleset`: it is made again", firewall.table)
        firewall.make(self.context.proxy_port)
        opened.networks.renew()
        firewall.publish(opened.ports.of(*opened.ports.targets()))

    def _stale_ports(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> dict[str, list[bindings.Binding]]:
        """Give, by address, the published ports that no endpoint has."""
        opened, known = self._need_open(), {network.id: network for network in networks}
        wanted: set[bindings.Binding] = set()
        for endpoint in endpoints:
            if endpoint.network_id in known:
                wanted |= self._wanted_ports(opened, known[endpoint.network_id], endpoint)
        stale = {target: [item for item in opened.ports.of(target) if item not in wanted] for target in opened.ports.targets()}
        return {target: elements for target, elements in stale.items() if elements}

    @staticmethod
    def _wanted_ports(opened: _Opened, network: Network, endpoint: Endpoint) -> set[bindings.Binding]:
        """Give what should stand in the table for an endpoint; what does, where that cannot be told any more."""
        try:
            return set(opened.ports.elements(endpoint, endpoint.ports, opened.networks.plan(network).given))
        except SampanError:
            return set(opened.ports.of(*_addresses(endpoint)))

    def _keep_docker_user(self, opened: _Opened) -> None:
        if not self._settings.docker_user:
            return
        with self._docker_user:  # what is there is read, then changed
            docker_user.keep(self.context.engine_id, opened.networks.forwarded())

    def _veth(self, plan: Plan, endpoint: Endpoint) -> links.Veth:
        return links.Veth(
            name=links.veth_name(self.context.engine_id, endpoint.id),
            bridge=plan.bridge.name,
            mark=links.marks(self.context.engine_id).endpoint(endpoint.id),
            mtu=plan.bridge.mtu,
            icc=plan.given.icc,
        )

    @staticmethod
    def _reserve(
        opened: _Opened, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping], given: Options
    ) -> tuple[tuple[PortMapping, ...], list[bindings.Binding]]:
        if ports and network.internal:
            raise InvalidArgument(
                f"publish ports in network {network.name}: it is internal, nothing outside reaches it"
            )
        return opened.ports.reserve(endpoint, ports, given)

    def _publish_again(self, opened: _Opened, network: Network, endpoint: Endpoint) -> list[str]:
        """If somebody took the table away, that is renewed too."""
        wanted = opened.ports.elements(endpoint, endpoint.ports, opened.networks.plan(network).given)
        if opened.firewall.published().issuperset(wanted):
            return []
        opened.ports.restore(wanted)
        opened.firewall.make(self.context.proxy_port)
        opened.networks.renew()
        missing = set(wanted) - opened.firewall.published()
        opened.firewall.publish(missing)
        return [f"{len(missing)} published ports of {endpoint.id[:12]}"]

    @staticmethod
    def _withdraw(opened: _Opened, elements: Sequence[bindings.Binding]) -> None:
        """Maps first: a port is free only when nothing leads there any more. Then clients that are on their way by UDP."""
        opened.firewall.unpublish(elements)
        opened.ports.release(elements)
        for target in {item.target for item in elements if item.protocol == "udp"}:
            try:
                opened.flows.forget_to(target)
            except OSError as error:
                log.warning("clients of udp ports of %s may go on until they are silent for a minute: %s", target, error)


def _check_host(veth: links.Veth) -> list[str]:
    with Netlink() as kernel:
        bridge, link = kernel.link(veth.bridge), kernel.link(veth.name)
    damage = []
    if bridge is None or not bridge.up:
        damage.append(f"bridge {veth.bridge} is {'down' if bridge else 'missing'}")
    if link is None:
        damage.append(f"link {veth.name} is missing")
    elif not link.up or (bridge and link.master != bridge.index):
        damage.append(f"link {veth.name} is not up in bridge {veth.bridge}")
    return damage


def _publish(opened: _Opened, elements: Sequence[bindings.Binding]) -> None:
    """Add to the table, and have clients that sent to these ports before looked at anew: only UDP goes on without an answer."""
    opened.firewall.publish(elements)
    for family in (4, 6):
        udp = [item for item in elements if (item.family, item.protocol) == (family, "udp") and not item.is_door]
        ports = {port for item in udp for port in range(item.host_port, item.host_port + item.count)}
        try:
            opened.flows.forget_sent_to(family, socket.IPPROTO_UDP, ports)
        except OSError as error:
            log.warning("clients that sent to udp ports before may have to be silent for a minute first: %s", error)


def _addresses(endpoint: Endpoint) -> list[str]:
    return [address.partition("/")[0] for address in (endpoint.ipv4, endpoint.ipv6) if address]


def _names(ports: Mapping[str, Sequence[bindings.Binding]], unused: Sequence[Link]) -> tuple[str, ...]:
    return (
        *(f"{len(elements)} published ports of {target}" for target, elements in ports.items()),
        *(f"link {link.name} ({link.alias})" for link in unused),
    )


def _try_everything() -> None:
    with Netlink() as kernel:
        kernel.run(netlink.add_bridge("probe"), netlink.set_link("probe", up=True))
    firewall = Firewall("probe")
    try:
        firewall.make()
    finally:
        firewall.close()


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
        raise System(f"{operation}: {error.strerror or error}", remedy=_remedy(error)) from error
    except NftError as error:
        raise System(f"{operation}: nftables: {error}") from error


def _remedy(error: OSError) -> str:
    return "it needs root with CAP_NET_ADMIN" if isinstance(error, PermissionError) else ""
