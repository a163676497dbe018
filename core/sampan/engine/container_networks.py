"""Which networks a container is to be in: checked at create and connect, in Docker's words, and kept in its record."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from sampan.api.errors import InvalidArgument
from sampan.api.network import NetworkCapability
from sampan.api.sysctls import interface_sysctls
from sampan.api.types import ContainerConfig, EndpointIpamConfig, EndpointSettings, HostConfig
from sampan.engine import gateways, interfaces
from sampan.engine.networks import Networks
from sampan.engine.records import ContainerRecord, NetworkRecord

DRIVER_MODE = "sampan-driver:"
"""A network mode of ours: the default network of a driver, made on first use."""

CONTAINER_MODE = "container:"

_MAC = re.compile(r"(?!00(:00){5})[0-9a-f][02468ace](:[0-9a-f]{2}){5}\Z")
"""A hardware address of one station: no group's (the first byte's lowest bit), not all zeros."""

_ALONE = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)


def check_modes(config: ContainerConfig, host: HostConfig) -> list[str]:
    """Refuse options that a network mode leaves no room for; give warnings. Raises `InvalidArgument`."""
    mode = host.network_mode
    if mode.startswith(CONTAINER_MODE):
        _check_shared(config, host)
    if mode != "host":
        return []
    if host.links:
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
        )
    published = host.port_bindings or host.publish_all_ports
    return ["Published ports are discarded when using host network mode"] if published else []


def _check_shared(config: ContainerConfig, host: HostConfig) -> None:
    if host.network_mode == CONTAINER_MODE:
        raise InvalidArgument("invalid network mode: invalid container format container:<name|id>")
    conflicts = (
        (config.hostname, "hostname and the network mode"),
        (host.links, "container type network can't be used with links. This would result in undefined behavior"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (config.exposed_ports, "port exposing and the container type network mode"),
    )
    for given, what in conflicts:
        if given:
            raise InvalidArgument(f"conflicting options: {what}")


async def settle(record: ContainerRecord, networks: Networks, container: Callable[[str], ContainerRecord]) -> None:
    """Make the networks of a new record explicit: by name, that of its network mode first, each one's settings checked.

    Raises `InvalidArgument`, `NotFound` for a network or a container that is not there.
    """
    host, config = record.host, record.config
    asked, record.networks = record.networks, {}
    if host.network_mode.startswith(CONTAINER_MODE):
        other = container(host.network_mode.removeprefix(CONTAINER_MODE))
        if asked:
            raise InvalidArgument(_ALONE)
        host.network_mode = f"{CONTAINER_MODE}{other.id}"
        config.hostname, config.domainname = other.config.hostname, other.config.domainname
        return
    if host.network_mode.startswith(DRIVER_MODE):
        network = await networks.default_of(host.network_mode.removeprefix(DRIVER_MODE))
        host.network_mode = network.name
    mode = plain_mode(host.network_mode)
    asked = {mode if name.startswith(DRIVER_MODE) else plain_mode(name): item for name, item in asked.items()}
    asked = asked or {mode: EndpointSettings()}
    first = await networks.named(mode)
    if host.network_mode not in ("", "default", first.name, first.id):
        host.network_mode = first.id
    joined = {(await networks.named(name)).name: settings for name, settings in asked.items()}
    _give_mac(config, joined, first.name)
    for name in sorted(joined, key=lambda name: name != first.name):
        add(record, networks.resolve(name), joined[name])


async def discarded_ports(record: ContainerRecord, networks: Networks) -> list[str]:
    """Warn of published ports that no network of a new container can publish, as it is asked for now."""
    host = record.host
    if not (host.port_bindings or host.publish_all_ports) or not record.networks or "host" in record.networks:
        return []
    joined = [(networks.resolve(name), asked) for name, asked in record.networks.items()]
    publisher = networks.find(gateways.publisher([gateways.candidate(item, asked.gw_priority) for item, asked in joined]))
    if publisher is None:
        return [f"Published ports are discarded: the container leads out by no network ({', '.join(record.networks)})"]
    if NetworkCapability.PUBLISH not in (await networks.driver_of(publisher)).capabilities:
        return [f"Published ports are discarded: driver {publisher.driver} of network {publisher.name} publishes none"]
    return []


def _give_mac(config: ContainerConfig, joined: Mapping[str, EndpointSettings], name: str) -> None:
    """Move the container's MAC address to the network of its mode, where it belongs since API 1.44."""
    settings = joined.get(name)
    if not config.mac_address or settings is None:
        return
    if settings.mac_address not in ("", config.mac_address):
        raise InvalidArgument(
            "conflicting MAC-Address options: the container-wide MAC address must match the endpoint-specific"
            " MAC address for the main network, or be left empty"
        )
    settings.mac_address = config.mac_address


def plain_mode(mode: str) -> str:
    """Give the name or id of the network that a mode stands for."""
    return "bridge" if mode in ("", "default") else mode


def add(record: ContainerRecord, network: NetworkRecord, settings: EndpointSettings) -> None:
    """Have a container be in one more network. Raises `InvalidArgument` if it can't be, or for its settings."""
    if record.host.network_mode.startswith(CONTAINER_MODE):
        raise InvalidArgument(_ALONE)
    if network.name == "host" and record.host.network_mode != "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    others = set(record.networks) - {network.name}
    if "host" in others or (others and network.name == "host"):
        raise InvalidArgument(_ALONE)
    if "none" in others or (others and network.name == "none"):
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
    if faults := _faults(network, settings):
        raise InvalidArgument(
            f"invalid config for network {network.name}: invalid endpoint settings:\n" + "\n".join(faults)
        )
    record.networks[network.name] = settings


def _faults(network: NetworkRecord, settings: EndpointSettings) -> list[str]:
    """Name what is wrong with an endpoint's settings; bring its addresses to their usual form."""
    faults = []
    ipam = settings.ipam_config or EndpointIpamConfig()
    if network.is_default:
        if ipam.ipv4_address or ipam.ipv6_address:
            faults.append("user-specified IP address is supported on user-defined networks only")
        if settings.aliases:
            faults.append("network-scoped aliases are only supported for user-defined networks")
    for version, text in ((4, ipam.ipv4_address), (6, ipam.ipv6_address)):
        if not text:
            continue
        if (address := _address(text)) is None or address.version != version:
            faults.append(f"invalid IPv{version} address: {text}")
        elif not network.is_default and not _inside(network, address):
            faults.append(f"no configured subnet contains IP address {text}")
    faults += [f"invalid link-local IP address: {text}" for text in ipam.link_local_ips if _address(text) is None]
    settings.mac_address = settings.mac_address.lower().replace("-", ":")
    if settings.mac_address and not _MAC.match(settings.mac_address):
        faults.append(f"invalid MAC address: {settings.mac_address}")
    faults += [f"invalid alias: {text!r}" for text in settings.aliases if not text or not text.isprintable() or " " in text]
    faults += [f"invalid link: {text!r}" for text in settings.links if not parse_link(text)[0]]
    try:
        interfaces.choose(network.options, settings.driver_opts, ())
        interface_sysctls(settings.driver_opts, "IFNAME")
    except InvalidArgument as error:
        faults.append(str(error))
    return faults


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    scoped = isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped)
    return None if scoped or address.is_unspecified else address


def _inside(network: NetworkRecord, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in ipaddress.ip_network(prefix) for prefix, _ in network.subnets)


def parse_link(text: str) -> tuple[str, str]:
    """Give container and alias of a link: `NAME`, `NAME:ALIAS`, or `/NAME:/PARENT/ALIAS` as inspect shows it."""
    name, _, alias = text.partition(":")
    name = name.removeprefix("/")
    return name, alias.rpartition("/")[2] or name
