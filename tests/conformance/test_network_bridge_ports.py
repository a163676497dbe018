"""Published ports of the bridge driver by real packets: SCTP, and where packets for the proxy go and do not go."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sampan.api.network import NetworkContext, PortMapping, Subnet
from sampan.linux.netlink import Netlink, add_address, link_index
from sampan.testing.namespaces import PATIENCE, SILENCE, Namespace, listen, reaches, unreachable
from sampan.testing.network import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab
from sampan.testing.network_ground import ENGINE
from sampan_network_bridge.driver import BridgeDriver

IPPROTO_SCTP, INIT = 132, 1
PROXY = 47001


class ProxiedLab(Lab):
    """A lab whose engine has a proxy."""

    def start(self, *networks: object, engine: str = ENGINE) -> BridgeDriver:
        driver = BridgeDriver(NetworkContext(self._state, engine, PROXY), BridgeDriver.config_model()())
        self.host.run(driver.open, networks)
        self._stack.callback(lambda: self.host.run(driver.close))
        return driver


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield ProxiedLab(BridgeDriver, {}, tmp_path, stack)


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A: the Castagnoli polynomial, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_init(source: int, destination: int) -> bytes:
    """An association's first packet (RFC 9260, section 3.3.2): common header with checksum, INIT chunk."""
    chunk = struct.pack("!BBHIIHHI", INIT, 0, 20, 1, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source, destination, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def raw_sctp(where: Namespace) -> socket.socket:
    return where.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, IPPROTO_SCTP)


def ruleset(lab: Lab) -> str:
    return str(lab.host.run(subprocess.run, ["nft", "-s", "list", "ruleset"], capture_output=True, text=True).stdout)


@pytest.mark.parametrize("first", [9899, 9900])
def test_sctp_is_translated(lab: Lab, first: int) -> None:
    """This kernel need not speak SCTP for it: packets are seen as they leave and as they come. A range that keeps its
    numbers, and one that shifts them.
    """
    sandbox, _, _ = lab.container(lab.network(), ports=(PortMapping("sctp", 9899, first, count=3),))
    with raw_sctp(lab.outside) as client, raw_sctp(sandbox) as server:
        server.settimeout(PATIENCE)
        client.sendto(sctp_init(5000, first + 2), (HOST, 0))
        packet, (peer, _) = server.recvfrom(2048)
        payload = packet[(packet[0] & 15) * 4 :]
        assert (peer, struct.unpack_from("!HH", payload)) == (OUTSIDE, (5000, 9901))
        assert payload == sctp_init(5000, 9901), "with a checksum that holds"
        server.settimeout(SILENCE)
        client.sendto(sctp_init(5000, first + 3), (HOST, 0))
        with pytest.raises(TimeoutError):
            server.recvfrom(2048)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ipv6_goes_to_the_proxy_where_the_container_has_none(lab: Lab, protocol: str) -> None:
    network = lab.network(subnets=(Subnet("10.77.0.0/24", "10.77.0.1"),))
    _, endpoint, _ = lab.container(network, ports=(PortMapping(protocol, 80, 8080), PortMapping(protocol, 90, 90, "::1", 3)))
    with listen(lab.host, PROXY, protocol=protocol, family=6) as proxy:
        for client, address, port in ((lab.host, "::1", 8080), (lab.host, "::1", 92), (lab.outside, HOST6, 8080)):
            assert reaches(client, address, port, proxy)
        for client, address, port in ((lab.host, HOST6, 91), (lab.outside, HOST6, 91), (lab.host, "::1", 8081), (lab.outside, HOST6, 8081)):
            assert unreachable(client, address, port, proxy)
        for client, address in ((lab.host, "::1"), (lab.outside, HOST6)):  # nobody has business there who was not sent
            assert unreachable(client, address, PROXY, proxy)
        lab.detach(network, endpoint)
        assert unreachable(lab.host, "::1", 8080, proxy)


def test_with_ipv6_in_the_container_only_loopback_goes_to_the_proxy(lab: Lab) -> None:
    network = lab.network(subnets=(Subnet("10.77.0.0/24", "10.77.0.1"), Subnet("fd00:77::/64", "fd00:77::1")))
    sandbox, _, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    with listen(lab.host, PROXY, family=6) as proxy, listen(sandbox, 80, family=6) as server:
        assert reaches(lab.outside, HOST6, 8080, server) == OUTSIDE6
        assert reaches(lab.host, HOST6, 8080, server)
        assert reaches(lab.host, "::1", 8080, proxy)
        assert unreachable(lab.outside, HOST6, 8080, proxy)


def test_another_address_of_the_host_is_another_port(lab: Lab) -> None:
    def add() -> None:
        with Netlink() as kernel:
            kernel.run(add_address(link_index("uplink"), "192.0.2.2/24"))

    lab.host.run(add)
    network = lab.network()
    one, _, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080, HOST),))
    two, _, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080, "192.0.2.2"),))
    with listen(one, 80) as first, listen(two, 80) as second:
        assert reaches(lab.outside, HOST, 8080, first)
        assert reaches(lab.outside, "192.0.2.2", 8080, second)
        assert unreachable(lab.host, "127.0.0.1", 8080, first)


def test_ports_are_known_again_after_a_restart(lab: Lab) -> None:
    """All forms of elements are read back from the kernel, and nothing is there twice."""
    network = lab.network()
    asked = (
        PortMapping("tcp", 80, 8080), PortMapping("udp", 90, 90, count=5), PortMapping("tcp", 100, 200, count=3),
        PortMapping("tcp", 80, 8081, "::1"), PortMapping("udp", 70, 7000, HOST6, 4), PortMapping("sctp", 9, 9, "127.0.0.1"),
    )  # fmt: skip
    _, endpoint, _ = lab.container(network, ports=asked)
    before = ruleset(lab)
    lab.restart(network)
    assert lab.host.run(lab.driver.repair, network, endpoint) == ()
    assert lab.host.run(lab.driver.publish, network, endpoint, endpoint.ports) == endpoint.ports
    assert ruleset(lab) == before
    lab.detach(network, endpoint)
    gone = ruleset(lab)
    assert "elements" in before and all(f" {port}" not in gone for port in (8080, 8081, 7000))


def test_ports_that_were_not_recorded_are_swept(lab: Lab) -> None:
    """A daemon that died after it published one more of a live endpoint's ports; the others stay as they are."""
    network = lab.network()
    sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    lab.host.run(lab.driver.publish, network, endpoint, [PortMapping("tcp", 80, 8081)])
    lab.restart(network)
    assert lab.host.run(lab.driver.gc, [network], [endpoint]) != ()
    with listen(sandbox, 80) as server:
        assert reaches(lab.outside, HOST, 8080, server)
        assert unreachable(lab.outside, HOST, 8081, server)
    assert lab.host.run(lab.driver.gc, [network], [endpoint]) == ()
    lab.container(network, ports=(PortMapping("tcp", 80, 8081),))
