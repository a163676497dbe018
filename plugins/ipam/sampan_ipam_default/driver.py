"""Subnets from pools, and the lowest free address of a subnet: the order in which Docker gives them.

Nothing is kept here: what is in use comes with every question, and the host's own routes are read anew.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sampan.api.driver import Probe
from sampan.api.errors import Conflict, InvalidArgument, System, Unavailable
from sampan.api.ipam import AddressRequest, IpamDriver, PoolRequest
from sampan.api.network import Subnet
from sampan.linux.netlink import Netlink

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig
    from sampan_ipam_default.config import DefaultIpamConfig

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class DefaultIpam(IpamDriver):
    """The default driver. `choose_subnet` looks at the routes of the calling thread's network namespace."""

    name = "default"

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of `[ipam.default]`."""
        from sampan_ipam_default.config import DefaultIpamConfig

        return DefaultIpamConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Ask the kernel for its routes."""
        try:
            _host_networks()
        except OSError as error:
            return Probe(False, f"the host's routes cannot be read: {error}")
        return Probe(True)

    def choose_subnet(self, request: PoolRequest) -> Subnet:
        """Take what was asked, or the first of the pools that overlaps neither a network nor a route of the
        host.

        What the user names may overlap a route of the host: a bridge that is kept has one itself.
        """
        taken = [_network(prefix, "network in use") for prefix in request.in_use]
        if request.prefix is None:
            network = self._free(request.version, taken)
        else:
            network = _network(request.prefix, "subnet")
            if _overlapping(network, taken):
                raise Conflict(
                    f"invalid pool request: Pool overlaps with other one on this address space ({network})",
                    remedy="name another subnet",
                )
        _check_range(request.ip_range, network)
        return Subnet(str(network), str(_gateway(request.gateway, network)))

    def choose_address(self, request: AddressRequest) -> str:
        """Take the preferred address, or the lowest free one of the range."""
        network = _network(request.subnet.prefix, "subnet")
        taken = {int(ipaddress.ip_address(address)) for address in request.in_use}
        if request.subnet.gateway is not None:
            taken.add(int(ipaddress.ip_address(request.subnet.gateway)))
        first, last = _hosts(network)
        if request.preferred is not None:
            chosen = int(_address(request.preferred, network, "preferred address"))
            if not first <= chosen <= last:
                raise InvalidArgument(f"preferred address {request.preferred} is not a host's in {network}")
            if chosen in taken:
                raise Conflict(f"Address already in use: {request.preferred}", remedy="choose another, or none")
        else:
            within = _check_range(request.ip_range, network)
            low, high = max(first, int(within[0])), min(last, int(within[-1]))
            chosen = next((number for number in range(low, high + 1) if number not in taken), -1)
            if chosen < 0:
                raise Unavailable(
                    f"no available IPv{network.version} addresses on this network's address pool {within}"
                )
        return f"{type(network.network_address)(chosen)}/{network.prefixlen}"

    def _free(self, version: int, taken: list[IPNetwork]) -> IPNetwork:
        try:
            taken = taken + _host_networks()
        except OSError as error:
            raise System(f"choose a subnet: read the host's routes: {error}") from error
        for candidate in self._candidates(version):
            if not _overlapping(candidate, taken):
                return candidate
        raise Unavailable(
            f"choose a subnet: all IPv{version} subnets of the pools overlap networks or routes of this host",
            remedy="name a subnet, or set [ipam.default] pools in config.toml",
        )

    def _candidates(self, version: int) -> Iterator[IPNetwork]:
        settings = cast("DefaultIpamConfig", self.config)
        pools = [(ipaddress.ip_network(pool.base), pool.size) for pool in settings.pools]
        pools = [pool for pool in pools if pool[0].version == version]
        if version == 6 and not pools:
            pools = [
                (
                    _network(settings.unique_local, "unique_local") if settings.unique_local else _unique_local(),
                    64,
                )
            ]
        for base, size in pools:
            yield from base.subnets(new_prefix=size)


def _host_networks() -> list[IPNetwork]:
    """Give where the host's routes lead, without default routes, which lead everywhere."""
    with Netlink() as kernel:
        found = {route.destination for route in kernel.routes()}
    networks = [ipaddress.ip_network(destination) for destination in sorted(found)]
    return [network for network in networks if network.prefixlen]


def _unique_local() -> ipaddress.IPv6Network:
    """Make this machine's /48 of RFC 4193: the same at every start, different from other machines'."""
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    number = hashlib.sha256(b"sampan-ipam-default\0" + machine).digest()[:5]
    return ipaddress.IPv6Network((b"\xfd" + number + bytes(10), 48))


def _network(prefix: str, what: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(prefix, strict=False)
    except ValueError as error:
        raise InvalidArgument(
            f"{what} {prefix!r} is no address range", remedy="give it as CIDR: 172.28.0.0/16"
        ) from error


def _address(text: str, network: IPNetwork, what: str) -> IPAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"{what} {text!r} is no address") from error
    if address not in network:
        raise InvalidArgument(f"{what} {address} is not in {network}")
    return address


def _check_range(ip_range: str | None, network: IPNetwork) -> IPNetwork:
    """Give the range addresses come from: `ip_range`, which must lie in the network, or the whole network."""
    if ip_range is None:
        return network
    within = _network(ip_range, "ip range")
    if within.version != network.version or not (within[0] in network and within[-1] in network):
        raise InvalidArgument(f"ip range {within} is not in {network}")
    return within


def _gateway(asked: str | None, network: IPNetwork) -> IPAddress:
    if asked is not None:
        return _address(asked.partition("/")[0], network, "gateway")
    return type(network.network_address)(_hosts(network)[0])


def _hosts(network: IPNetwork) -> tuple[int, int]:
    """Give the first and the last address a host may have. Raises `InvalidArgument` for a subnet without room
    for two.
    """
    first, last = int(network[0]), int(network[-1])
    if network.prefixlen >= network.max_prefixlen - 1:
        if first == last:
            raise InvalidArgument(f"subnet {network} has no room for a gateway and a container")
        return first, last  # RFC 3021: both of two
    return first + 1, last if network.version == 6 else last - 1


def _overlapping(network: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    return any(other.version == network.version and network.overlaps(other) for other in others)
