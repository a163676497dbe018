"""What of the address space this host uses already: a subnet there would cut it off from somebody."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from sampan.linux.netlink import Netlink
from sampan_ipam_default.ranges import IPNetwork

_RESOLV_CONF = Path("/etc/resolv.conf")
_HALF = 1  # prefix length: VPNs lead everything by two routes of half the space each, which are a default route in effect


def networks_in_use() -> list[IPNetwork]:
    """Give where the routes of the calling thread's namespace lead, default routes aside, its own addresses, and its name
    servers. Raises `OSError`.
    """
    with Netlink() as kernel:
        found = {route.destination for route in kernel.routes()} | {item.address for item in kernel.addresses()}
    networks = {ipaddress.ip_network(text, strict=False) for text in found} | set(_name_servers())
    return [network for network in networks if network.prefixlen > _HALF]


def _name_servers() -> Iterator[IPNetwork]:
    """Give the servers of resolv.conf(5): they may lie behind the default route."""
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    yield ipaddress.ip_network(address.partition("%")[0])
                except ValueError:
                    continue
