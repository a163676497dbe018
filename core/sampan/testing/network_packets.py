"""The network suite: who reaches whom, with real packets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sampan.api.network import NetworkCapability
from sampan.linux.netlink import add_route, link_index
from sampan.testing.namespaces import PATIENCE, listen, reaches, unreachable
from sampan.testing.network_ground import (
    HOST,
    HOST6,
    OUTSIDE,
    OUTSIDE6,
    SERVER,
    SERVER6,
    Lab,
    address6_of,
    address_of,
    change,
    has_address,
)  # fmt: skip
from sampan.testing.selection import needs


class PacketCases:
    """Within a network all is open, between networks nothing, and outside is reached as the driver claims."""

    # ------------------------------------------------------------------ within a network

    @needs(NetworkCapability.ADDRESSES)
    def test_containers_reach_each_other(self, lab: Lab) -> None:
        """Containers of a network reach each other, by the addresses that they were given."""
        network = lab.network()
        one, first, _ = lab.container(network)
        two, second, _ = lab.container(network)
        for protocol in ("tcp", "udp"):
            with listen(two, 80, protocol=protocol) as server:
                assert reaches(one, address_of(second), 80, server) == address_of(first)
                assert reaches(two, address_of(second), 80, server) == address_of(second)

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.IPV6)
    def test_containers_reach_each_other_by_ipv6(self, lab: Lab) -> None:
        """By IPv6 too, at once: nobody waits for duplicate address detection."""
        network = lab.network(versions=(4, 6))
        one, first, _ = lab.container(network)
        two, second, _ = lab.container(network)
        for protocol in ("tcp", "udp"):
            with listen(two, 80, protocol=protocol, family=6) as server:
                assert reaches(one, address6_of(second), 80, server) == address6_of(first)

    @needs(NetworkCapability.ADDRESSES)
    def test_the_sandbox_has_its_addresses_and_no_others(self, lab: Lab) -> None:
        """An endpoint without an IPv6 address has IPv6 off on its link: a container is not reached where nobody expects it."""
        sandbox, endpoint, _ = lab.container(lab.network())
        assert has_address(sandbox, endpoint.interface, address_of(endpoint))
        switch = Path(f"/proc/sys/net/ipv6/conf/{endpoint.interface}/disable_ipv6")
        if sandbox.run(switch.exists):  # a kernel without IPv6 has none
            assert sandbox.run(switch.read_text) == "1\n"

    @needs(NetworkCapability.ADDRESSES)
    def test_an_internal_network_has_no_outside(self, lab: Lab) -> None:
        """An internal network has no outside."""
        lab.network()  # the host forwards for this one
        network = lab.network(internal=True)
        one, _, _ = lab.container(network)
        two, second, _ = lab.container(network)
        with listen(two, 80) as server:
            assert reaches(one, address_of(second), 80, server)
        # even if both ends route there by themselves
        change(one, add_route("0.0.0.0/0", gateway=str(network.subnets[0].gateway)))
        change(lab.outside, add_route(network.subnets[0].prefix, gateway=HOST))
        with listen(lab.outside, 82) as server:
            assert unreachable(one, OUTSIDE, 82, server)
        with listen(two, 80) as server:
            assert unreachable(lab.outside, address_of(second), 80, server)

    # ------------------------------------------------------------------ several networks

    @needs(NetworkCapability.ADDRESSES, NetworkCapability.MULTIPLE)
    def test_networks_are_isolated(self, lab: Lab) -> None:
        """Networks are isolated."""
        one, endpoint, _ = lab.container(lab.network())
        two, second, _ = lab.container(lab.network())
        with listen(two, 80) as server:
            assert unreachable(one, address_of(second), 80, server)
            change(one, add_route(f"{address_of(second)}/32", index=one.run(link_index, endpoint.interface)))
            assert unreachable(one, address_of(second), 80, server), "a neighbour on the link, if it says so itself"

    # ------------------------------------------------------------------ the host and outside

    @needs(NetworkCapability.NAT)
    def test_containers_reach_the_host_and_outside(self, lab: Lab) -> None:
        """Containers reach the host and outside."""
        network = lab.network()
        one, first, _ = lab.container(network)
        with listen(one, 80) as server:
            assert reaches(lab.host, address_of(first), 80, server) == network.subnets[0].gateway
        with listen(lab.host, 81) as server:
            assert reaches(one, HOST, 81, server) == address_of(first)
        with listen(lab.outside, 82) as server:
            assert reaches(one, OUTSIDE, 82, server) == HOST, "traffic to the outside must bear the host's address"
        with listen(lab.outside, 83, protocol="udp") as server:
            assert reaches(one, OUTSIDE, 83, server) == HOST

    @needs(NetworkCapability.NAT)
    def test_from_outside_no_container_is_reached_by_its_address(self, lab: Lab) -> None:
        """From outside no container is reached by its address."""
        sandbox, endpoint, _ = lab.container(lab.network())
        change(lab.outside, add_route(f"{address_of(endpoint)}/32", gateway=HOST))
        with listen(sandbox, 80) as server:
            assert unreachable(lab.outside, address_of(endpoint), 80, server)

    @needs(NetworkCapability.NAT, NetworkCapability.IPV6)
    def test_containers_reach_outside_by_ipv6(self, lab: Lab) -> None:
        """By IPv6 a container bears the host's address too, and is not reached by its own."""
        network = lab.network(versions=(4, 6))
        sandbox, endpoint, _ = lab.container(network)
        with listen(lab.outside, 82, family=6) as server:
            assert reaches(sandbox, OUTSIDE6, 82, server) == HOST6
        change(lab.outside, add_route(f"{address6_of(endpoint)}/128", gateway=HOST6))
        with listen(sandbox, 80, family=6) as server:
            assert unreachable(lab.outside, address6_of(endpoint), 80, server)

    @needs(NetworkCapability.NAT)
    def test_a_server_behind_a_router(self, lab: Lab) -> None:
        """A server behind a router is reached, and answers to the host's address."""
        server = lab.server()
        sandbox, _, _ = lab.container(lab.network(versions=lab.versions))
        for protocol in ("tcp", "udp"):
            with listen(server, 82, protocol=protocol) as listener:
                assert reaches(sandbox, SERVER, 82, listener) == HOST
        if 6 in lab.versions:
            with listen(server, 83, family=6) as listener:
                assert reaches(sandbox, SERVER6, 83, listener) == HOST6

    @needs(NetworkCapability.NAT)
    def test_errors_come_back(self, lab: Lab) -> None:
        """Nobody waits for what is refused: resets and ICMP errors find their way to the container."""
        lab.server()
        sandbox, _, _ = lab.container(lab.network())
        for address in (SERVER, OUTSIDE, HOST):
            with pytest.raises(ConnectionRefusedError):
                sandbox.run(socket.create_connection, (address, 9), PATIENCE)
            with sandbox.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.settimeout(PATIENCE)
                out.connect((address, 9))
                out.send(b"anybody?")
                with pytest.raises(ConnectionRefusedError):
                    out.recv(16)
