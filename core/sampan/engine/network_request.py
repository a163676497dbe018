"""What a client asks of a new network: checked and made explicit, in Docker's words. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from sampan.api.errors import Forbidden, InvalidArgument, Unsupported
from sampan.api.types import IpamPool, NetworkCreateRequest

PREDEFINED = ("bridge", "host", "none", "default")
"""Names that stand for the engine's own networks."""

MAX_NAME = 255

ENABLE_IPV4 = "com.docker.network.enable_ipv4"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def check(request: NetworkCreateRequest) -> NetworkCreateRequest:
    """Give the request with drivers and IP versions filled in, and only the pools of these versions.

    Raises `InvalidArgument`, `Forbidden` for a name of the engine's own, `Unsupported` for what only a swarm has.
    """
    _check_name(request.name)
    if request.ingress or request.scope not in ("", "local"):
        raise Unsupported(f"create network {request.name}: it would span machines of a swarm, which this engine is not")
    if request.config_only or request.config_from.network:
        raise Unsupported(f"create network {request.name}: configuration-only networks are not built")
    ipv4 = _version(request, request.enable_ipv4, ENABLE_IPV4, default=True)
    ipv6 = _version(request, request.enable_ipv6, ENABLE_IPV6, default=False)
    if not (ipv4 or ipv6):
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    pools = [pool for pool in request.ipam.config if (ipv6 if _is_ipv6(pool) else ipv4)]
    if faults := [fault for pool in pools for fault in _faults(pool)]:
        raise InvalidArgument("invalid network config:\n" + "\n".join(faults))
    return request.model_copy(
        update={
            "driver": request.driver or "bridge",
            "enable_ipv4": ipv4,
            "enable_ipv6": ipv6,
            "ipam": request.ipam.model_copy(update={"driver": request.ipam.driver or "default", "config": pools}),
        }
    )


def pools_of(request: NetworkCreateRequest, version: int) -> list[IpamPool]:
    """Give a checked request's pools of an IP version: those asked for, or one without wishes."""
    if not (request.enable_ipv6 if version == 6 else request.enable_ipv4):
        return []
    return [pool for pool in request.ipam.config if _is_ipv6(pool) == (version == 6)] or [IpamPool()]


def _check_name(name: str) -> None:
    if not name.strip():
        raise InvalidArgument("invalid name: name is empty")
    if name in PREDEFINED:
        raise Forbidden(f"operation is not permitted on predefined {name} network")
    if len(name) > MAX_NAME or not name.isprintable() or name != name.strip() or name.startswith("container:"):
        shown = name if len(name) <= 64 else name[:64] + "…"
        raise InvalidArgument(
            f"invalid name: {shown!r}", remedy=f"choose one of at most {MAX_NAME} printable characters, not container:…"
        )


def _version(request: NetworkCreateRequest, asked: bool | None, option: str, *, default: bool) -> bool:
    text = request.options.get(option)
    if asked is not None or text is None:
        return default if asked is None else asked
    if text.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(f'driver-opt "{option}" is not a valid bool')
    return text.lower() in ("1", "t", "true")


def _is_ipv6(pool: IpamPool) -> bool:
    return ":" in pool.subnet or (not pool.subnet and ":" in pool.gateway + pool.ip_range)


def _faults(pool: IpamPool) -> Iterator[str]:
    """Name what is wrong with a pool, a line each, as Docker lists them."""
    if not pool.subnet:
        if pool.gateway or pool.ip_range or pool.auxiliary_addresses:
            yield "a gateway, an ip-range or auxiliary addresses need the subnet that they lie in"
        return
    subnet = _interface(pool.subnet)
    if subnet is None:
        yield f"invalid subnet {pool.subnet}: invalid CIDR block notation"
        return
    if subnet != _first(subnet.network):
        yield f"invalid subnet {pool.subnet}: it should be {subnet.network}"
    if pool.ip_range:
        yield from _range_faults(pool.ip_range, subnet.network)
    if pool.gateway and (fault := _address_fault(pool.gateway, subnet.network)):
        yield f"invalid gateway {pool.gateway}: {fault}"
    for name, address in pool.auxiliary_addresses.items():
        if fault := _address_fault(address, subnet.network):
            yield f"invalid auxiliary address {name}: {fault}"


def _range_faults(text: str, subnet: IPNetwork) -> Iterator[str]:
    within = _interface(text)
    if within is None:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
    elif within.version != subnet.version:
        yield f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"
    else:
        if within.network.prefixlen < subnet.prefixlen:
            yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
        if within != _first(within.network):
            yield f"invalid ip-range {text}: it should be {within.network}"
        if not subnet.overlaps(within.network):
            yield f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"


def _address_fault(text: str, subnet: IPNetwork) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "invalid address"
    if "%" in text:  # a zone, which no address of a network has
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    return "" if address in subnet else f"parent subnet {subnet} doesn't contain this address"


def _interface(text: str) -> IPInterface | None:
    if "/" not in text or "%" in text:  # a zone, which no network has
        return None
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        return None


def _first(network: IPNetwork) -> IPInterface:
    return ipaddress.ip_interface(str(network))
