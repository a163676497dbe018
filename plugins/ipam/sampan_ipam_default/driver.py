"""Subnets from pools, and the lowest free address of a subnet: the order in which Docker gives them.

Nothing is kept here: what is in use comes with every question, and the host's own routes are read anew.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sampan.api.driver import Probe
from sampan.api.errors import Conflict, InvalidArgument, System, Unavailable
from sampan.api.ipam import AddressRequest, IpamDriver, PoolRequest
from sampan.api.network import Subnet
from sampan_ipam_default.host import networks_in_use
from sampan_ipam_default.ranges import (
    IPNetwork,
    first_gap,
    hosts,
    lowest_free,
    numbers,
    overlap,
    overlapping,
    parse_address,
    parse_range,
    taken_numbers,
)  # fmt: skip

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig
    from sampan_ipam_default.config import DefaultIpamConfig


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
            networks_in_use()
        except OSError as error:
            return Probe(False, f"the host's routes cannot be read: {error}")
        return Probe(True)

    def choose_subnet(self, request: PoolRequest) -> Subnet:
        """Take what was asked, or the first of the pools that overlaps neither a network nor what the host uses.

        What the user names may overlap a route of the host: a bridge that is kept has one itself.
        """
        taken = [parse_range(prefix, "network in use") for prefix in request.in_use]
        asked = parse_range(request.prefix, "subnet") if request.prefix is not None else None
        if asked is None or asked.network_address.is_unspecified:
            network = self._free(asked.version if asked else request.version, taken)
        else:
            network = asked
            _check_usable(network, taken)
        return Subnet(str(network), _gateway(request, network))

    def choose_address(self, request: AddressRequest) -> str:
        """Take the preferred address, which may be outside of the range, or the range's lowest free one.

        So an address that was given back is given again at once if it is the lowest.
        """
        network = parse_range(request.subnet.prefix, "subnet")
        gateway = [request.subnet.gateway] if request.subnet.gateway is not None else []
        taken = taken_numbers([*request.in_use, *gateway], network.version)
        chosen: int | None
        if request.preferred is not None:
            chosen = int(parse_address(request.preferred, network, "preferred address"))
            if chosen not in hosts(network):
                raise InvalidArgument(f"preferred address {request.preferred} is not a host's in {network}")
            if chosen in taken:
                raise Conflict(f"Address already in use: {request.preferred}", remedy="choose another, or none")
        else:
            within = _range(request.ip_range, network)
            chosen = lowest_free(overlap(hosts(network), numbers(within)), taken)
            if chosen is None:
                raise Unavailable(
                    f"no available IPv{network.version} addresses on this network's address pool {within}",
                    remedy="remove endpoints, or make a network with a larger subnet",
                )
        return f"{type(network.network_address)(chosen)}/{network.prefixlen}"

    def _free(self, version: int, taken: list[IPNetwork]) -> IPNetwork:
        try:
            used = [*taken, *networks_in_use()]
        except OSError as error:
            raise System(f"choose a subnet: read the host's routes: {error}") from error
        of_version = sorted((network for network in used if network.version == version), key=lambda network: int(network[0]))
        for base, size in self._pools(version):
            found = first_gap(base, size, of_version)
            if found is not None:
                return found
        raise Unavailable(
            f"choose a subnet: all IPv{version} subnets of the pools overlap networks or routes of this host",
            remedy="name a subnet, or set [ipam.default] pools in config.toml",
        )

    def _pools(self, version: int) -> Iterator[tuple[IPNetwork, int]]:
        settings = cast("DefaultIpamConfig", self.config)
        pools = [(ipaddress.ip_network(pool.base), pool.size) for pool in settings.pools]
        of_version = [(base, size) for base, size in pools if base.version == version]
        if version == 6 and not of_version:
            own = settings.unique_local
            of_version = [(parse_range(own, "unique_local") if own else _unique_local(), 64)]
        yield from of_version


def _unique_local() -> ipaddress.IPv6Network:
    """Make this machine's /48 of RFC 4193: the same at every start, different from other machines'."""
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    number = hashlib.sha256(b"sampan-ipam-default\0" + machine).digest()[:5]
    return ipaddress.IPv6Network((b"\xfd" + number + bytes(10), 48))


def _check_usable(network: IPNetwork, taken: list[IPNetwork]) -> None:
    """Raise `InvalidArgument` where no host can live, `Conflict` where another network is."""
    if network.is_multicast or network.is_loopback:
        raise InvalidArgument(f"subnet {network} is kept for {'multicast' if network.is_multicast else 'loopback'}")
    other = overlapping(network, taken)
    if other is not None:
        raise Conflict(
            f"invalid pool request: Pool overlaps with other one on this address space ({network}, {other})",
            remedy="name another subnet",
        )


def _range(ip_range: str | None, network: IPNetwork) -> IPNetwork:
    """Give the range addresses come from: `ip_range`, which must lie in the network, or the whole network."""
    if ip_range is None:
        return network
    within = parse_range(ip_range, "ip range")
    if within.version != network.version or not (within[0] in network and within[-1] in network):
        raise InvalidArgument(f"ip range {within} is not in {network}")
    return within


def _gateway(request: PoolRequest, network: IPNetwork) -> str:
    """Take the asked one, or the lowest address of the range, as Docker does: the range is what is ours to give."""
    usable = hosts(network)
    within = overlap(usable, numbers(_range(request.ip_range, network)))
    if request.gateway is not None:
        asked = parse_address(request.gateway.partition("/")[0], network, "gateway")
        if int(asked) not in usable:
            raise InvalidArgument(
                f"failed to allocate gateway ({asked}): it is the network's own address or its broadcast",
                remedy=f"choose one between the first and the last of {network}",
            )
        return str(asked)
    if not within:
        raise InvalidArgument(f"ip range {request.ip_range} has no host's address of {network}", remedy="choose a larger one")
    return str(type(network.network_address)(within[0]))
