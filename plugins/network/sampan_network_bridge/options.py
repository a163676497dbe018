"""A network's options (`network create -o`), by Docker's names; names that are not the bridge driver's are ignored."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument
from sampan.api.network import Network
from sampan.linux.netlink import is_link_name

NAME = "com.docker.network.bridge.name"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
TRUSTED = "com.docker.network.bridge.trusted_host_interfaces"
GATEWAY_MODES = {4: "com.docker.network.bridge.gateway_mode_ipv4", 6: "com.docker.network.bridge.gateway_mode_ipv6"}
SOURCES = {4: "com.docker.network.host_ipv4", 6: "com.docker.network.host_ipv6"}
MTU = "com.docker.network.driver.mtu"

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_LEAST_MTU_OF_IPV6 = 1280  # RFC 8200, section 5: below it the kernel turns IPv6 off on the link


class GatewayMode(enum.StrEnum):
    """What stands between a network and the world outside, for one IP version."""

    NAT = "nat"
    """Packets leave with the host's address; in come published ports."""
    NAT_UNPROTECTED = "nat-unprotected"
    """The same, and every port is reached by who has a route to the container's address."""
    ROUTED = "routed"
    """Packets leave with the container's address; published ports and pings are reached at it, none at the host's."""
    ISOLATED = "isolated"
    """The host has no address in the (internal) network."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options as values. `bridge_name` "" leaves the choice to the driver, `mtu` 0 too; `host_binding` "" is any.

    `source4`, `source6`: the address that packets leave with where they are translated, "" for that of the link they leave
    by. `trusted`: host links from which published ports are reached at the container's address.
    """

    bridge_name: str = ""
    icc: bool = True
    masquerade: bool = True
    host_binding: str = ""
    mtu: int = 0
    inhibit_ipv4: bool = False
    mode4: GatewayMode = GatewayMode.NAT
    mode6: GatewayMode = GatewayMode.NAT
    source4: str = ""
    source6: str = ""
    trusted: tuple[str, ...] = ()

    def mode(self, version: int) -> GatewayMode:
        """Give the gateway mode of an IP version."""
        return self.mode4 if version == 4 else self.mode6

    def has_doors(self, version: int) -> bool:
        """Say whether published ports are reached at the container's own address, by somebody at least."""
        mode = self.mode(version)
        return mode is GatewayMode.ROUTED or (mode is GatewayMode.NAT and bool(self.trusted))

    def source(self, version: int) -> str:
        """Give the source address of an IP version."""
        return self.source4 if version == 4 else self.source6


def parse(options: Mapping[str, str]) -> Options:
    """Read the options. Raises `InvalidArgument` that names the option, the value and what it may be."""
    _boolean(options, DEFAULT_BRIDGE, default="false")  # says what the network is; changes nothing
    return Options(
        bridge_name=_link_name(options),
        icc=_boolean(options, ICC),
        masquerade=_boolean(options, MASQUERADE),
        host_binding=_host_binding(options),
        mtu=_mtu(options),
        inhibit_ipv4=_boolean(options, INHIBIT_IPV4, default="false"),
        mode4=_mode(options, 4),
        mode6=_mode(options, 6),
        source4=_source(options, 4),
        source6=_source(options, 6),
        trusted=_trusted(options),
    )


def has_gateway(network: Network, version: int) -> bool:
    """Say no for a network where the host has no address and nothing leads out. Raises `InvalidArgument`."""
    given = parse(network.options)
    if given.mode(version) is GatewayMode.ISOLATED:
        return False
    return not (version == 4 and given.inhibit_ipv4 and network.internal)


def check(network: Network) -> None:
    """Refuse options that are wrong by themselves or for this network. Raises `InvalidArgument`."""
    given = parse(network.options)
    for version, key in GATEWAY_MODES.items():
        if given.mode(version) is GatewayMode.ISOLATED and not network.internal:
            raise InvalidArgument(
                f"create network {network.name}: gateway mode 'isolated' can only be used for an internal network",
                remedy=f"add --internal, or another {key}",
            )
    if 0 < given.mtu < _LEAST_MTU_OF_IPV6 and any(subnet.version == 6 for subnet in network.subnets):
        raise InvalidArgument(
            f"create network {network.name}: with {MTU}={given.mtu} there can be no IPv6",
            remedy=f"{_LEAST_MTU_OF_IPV6} bytes at least, or no IPv6 subnet",
        )


def _boolean(options: Mapping[str, str], key: str, *, default: str = "true") -> bool:
    value = options.get(key, default)
    if value not in _TRUE | _FALSE:
        raise InvalidArgument(f"network option {key}={value!r} is not a truth value", remedy="say true or false")
    return value in _TRUE


def _link_name(options: Mapping[str, str]) -> str:
    value = options.get(NAME, "")
    return _valid_link_name(NAME, value) if value else ""


def _trusted(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(_valid_link_name(TRUSTED, name) for name in options.get(TRUSTED, "").split(":") if name)


def _valid_link_name(key: str, value: str) -> str:
    if not is_link_name(value):
        raise InvalidArgument(
            f"network option {key}={value!r} is no link name", remedy="1 to 15 ASCII letters without space or / : * % \\ \""
        )
    return value


def _host_binding(options: Mapping[str, str]) -> str:
    value = options.get(HOST_BINDING, "")
    try:
        address = str(ipaddress.ip_address(value or "0.0.0.0"))
    except ValueError as error:
        raise InvalidArgument(f"network option {HOST_BINDING}={value!r} is no IP address") from error
    if "%" in address:
        raise InvalidArgument(f"network option {HOST_BINDING}={value!r} has a zone", remedy="name an address of this host without it")
    return "" if address == "0.0.0.0" else address  # of both versions, as without it


def _mode(options: Mapping[str, str], version: int) -> GatewayMode:
    key = GATEWAY_MODES[version]
    value = options.get(key, GatewayMode.NAT.value)
    try:
        return GatewayMode(value)
    except ValueError as error:
        raise InvalidArgument(
            f"network option {key}={value!r} is no gateway mode", remedy=f"one of {', '.join(GatewayMode)}"
        ) from error


def _source(options: Mapping[str, str], version: int) -> str:
    key = SOURCES[version]
    value = options.get(key)
    if value is None:
        return ""
    try:
        address = ipaddress.ip_address(value)
    except ValueError as error:
        raise InvalidArgument(f"network option {key}={value!r} is no IPv{version} address") from error
    if address.version != version or address.is_unspecified or "%" in value:
        raise InvalidArgument(f"network option {key}={value!r} is no IPv{version} address of a host")
    return str(address)


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(MTU, "0")
    if not (value.isdecimal() and len(value) < 10) or not (int(value) == 0 or 68 <= int(value) <= 65535):
        raise InvalidArgument(f"network option {MTU}={value!r} is no MTU", remedy="a number of bytes from 68 to 65535")
    return int(value)
