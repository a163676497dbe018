"""The network suite: published ports."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.api.errors import Conflict
from sampan.api.network import Endpoint, NetworkCapability, PortMapping
from sampan.linux.namespaces import call_in_netns
from sampan.testing.namespaces import PATIENCE, Namespace, listen, reaches, unreachable
from sampan.testing.network_ground import (
    HOST,
    HOST6,
    OUTSIDE,
    OUTSIDE6,
    SERVER,
    SERVER6,
    Lab,
    address_of,
    forge,
    has_address,
    mac_of_link,
)  # fmt: skip
from sampan.testing.selection import needs


class PortCases:
    """A published port is reached from everywhere it should be, and from nowhere else."""

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

    @needs(NetworkCapability.PUBLISH, NetworkCapability.IPV6)
    def test_a_published_port_is_reached_by_ipv6(self, lab: Lab) -> None:
        """A published port is reached by IPv6."""
        sandbox, _, _ = lab.container(lab.network(versions=(4, 6)), ports=(PortMapping("tcp", 80, 8080),))
        with listen(sandbox, 80, family=6) as server:
            assert reaches(lab.outside, HOST6, 8080, server) == OUTSIDE6
            assert reaches(lab.outside, HOST, 8080, server) == f"::ffff:{OUTSIDE}"

    @needs(NetworkCapability.PUBLISH)
    def test_a_published_port_is_reached_from_behind_a_router(self, lab: Lab) -> None:
        """A client behind a router reaches a published port, is seen by its own address, and is refused where nobody listens."""
        client = lab.server()
        sandbox, _, _ = lab.container(
            lab.network(versions=lab.versions), ports=(PortMapping("tcp", 80, 8080), PortMapping("udp", 53, 5300))
        )
        with listen(sandbox, 80) as server, listen(sandbox, 53, protocol="udp") as names:
            assert reaches(client, HOST, 8080, server) == SERVER
            assert reaches(client, HOST, 5300, names) == SERVER
        if 6 in lab.versions:
            with listen(sandbox, 80, family=6) as server:
                assert reaches(client, HOST6, 8080, server) == SERVER6
        with pytest.raises(ConnectionRefusedError):
            client.run(socket.create_connection, (HOST, 8080), PATIENCE)
        with client.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.settimeout(PATIENCE)
            out.connect((HOST, 5300))
            out.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                out.recv(16)

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
        mac = mac_of_link(lab.host, "uplink")
        with listen(sandbox, 53, protocol="udp") as server:
            for target, port in (("127.0.0.1", 5301), ("127.0.0.1", 5300), (address_of(endpoint), 53), (HOST, 5301)):
                forge(lab.outside, "wire", mac, (OUTSIDE, target), port, b"forged")
            forge(lab.outside, "wire", mac, (OUTSIDE, HOST), 5300, b"allowed")
            assert server.recv(16) == b"allowed", "a forged packet got in"

    @needs(NetworkCapability.PUBLISH)
    def test_a_container_forges_packets_to_the_hosts_loopback(self, lab: Lab) -> None:
        """A container forges packets to the host's loopback."""
        network = lab.network()
        sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080, host_ip="127.0.0.1"),))
        gateway = str(network.subnets[0].gateway)
        with listen(lab.host, 7777, protocol="udp") as server:
            assert reaches(sandbox, gateway, 7777, server)  # the sandbox knows the gateway's hardware address now
            mac = next(mac_of_link(lab.host, name) for name in lab.host.links() if has_address(lab.host, name, gateway))
            forge(sandbox, endpoint.interface, mac, (address_of(endpoint), "127.0.0.1"), 7777, b"forged")
            forge(sandbox, endpoint.interface, mac, (address_of(endpoint), gateway), 7777, b"allowed")
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
    def test_a_client_that_goes_on_by_udp_is_not_heard_after_unpublish(self, lab: Lab) -> None:
        """Nor by a port that stays, until it sends there."""
        network = lab.network()
        stays, goes = PortMapping("udp", 53, 5300), PortMapping("udp", 53, 5301)
        sandbox, endpoint, _ = lab.container(network, ports=(stays, goes))
        with listen(sandbox, 53, protocol="udp") as server, lab.outside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as out:
            for port in (5300, 5301):
                out.sendto(b"before", (HOST, port))
                assert server.recv(16) == b"before"
            lab.host.run(lab.driver.unpublish, network, endpoint, [goes])
            out.sendto(b"to nobody", (HOST, 5301))
            out.sendto(b"after", (HOST, 5300))
            assert server.recv(16) == b"after"

    @needs(NetworkCapability.PUBLISH)
    def test_many_ports_at_once(self, lab: Lab) -> None:
        """Many free ports are chosen at once, none twice."""
        network = lab.network()
        work = [(lab.endpoint(network, ports=(PortMapping("tcp", 80, 0),)), lab.namespace()) for _ in range(12)]

        def attach(item: tuple[Endpoint, Namespace]) -> int:
            done = call_in_netns(lab.host.fd, lambda: lab.driver.attach(network, item[0], item[1].fd))
            return done.ports[0].host_port

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(attach, work))) == 12
