"""What network drivers do inside of a sandbox: the endpoint's link gets its addresses, comes up, and leads out.

For drivers' use, in any thread: each function goes into the namespace behind a descriptor and comes back. `OSError` is
translated here, so a driver need not.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sampan.api.errors import Conflict, InvalidArgument, System
from sampan.api.network import Endpoint, Network
from sampan.api.sysctls import OPTION, interface_sysctls
from sampan.linux import netlink
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import Netlink, Request
from sampan.linux.sysctl import set_sysctl

__all__ = ["announce", "configure", "damage", "prepare", "set_gateway"]

T = TypeVar("T")

DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}
_SYSCTL = Path("/proc/sys/net")  # the calling thread's network namespace decides what is seen here


def prepare(network: Network, endpoint: Endpoint, netns: int) -> None:
    """Do in a sandbox that waits what `configure` would, as far as it needs no addresses; the link stays down. Raises `System`."""
    _inside(f"prepare {endpoint.interface} of endpoint {endpoint.id[:12]}", netns, lambda: _prepare(network, endpoint))


def configure(network: Network, endpoint: Endpoint, netns: int, *, mac: str = "") -> None:
    """Give the link `endpoint.interface` its addresses and routes, and bring it up; loopback too. One send.

    `mac`: set first, if given. The switches of the endpoint's options are set before the link is up (`sampan.api.sysctls`).
    Raises `Conflict` if an address is there already, `InvalidArgument` for a switch that cannot be set, `System`.
    """
    _inside(f"configure {endpoint.interface} of endpoint {endpoint.id[:12]}", netns, lambda: _configure(network, endpoint, mac))


def set_gateway(network: Network, endpoint: Endpoint, netns: int) -> None:
    """Lead the default routes of `endpoint.gateway_for` by this endpoint, in place of those there are. Raises `System`."""

    def replace() -> None:
        index = netlink.link_index(endpoint.interface)
        with Netlink() as kernel:
            kernel.run(*_default_routes(network, endpoint, index))

    _inside(f"lead the default route by endpoint {endpoint.id[:12]}", netns, replace)


def announce(endpoint: Endpoint, netns: int) -> None:
    """Have the kernel tell the link's neighbours which hardware address has the endpoint's addresses. Raises `System`.

    For links that switches or other machines lie beyond: they may know the addresses, from an endpoint that was, elsewhere.
    The link's host side must pass packets on by now. Gratuitous ARP and neighbour advertisements: RFC 5227, RFC 4861.
    """
    _inside(f"announce endpoint {endpoint.id[:12]}", netns, lambda: _announce(endpoint))


def damage(network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
    """Name what is missing inside: link, addresses, default routes; a line each. Raises `System`."""
    return _inside(f"look at endpoint {endpoint.id[:12]}", netns, lambda: tuple(_damage(network, endpoint)))


def _prepare(network: Network, endpoint: Endpoint) -> None:
    _switch_ipv6(endpoint.interface, on=any(subnet.version == 6 for subnet in network.subnets))
    with Netlink() as kernel:
        kernel.run(netlink.set_link("lo", up=True))


def _switch_ipv6(interface: str, *, on: bool) -> None:
    if (_SYSCTL / "ipv6").exists():
        set_sysctl(f"ipv6/conf/{interface}/disable_ipv6", "0" if on else "1")


def _configure(network: Network, endpoint: Endpoint, mac: str) -> None:
    _switch_ipv6(endpoint.interface, on=any(":" in address for address in endpoint.addresses))
    index = netlink.link_index(endpoint.interface)
    requests = [
        netlink.set_link("lo", up=True),
        *([netlink.set_link(index, mac=mac)] if mac else []),
        *(netlink.add_address(index, address) for address in endpoint.addresses),
    ]
    with Netlink() as kernel:
        if switches := interface_sysctls(endpoint.options, endpoint.interface):
            kernel.run(*requests)
            requests = []
            _switch(switches)
        kernel.run(
            *requests,
            netlink.set_link(index, up=True),
            *_default_routes(network, endpoint, index),
            netlink.settle_link(index),
        )


def _switch(switches: Iterable[tuple[str, str]]) -> None:
    for name, value in switches:
        try:
            set_sysctl(name, value)
        except OSError as error:
            raise InvalidArgument(
                f"set net/{name} to {value!r}: {error.strerror}", remedy=f"change the option {OPTION}"
            ) from error


def _announce(endpoint: Endpoint) -> None:
    """With these switches the kernel announces a hardware address that is set, be it the same: `inetdev_event`."""
    set_sysctl(f"ipv4/conf/{endpoint.interface}/arp_notify", "1")
    if endpoint.ipv6:
        set_sysctl(f"ipv6/conf/{endpoint.interface}/ndisc_notify", "1")
    with Netlink() as kernel:
        link = kernel.link(endpoint.interface)
        if link is not None:
            kernel.run(netlink.set_link(link.index, mac=link.mac))


def _default_routes(network: Network, endpoint: Endpoint, index: int) -> Iterable[Request]:
    for version, gateway in _gateways(network, endpoint).items():
        yield netlink.replace_route(DEFAULTS[version], gateway=gateway, index=index)


def _gateways(network: Network, endpoint: Endpoint) -> dict[int, str]:
    """Give the gateway of each version that the endpoint leads out; none in an internal network."""
    if network.internal:
        return {}
    has = {4: endpoint.ipv4, 6: endpoint.ipv6}
    leads = {version: address for version in endpoint.gateway_for if (address := has[version])}
    return {version: gateway for version, address in leads.items() if (gateway := _gateway(network, version, address))}


def _gateway(network: Network, version: int, address: str) -> str | None:
    """Give the gateway of the subnet that the address lies in."""
    subnets = [subnet for subnet in network.subnets if subnet.version == version]
    if len(subnets) > 1:
        ip = ipaddress.ip_interface(address).ip
        subnets = [subnet for subnet in subnets if ip in ipaddress.ip_network(subnet.prefix)]
    return subnets[0].gateway if subnets else None


def _damage(network: Network, endpoint: Endpoint) -> Iterator[str]:
    with Netlink() as kernel:
        links = {item.name: item for item in kernel.links()}
        addresses, routes = kernel.addresses(), kernel.routes()
    if not links["lo"].up:
        yield "link lo is down in the sandbox"
    link = links.get(endpoint.interface)
    if link is None:
        yield f"link {endpoint.interface} is missing in the sandbox"
        return
    if not link.up:
        yield f"link {endpoint.interface} is down in the sandbox"
    if endpoint.mac and link.mac != endpoint.mac.lower():
        yield f"link {endpoint.interface} has hardware address {link.mac}, not {endpoint.mac}, in the sandbox"
    there = {ipaddress.ip_interface(item.address) for item in addresses if item.index == link.index}
    for address in endpoint.addresses:
        if ipaddress.ip_interface(address) not in there:
            yield f"address {address} is missing in the sandbox"
    ways_out = {(item.destination, item.gateway) for item in routes if item.index == link.index}
    for version, gateway in _gateways(network, endpoint).items():
        if (DEFAULTS[version], str(ipaddress.ip_address(gateway))) not in ways_out:
            yield f"default route by {gateway} is missing in the sandbox"


def _inside(operation: str, netns: int, work: Callable[[], T]) -> T:
    with _translated(operation):
        return call_in_netns(netns, work)


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise Conflict(f"{operation}: {error.strerror}", remedy="choose another address or interface") from error
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{operation}: its hardware address is in use", remedy="choose another one") from error
        raise System(f"{operation}: {error.strerror or error}") from error
