"""The ground network suites stand on: a host with a driver on it, its neighbour on the wire, and containers.

All of them are network namespaces, so that packets are real and the machine's own network is never touched.
"""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from sampan.api.network import (
    Attachment,
    Endpoint,
    Network,
    NetworkCapability,
    NetworkContext,
    NetworkDriver,
    PortMapping,
    Subnet,
)  # fmt: skip
from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.linux.netlink import Netlink, Request, add_route, link_index
from sampan.linux.sysctl import set_sysctl
from sampan.testing.namespaces import Namespace, join

__all__ = [
    "ENGINE", "HOST", "HOST6", "OTHER_ENGINE", "OUTSIDE", "OUTSIDE6", "SERVER", "SERVER6", "Lab", "address6_of", "address_of",
    "change", "forge", "has_address", "mac_of_link", "udp_packet",
]  # fmt: skip

ENGINE, OTHER_ENGINE = "5a3bca7e", "5a3b0000"
HOST, HOST6, OUTSIDE, OUTSIDE6 = "192.0.2.1", "2001:db8::1", "192.0.2.9", "2001:db8::9"
SERVER, SERVER6 = "198.51.100.9", "2001:db8:1::9"
_ETH_P_IP = 0x0800


class Lab:
    """A host with a driver on it, a neighbour outside, and containers.

    A driver whose networks need options, or links on the host, has a lab of its own: override `options` or `subnets`, and
    name the class as the suite's `lab_class`.
    """

    def __init__(self, driver_class: type[NetworkDriver], config: Mapping[str, Any], state: Path, stack: ExitStack) -> None:
        """Make the host and its neighbour, and open the driver."""
        self._class, self._config, self._state, self._stack = driver_class, config, state, stack
        self._networks, self._endpoints = itertools.count(1), itertools.count(1)
        self.capabilities = driver_class.probe(state).capabilities
        self.versions = (4, 6) if NetworkCapability.IPV6 in self.capabilities else (4,)
        self.host = self.namespace()
        self.outside = self.namespace()
        join(self.host, self.outside, ("uplink", "wire"), [(f"{HOST}/24", f"{OUTSIDE}/24"), (f"{HOST6}/64", f"{OUTSIDE6}/64")])
        self.driver = self.start()

    def options(self, number: int) -> Mapping[str, str]:
        """Give the driver options of the lab's network `number` (from 1 on); make on `host` what they name."""
        return {}

    def subnets(self, number: int) -> tuple[Subnet, ...]:
        """Give a subnet of each IP version for the lab's network `number`."""
        return Subnet(f"10.{number}.0.0/24", f"10.{number}.0.1"), Subnet(f"fd00:{number:x}::/64", f"fd00:{number:x}::1")

    def namespace(self) -> Namespace:
        """Make a namespace that goes with the test."""
        made = Namespace()
        self._stack.callback(made.close)
        return made

    def server(self) -> Namespace:
        """Make the neighbour a router, by which the host goes to the world, and give a server that lives behind it."""
        made = self.namespace()
        join(self.outside, made, ("far", "home"), [("198.51.100.1/24", f"{SERVER}/24"), ("2001:db8:1::1/64", f"{SERVER6}/64")])
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.outside.run(set_sysctl, switch, "1")
        change(self.host, add_route("0.0.0.0/0", gateway=OUTSIDE), add_route("::/0", gateway=OUTSIDE6))
        change(made, add_route("0.0.0.0/0", gateway="198.51.100.1"), add_route("::/0", gateway="2001:db8:1::1"))
        return made

    def start(self, *networks: Network, engine: str = ENGINE) -> NetworkDriver:
        """Open one more driver object, as a daemon does that starts."""
        driver = self._class(NetworkContext(self._state, engine), self._class.config_model()(**self._config))
        self.host.run(driver.open, networks)
        self._stack.callback(lambda: self.host.run(driver.close))
        return driver

    def restart(self, *networks: Network) -> None:
        """Let go of the driver, and open another one with the networks that the store knows."""
        self.host.run(self.driver.close)
        self.driver = self.start(*networks)

    def started_in_a_child(self, *networks: Network) -> NetworkDriver:
        """Open a driver in a forked child of the test's, which has the host's thread no more: it moves to the host itself."""
        setns(self.host.fd, CLONE_NEWNET)
        driver = self._class(NetworkContext(self._state, ENGINE), self._class.config_model()(**self._config))
        driver.open(networks)
        return driver

    def describe(self, *, versions: Sequence[int] = (4,), **changes: Any) -> Network:
        """Describe a network with subnets of its own of these IP versions; `changes` replace its fields, options join them."""
        number = next(self._networks)
        options = {**self.options(number), **changes.pop("options", {})}
        subnets = tuple(subnet for subnet in self.subnets(number) if subnet.version in versions)
        made = Network(f"{number:06x}" + "ab" * 29, f"net{number}", self._class.name, subnets, options=options)
        return replace(made, **changes)

    def network(self, **changes: Any) -> Network:
        """Create a network as `describe` gives it."""
        made = self.describe(**changes)
        self.host.run(self.driver.create_network, made)
        return made

    def endpoint(self, network: Network, **changes: Any) -> Endpoint:
        """Describe an endpoint with addresses of its own."""
        number = next(self._endpoints)
        made = Endpoint(f"{number:07x}" + "cd" * 28, network.id, f"{number:064x}")
        for subnet in network.subnets:
            prefix = ipaddress.ip_network(subnet.prefix)
            address = f"{prefix[number + 1]}/{prefix.prefixlen}"
            made = replace(made, ipv4=address) if subnet.version == 4 else replace(made, ipv6=address)
        return replace(made, **changes)

    def container(self, network: Network, **changes: Any) -> tuple[Namespace, Endpoint, Attachment]:
        """Make a sandbox and attach it; the endpoint comes back as the engine's store would know it."""
        sandbox, endpoint = self.namespace(), self.endpoint(network, **changes)
        attachment = self.attach(network, endpoint, sandbox)
        return sandbox, replace(endpoint, ports=attachment.ports), attachment

    def ports(self, *ports: PortMapping) -> tuple[PortMapping, ...]:
        """Give these ports for a driver that publishes, none for another: for tests that are about more than ports."""
        return ports if NetworkCapability.PUBLISH in self.capabilities else ()

    def attach(self, network: Network, endpoint: Endpoint, sandbox: Namespace) -> Attachment:
        """Attach by the driver, in the host's namespace."""
        return self.host.run(self.driver.attach, network, endpoint, sandbox.fd)

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Detach by the driver, in the host's namespace."""
        self.host.run(self.driver.detach, network, endpoint)

    def check(self, network: Network, endpoint: Endpoint, sandbox: Namespace) -> tuple[str, ...]:
        """Check by the driver, in the host's namespace."""
        return self.host.run(self.driver.check, network, endpoint, sandbox.fd)


def address_of(endpoint: Endpoint) -> str:
    """Give an endpoint's IPv4 address."""
    return str(endpoint.ipv4).partition("/")[0]


def address6_of(endpoint: Endpoint) -> str:
    """Give an endpoint's IPv6 address."""
    return str(endpoint.ipv6).partition("/")[0]


def change(where: Namespace, *requests: Request) -> None:
    """Ask the kernel of a namespace for something, behind the driver's back."""

    def run() -> None:
        with Netlink() as kernel:
            kernel.run(*requests)

    where.run(run)


def mac_of_link(where: Namespace, name: str) -> str:
    """Give a link's hardware address."""
    with where.run(Netlink) as kernel:
        return next(link.mac for link in kernel.links() if link.name == name)


def has_address(where: Namespace, name: str, address: str) -> bool:
    """Say whether a link has an address, given without prefix length."""
    with where.run(Netlink) as kernel:
        index = where.run(link_index, name)
        return any(item.index == index and item.address.startswith(f"{address}/") for item in kernel.addresses())


def udp_packet(addresses: tuple[str, str], port: int, data: bytes) -> bytes:
    """Give an IPv4 packet from the first address to the second, with a UDP packet without a checksum. RFC 791, RFC 768."""
    source, target = (socket.inet_aton(address) for address in addresses)
    udp = struct.pack(">HHHH", 4444, port, 8 + len(data), 0) + data
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0, source, target)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:] + udp


def forge(where: Namespace, interface: str, mac: str, addresses: tuple[str, str], port: int, data: bytes) -> None:
    """Send a UDP packet to a hardware address that a well-behaved stack would not send there."""
    with where.run(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as wire:
        wire.sendto(udp_packet(addresses, port, data), (interface, _ETH_P_IP, 0, 0, bytes.fromhex(mac.replace(":", ""))))
