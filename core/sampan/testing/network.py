"""What every network driver must do. A driver's author subclasses the suite in a test file and is done:

    from sampan.testing.network import NetworkDriverSuite

    class TestMine(NetworkDriverSuite):
        driver_class = MyDriver

It needs root and pytest. The host is a network namespace, containers are namespaces, and a neighbour outside
is one more, joined by a veth: what is tested are real packets, and the machine's own network is never
touched. A test of an optional part of the contract is taken out for a driver whose probe does not claim that
part.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.errors import Conflict, SampanError
from sampan.api.network import (
    Attachment,
    Endpoint,
    Network,
    NetworkCapability,
    NetworkContext,
    NetworkDriver,
    PortMapping,
    SandboxKind,
    Subnet,
)  # fmt: skip
from sampan.linux.namespaces import call_in_netns
from sampan.linux.netlink import Netlink, add_bridge, add_route, delete_link, link_index, set_link
from sampan.testing.namespaces import Namespace, cable, listen, reaches, unreachable
from sampan.testing.selection import DriverSuite, needs

__all__ = ["Lab", "NetworkDriverSuite", "needs"]

_ENGINE = "5a3bca7e"
_OTHER_ENGINE = "5a3b0000"
_ETH_P_IP = 0x0800
HOST, HOST6, OUTSIDE, OUTSIDE6 = "192.0.2.1", "2001:db8::1", "192.0.2.9", "2001:db8::9"


class Lab:
    """A host with a driver on it, a neighbour outside, and containers."""

    def __init__(
        self, driver_class: type[NetworkDriver], config: dict[str, Any], state: Path, stack: ExitStack
    ) -> None:
        """Make the host and its neighbour, and open the driver."""
        self._class, self._config, self._state, self._stack = driver_class, config, state, stack
        self._numbers = itertools.count(1)
        self.host = self.namespace()
        self.outside = self.namespace()
        cable(self.host, self.outside)
        self.driver = self.start()

    def namespace(self) -> Namespace:
        """Make a namespace that goes with the test."""
        made = Namespace()
        self._stack.callback(made.close)
        return made

    def start(self, *networks: Network, engine: str = _ENGINE) -> NetworkDriver:
        """Open one more driver object, as a daemon does that starts."""
        driver = self._class(NetworkContext(self._state, engine), self._class.config_model()(**self._config))
        self.host.run(driver.open, networks)
        self._stack.callback(lambda: self.host.run(driver.close))
        return driver

    def network(self, **changes: Any) -> Network:
        """Create a network with a subnet of its own."""
        number = next(self._numbers)
        subnet = Subnet(f"10.{number}.0.0/24", f"10.{number}.0.1")
        made = Network(f"{number:06x}" + "ab" * 29, f"net{number}", self._class.name, (subnet,))
        made = replace(made, **changes)
        self.host.run(self.driver.create_network, made)
        return made

    def endpoint(self, network: Network, **changes: Any) -> Endpoint:
        """Describe an endpoint with addresses of its own."""
        number = next(self._numbers)
        made = Endpoint(f"{number:07x}" + "cd" * 28, network.id, f"{number:064x}")
        for subnet in network.subnets:
            address = f"{subnet.prefix.partition('/')[0]}{number + 1:x}" if ":" in subnet.prefix else ""
            if address:
                made = replace(made, ipv6=f"{address}/64")
            else:
                made = replace(made, ipv4=f"{subnet.prefix.rpartition('.')[0]}.{number + 1}/24")
        return replace(made, **changes)

    def container(self, network: Network, **changes: Any) -> tuple[Namespace, Endpoint, Attachment]:
        """Make a sandbox and attach it; the endpoint comes back as the engine's store would know it."""
        sandbox, endpoint = self.namespace(), self.endpoint(network, **changes)
        attachment = self.attach(network, endpoint, sandbox)
        return sandbox, replace(endpoint, ports=attachment.ports), attachment

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


class NetworkDriverSuite(DriverSuite):
    """The contract's tests. Set `driver_class`, and `driver_config` if it needs one."""

    driver_class: ClassVar[type[NetworkDriver]]
    driver_config: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[Lab]:
        """Give a lab."""
        probe = self.driver_class.probe(tmp_path)
        assert probe.supported, probe.reason
        with ExitStack() as stack:
            yield Lab(self.driver_class, self.driver_config, tmp_path, stack)

    # ------------------------------------------------------------------ any driver

    def test_a_probe_leaves_nothing(self, tmp_path: Path) -> None:
        """A probe leaves nothing."""
        before = set(os.listdir("/proc/self/fd"))
        assert self.driver_class.probe(tmp_path).supported
        assert set(os.listdir("/proc/self/fd")) == before
        assert not list(tmp_path.iterdir())

    def test_open_and_close_are_idempotent(self, lab: Lab) -> None:
        """Open and close are idempotent."""
        for _ in range(2):
            lab.host.run(lab.driver.open, ())
        for _ in range(2):
            lab.host.run(lab.driver.close)

    def test_the_default_network_can_be_used(self, lab: Lab) -> None:
        """The default network can be used."""
        network = lab.driver.default_network()
        assert network is not None
        network = replace(network, id="fe" * 32)
        if NetworkCapability.MULTIPLE in self.driver_class.probe(lab._state).capabilities:
            network = replace(network, subnets=(Subnet("10.99.0.0/24", "10.99.0.1"),))
        lab.host.run(lab.driver.create_network, network)
        sandbox, endpoint, _ = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        if self.driver_class.sandbox is SandboxKind.OWN:
            with listen(sandbox, 80) as server:
                assert reaches(sandbox, "127.0.0.1", 80, server) == "127.0.0.1"
        for _ in range(2):
            lab.detach(network, endpoint)
        for _ in range(2):
            lab.host.run(lab.driver.delete_network, network)

    # ------------------------------------------------------------------ links and addresses

    @needs(NetworkCapability.MULTIPLE)
    def test_nothing_is_left(self, lab: Lab) -> None:
        """Nothing is left."""
        before = lab.host.links()
        network = lab.network()
        _, endpoint, _ = lab.container(network)
        assert lab.host.links() != before
        for _ in range(2):
            lab.detach(network, endpoint)
        for _ in range(2):
            lab.host.run(lab.driver.delete_network, network)
        assert lab.host.links() == before

    @needs(NetworkCapability.MULTIPLE)
    def test_containers_reach_each_other_the_host_and_outside(self, lab: Lab) -> None:
        """Containers reach each other the host and outside."""
        network = lab.network()
        one, first, _ = lab.container(network)
        two, second, _ = lab.container(network)
        with listen(two, 80) as server:
            assert reaches(one, address_of(second), 80, server) == address_of(first)
            assert reaches(lab.host, address_of(second), 80, server) == network.subnets[0].gateway
        with listen(lab.host, 81) as server:
            assert reaches(one, HOST, 81, server) == address_of(first)
        with listen(lab.outside, 82) as server:
            assert reaches(one, OUTSIDE, 82, server) == HOST, "traffic to the outside must bear the host's address"
        with listen(lab.outside, 83, protocol="udp") as server:
            assert reaches(one, OUTSIDE, 83, server) == HOST

    @needs(NetworkCapability.MULTIPLE)
    def test_networks_are_isolated(self, lab: Lab) -> None:
        """Networks are isolated."""
        one, _, _ = lab.container(lab.network())
        two, second, _ = lab.container(lab.network())
        with listen(two, 80) as server:
            assert unreachable(one, address_of(second), 80, server)

    @needs(NetworkCapability.MULTIPLE)
    def test_a_sandbox_in_two_networks(self, lab: Lab) -> None:
        """A sandbox in two networks."""
        left, right = lab.network(), lab.network()
        middle, _, _ = lab.container(left)
        second = lab.endpoint(right, interface="eth1", gateway_for=())
        lab.attach(right, second, middle)
        assert lab.check(right, second, middle) == ()
        other, _, _ = lab.container(right)
        with listen(middle, 80) as server:
            assert reaches(other, address_of(second), 80, server)

    @needs(NetworkCapability.MULTIPLE)
    def test_an_internal_network_has_no_outside(self, lab: Lab) -> None:
        """An internal network has no outside."""
        lab.network()  # the host forwards for this one
        network = lab.network(internal=True)
        one, _, _ = lab.container(network)
        two, second, _ = lab.container(network)
        with listen(two, 80) as server:
            assert reaches(one, address_of(second), 80, server)
        # even if both ends route there by themselves
        _run(one, add_route("0.0.0.0/0", gateway=str(network.subnets[0].gateway)))
        _run(lab.outside, add_route(network.subnets[0].prefix, gateway=HOST))
        with listen(lab.outside, 82) as server:
            assert unreachable(one, OUTSIDE, 82, server)

    @needs(NetworkCapability.MULTIPLE)
    def test_from_outside_no_container_is_reached_by_its_address(self, lab: Lab) -> None:
        """From outside no container is reached by its address."""
        sandbox, endpoint, _ = lab.container(lab.network())
        _run(lab.outside, add_route(f"{address_of(endpoint)}/32", gateway=HOST))
        with listen(sandbox, 80) as server:
            assert unreachable(lab.outside, address_of(endpoint), 80, server)

    @needs(NetworkCapability.MULTIPLE)
    def test_detach_after_the_sandbox_is_gone(self, lab: Lab) -> None:
        """Detach after the sandbox is gone."""
        before = lab.host.links()
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network)
        sandbox.close()
        for _ in range(2):
            lab.detach(network, endpoint)
        lab.host.run(lab.driver.delete_network, network)
        assert lab.host.links() == before

    @needs(NetworkCapability.MULTIPLE)
    def test_an_attach_that_fails_at_once_leaves_nothing(self, lab: Lab) -> None:
        """An attach that fails at once leaves nothing."""
        network = lab.network()
        sandbox, _, _ = lab.container(network)
        before = lab.host.links()
        with pytest.raises(Conflict):
            lab.attach(network, lab.endpoint(network), sandbox)  # eth0 is there
        assert lab.host.links() == before

    @needs(NetworkCapability.MULTIPLE, NetworkCapability.PUBLISH)
    def test_an_attach_that_fails_midway_leaves_nothing(self, lab: Lab) -> None:
        """An attach that fails midway leaves nothing."""
        network = lab.network()
        before = lab.host.links()
        port = PortMapping("tcp", 80, 8080)
        sandbox = lab.namespace()
        with pytest.raises(SampanError):  # from this address the gateway is not reachable: the link is made by then
            lab.attach(network, lab.endpoint(network, ipv4="172.30.0.2/24", ports=(port,)), sandbox)
        assert lab.host.links() == before
        assert sandbox.links() == {"lo"}
        lab.attach(network, lab.endpoint(network, ports=(port,)), sandbox)

    @needs(NetworkCapability.MULTIPLE, NetworkCapability.IPV6)
    def test_ipv6(self, lab: Lab) -> None:
        """IPv6."""
        subnets = (Subnet("10.66.0.0/24", "10.66.0.1"), Subnet("fd00:66::/64", "fd00:66::1"))
        sandbox, endpoint, _ = lab.container(lab.network(subnets=subnets), ports=(PortMapping("tcp", 80, 8080),))
        with listen(lab.outside, 82, family=6) as server:
            assert reaches(sandbox, OUTSIDE6, 82, server) == HOST6
        with listen(sandbox, 80, family=6) as server:
            assert reaches(lab.outside, HOST6, 8080, server) == OUTSIDE6
            assert reaches(lab.outside, HOST, 8080, server) == f"::ffff:{OUTSIDE}"
            _run(lab.outside, add_route("fd00:66::/64", gateway=HOST6))
            assert unreachable(lab.outside, str(endpoint.ipv6).partition("/")[0], 80, server)

    # ------------------------------------------------------------------ ports

    @needs(NetworkCapability.PUBLISH)
    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    def test_a_published_port_is_reached_from_everywhere(self, lab: Lab, protocol: str) -> None:
        """A published port is reached from everywhere."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping(protocol, 80, 8080),))
        neighbour, _, _ = lab.container(network)
        stranger, _, _ = lab.container(lab.network())
        with listen(sandbox, 80, protocol=protocol) as server:
            assert reaches(lab.outside, HOST, 8080, server) == OUTSIDE, "the client's address must arrive"
            assert reaches(lab.host, "127.0.0.1", 8080, server)
            assert reaches(lab.host, HOST, 8080, server)
            assert reaches(neighbour, HOST, 8080, server)
            assert reaches(stranger, HOST, 8080, server)
            assert reaches(sandbox, HOST, 8080, server)
            assert unreachable(lab.outside, HOST, 80, server)
            lab.host.run(lab.driver.unpublish, network, endpoint, endpoint.ports)
            assert unreachable(lab.outside, HOST, 8080, server)

    @needs(NetworkCapability.PUBLISH)
    @pytest.mark.parametrize("first", [8000, 9000])
    def test_a_range_keeps_its_order(self, lab: Lab, first: int) -> None:
        """A range keeps its order."""
        sandbox, _, _ = lab.container(lab.network(), ports=(PortMapping("tcp", 8000, first, count=20),))
        for offset in (0, 7, 19):
            with listen(sandbox, 8000 + offset) as server:
                assert reaches(lab.outside, HOST, first + offset, server)

    @needs(NetworkCapability.PUBLISH)
    def test_a_port_on_one_address(self, lab: Lab) -> None:
        """A port on one address."""
        sandbox, _, _ = lab.container(lab.network(), ports=(PortMapping("tcp", 80, 8080, host_ip="127.0.0.1"),))
        with listen(sandbox, 80) as server:
            assert reaches(lab.host, "127.0.0.1", 8080, server)
            assert unreachable(lab.host, HOST, 8080, server)
            assert unreachable(lab.outside, HOST, 8080, server)

    @needs(NetworkCapability.PUBLISH)
    def test_a_neighbour_on_the_wire_forges_packets(self, lab: Lab) -> None:
        """A neighbour on the wire forges packets."""
        open_port, closed = PortMapping("udp", 53, 5300), PortMapping("udp", 53, 5301, host_ip="127.0.0.1")
        sandbox, endpoint, _ = lab.container(lab.network(), ports=(open_port, closed))
        mac = _mac(lab.host, "uplink")
        with listen(sandbox, 53, protocol="udp") as server:
            for target, port in (("127.0.0.1", 5301), ("127.0.0.1", 5300), (address_of(endpoint), 53), (HOST, 5301)):
                _forge(lab.outside, "wire", mac, (OUTSIDE, target), port, b"forged")
            _forge(lab.outside, "wire", mac, (OUTSIDE, HOST), 5300, b"allowed")
            assert server.recv(16) == b"allowed", "a forged packet got in"

    @needs(NetworkCapability.PUBLISH)
    def test_a_container_forges_packets_to_the_hosts_loopback(self, lab: Lab) -> None:
        """A container forges packets to the host's loopback."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080, host_ip="127.0.0.1"),))
        gateway = str(network.subnets[0].gateway)
        with listen(lab.host, 7777, protocol="udp") as server:
            assert reaches(sandbox, gateway, 7777, server)  # the sandbox knows the gateway's hardware address now
            mac = next(_mac(lab.host, name) for name in lab.host.links() if _has_address(lab.host, name, gateway))
            _forge(sandbox, endpoint.interface, mac, (address_of(endpoint), "127.0.0.1"), 7777, b"forged")
            _forge(sandbox, endpoint.interface, mac, (address_of(endpoint), gateway), 7777, b"allowed")
            assert server.recv(16) == b"allowed", "a forged packet got in"

    @needs(NetworkCapability.PUBLISH)
    def test_a_conflict_is_found_before_anything_is_done(self, lab: Lab) -> None:
        """A conflict is found before anything is done."""
        network = lab.network()
        lab.container(network, ports=(PortMapping("tcp", 80, 8080), PortMapping("udp", 53, 5300, host_ip="127.0.0.1")))
        before = lab.host.links()
        with listen(lab.host, 9090), listen(lab.host, 9091, protocol="udp"):
            for taken in (
                PortMapping("tcp", 80, 8080),
                PortMapping("tcp", 80, 8075, count=10),
                PortMapping("tcp", 80, 8080, host_ip=HOST),
                PortMapping("udp", 53, 5300),
                PortMapping("tcp", 80, 9090),
                PortMapping("udp", 80, 9091, host_ip="127.0.0.1"),
            ):
                sandbox = lab.namespace()
                with pytest.raises(Conflict, match=r"port is already allocated|address already in use"):
                    lab.attach(network, lab.endpoint(network, ports=(PortMapping("tcp", 81, 8181), taken)), sandbox)
                assert sandbox.links() == {"lo"}
        assert lab.host.links() == before
        lab.container(network, ports=(PortMapping("tcp", 81, 8181), PortMapping("udp", 80, 8080)))

    @needs(NetworkCapability.PUBLISH)
    def test_the_driver_chooses_free_ports(self, lab: Lab) -> None:
        """The driver chooses free ports."""
        network = lab.network()
        sandbox, endpoint, attachment = lab.container(
            network, ports=(PortMapping("tcp", 80, 0), PortMapping("tcp", 81, 0))
        )
        chosen = [mapping.host_port for mapping in attachment.ports]
        assert len(set(chosen)) == 2 and 0 not in chosen
        more = lab.host.run(lab.driver.publish, network, endpoint, [PortMapping("tcp", 82, 0)])
        assert more[0].host_port not in (0, *chosen)
        with listen(sandbox, 81) as server:
            assert reaches(lab.outside, HOST, chosen[1], server)
        with listen(sandbox, 82) as server:
            assert reaches(lab.outside, HOST, more[0].host_port, server)

    @needs(NetworkCapability.PUBLISH)
    def test_publish_again_and_unpublish_again(self, lab: Lab) -> None:
        """Publish again and unpublish again."""
        network = lab.network()
        _, endpoint, _ = lab.container(network)
        port = PortMapping("tcp", 80, 8080)
        for _ in range(2):
            assert lab.host.run(lab.driver.publish, network, endpoint, [port]) == (port,)
        for _ in range(2):
            lab.host.run(lab.driver.unpublish, network, endpoint, [port])
        lab.container(network, ports=(port,))

    @needs(NetworkCapability.PUBLISH)
    def test_many_at_once(self, lab: Lab) -> None:
        """Many at once."""
        network = lab.network()
        work = [(lab.endpoint(network, ports=(PortMapping("tcp", 80, 0),)), lab.namespace()) for _ in range(12)]

        def attach(item: tuple[Endpoint, Namespace]) -> int:
            done = call_in_netns(lab.host.fd, lambda: lab.driver.attach(network, item[0], item[1].fd))
            return done.ports[0].host_port

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(attach, work))) == 12

    # ------------------------------------------------------------------ damage, sweeps, restarts

    @needs(NetworkCapability.MULTIPLE)
    def test_check_names_the_damage_and_repairs_nothing(self, lab: Lab) -> None:
        """Check names the damage and repairs nothing."""
        network = lab.network()
        sandbox, endpoint, attachment = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        _run(sandbox, set_link("eth0", up=False))
        for _ in range(2):
            assert any("eth0" in line for line in lab.check(network, endpoint, sandbox))
        _run(lab.host, delete_link(attachment.host_interface))
        assert any(attachment.host_interface in line for line in lab.check(network, endpoint, sandbox))

    @needs(NetworkCapability.MULTIPLE)
    def test_gc_sweeps_only_what_is_ours_and_unknown(self, lab: Lab) -> None:
        """Gc sweeps only what is ours and unknown."""
        network, forgotten = lab.network(), lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
        lab.container(forgotten)
        _, _, lost = lab.container(network, ports=(PortMapping("tcp", 80, 9090),))
        other = lab.start(engine=_OTHER_ENGINE)
        others = replace(lab.endpoint(network), id="0a" * 32)
        other_network = Network("0b" * 32, "other", self.driver_class.name, (Subnet("10.200.0.0/24", "10.200.0.1"),))
        lab.host.run(other.create_network, other_network)
        others = replace(others, ipv4="10.200.0.2/24", network_id=other_network.id)
        other_sandbox = lab.namespace()
        lab.host.run(other.attach, other_network, others, other_sandbox.fd)
        _run(lab.host, add_bridge("sp-strange"), set_link("sp-strange", up=True))
        removed = lab.host.run(lab.driver.gc, [network], [endpoint])
        assert any(lost.host_interface in line for line in removed)
        assert lost.host_interface not in lab.host.links()
        assert "sp-strange" in lab.host.links()
        assert lab.check(network, endpoint, sandbox) == ()
        assert lab.host.run(other.check, other_network, others, other_sandbox.fd) == ()
        with listen(sandbox, 80) as server:
            assert reaches(lab.outside, HOST, 8080, server)
        assert lab.host.run(lab.driver.gc, [network], [endpoint]) == ()
        lab.container(network, ports=(PortMapping("tcp", 80, 9090),))

    @needs(NetworkCapability.PUBLISH)
    def test_a_restart_disturbs_nobody(self, lab: Lab) -> None:
        """A restart disturbs nobody."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(
            network, ports=(PortMapping("tcp", 80, 8080), PortMapping("tcp", 81, 7000, count=5))
        )
        with listen(sandbox, 80) as server, lab.outside.run(socket.create_connection, (HOST, 8080), 1) as out:
            into, _ = server.accept()
            with into:
                lab.driver = lab.start(network)  # the first daemon was killed: no close
                out.sendall(b"still here")
                assert into.recv(16) == b"still here"
                assert reaches(lab.outside, HOST, 8080, server)
        assert lab.check(network, endpoint, sandbox) == ()
        with pytest.raises(Conflict, match="already allocated"):
            lab.container(network, ports=(PortMapping("tcp", 80, 7003),))
        lab.detach(network, endpoint)
        lab.container(network, ports=(PortMapping("tcp", 80, 7003), PortMapping("tcp", 80, 8080)))

    @needs(NetworkCapability.MULTIPLE)
    def test_open_makes_what_is_missing(self, lab: Lab) -> None:
        """Open makes what is missing."""
        network = lab.network()
        for link in lab.host.links() - {"lo", "uplink"}:
            _run(lab.host, delete_link(link))
        lab.driver = lab.start(network)
        sandbox, endpoint, _ = lab.container(network)
        assert lab.check(network, endpoint, sandbox) == ()
        with listen(lab.outside, 82) as server:
            assert reaches(sandbox, OUTSIDE, 82, server) == HOST


def _run(where: Namespace, *requests: Any) -> None:
    def run() -> None:
        with Netlink() as kernel:
            kernel.run(*requests)

    where.run(run)


def _mac(where: Namespace, name: str) -> str:
    with where.run(Netlink) as kernel:
        return next(link.mac for link in kernel.links() if link.name == name)


def _has_address(where: Namespace, name: str, address: str) -> bool:
    with where.run(Netlink) as kernel:
        index = where.run(link_index, name)
        return any(item.index == index and item.address.startswith(f"{address}/") for item in kernel.addresses())


def _forge(where: Namespace, interface: str, mac: str, addresses: tuple[str, str], port: int, data: bytes) -> None:
    """Send a UDP packet to a hardware address that a well-behaved stack would not send there. RFC 791, RFC
    768.
    """
    source, target = (socket.inet_aton(address) for address in addresses)
    udp = struct.pack(">HHHH", 4444, port, 8 + len(data), 0) + data
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0, source, target)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    with where.run(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as wire:
        wire.sendto(head + udp, (interface, _ETH_P_IP, 0, 0, bytes.fromhex(mac.replace(":", ""))))
