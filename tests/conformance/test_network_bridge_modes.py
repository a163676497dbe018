"""Bridge networks by their options: gateway modes, sources, trusted links, isolation. The suite tests the usual ones."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.api.errors import Conflict, InvalidArgument, SampanError
from sampan.api.network import Endpoint, Network, PortMapping, Subnet
from sampan.linux.netlink import Netlink, add_address, add_bridge, add_route, add_veth, delete_link, link_index
from sampan.linux.sysctl import set_sysctl
from sampan.testing.namespaces import Namespace, listen, reaches, unreachable
from sampan.testing.network import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, address6_of, address_of
from sampan.testing.network_ground import change, forge, has_address, mac_of_link
from sampan_network_bridge.driver import BridgeDriver

DOCKER = "com.docker.network"
BRIDGE = f"{DOCKER}.bridge"
BRIDGED_ARE_SEEN = ("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables")


@pytest.fixture(params=["bridged packets unseen", "bridged packets seen"])
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A host where br_netfilter shows bridged packets to the table, and one where it does not."""
    with ExitStack() as stack:
        made = Lab(BridgeDriver, {}, tmp_path, stack)
        for name in BRIDGED_ARE_SEEN if made.host.run(Path("/proc/sys/net/bridge").exists) else ():
            made.host.run(set_sysctl, name, str(int(request.param.endswith(" seen"))))
        yield made


def mode(name: str) -> dict[str, str]:
    return {f"{BRIDGE}.gateway_mode_ipv4": name, f"{BRIDGE}.gateway_mode_ipv6": name}


def route_from_outside(lab: Lab, network: Network) -> None:
    """Let the neighbour on the wire send to containers by their addresses, as a router would."""
    for subnet in network.subnets:
        change(lab.outside, add_route(subnet.prefix, gateway=HOST if subnet.version == 4 else HOST6))


def pings(where: Namespace, address: str) -> bool:
    """Send an echo request (RFC 792, RFC 4443) and wait for the reply."""
    family, protocol, kind = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128) if ":" in address else (socket.AF_INET, socket.IPPROTO_ICMP, 8)
    )
    body = struct.pack(">HH", 4711, 1)
    checksum = 0xFFFF - ((kind << 8) + 4711 + 1)  # the kernel's, for ICMPv6
    with where.run(socket.socket, family, socket.SOCK_RAW, protocol) as wire:
        wire.settimeout(0.4)
        wire.sendto(struct.pack(">BBH", kind, 0, checksum) + body, (address, 0))
        try:
            return wire.recv(256).endswith(body)
        except TimeoutError:
            return False


# ---------------------------------------------------------------- gateway modes


def test_nat_is_one_way(lab: Lab) -> None:
    network = lab.network(versions=(4, 6))
    sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    route_from_outside(lab, network)
    with listen(lab.outside, 82) as server:
        assert reaches(sandbox, OUTSIDE, 82, server) == HOST
    with listen(lab.outside, 82, family=6) as server:
        assert reaches(sandbox, OUTSIDE6, 82, server) == HOST6
    with listen(sandbox, 80, family=6) as server:
        assert reaches(lab.outside, HOST6, 8080, server) == OUTSIDE6
        for address in (address_of(endpoint), address6_of(endpoint)):
            assert unreachable(lab.outside, address, 80, server)
            assert not pings(lab.outside, address)


def test_routed_has_doors_and_bears_its_own_address(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), options=mode("routed"))
    sandbox, endpoint, attachment = lab.container(network, ports=(PortMapping("tcp", 80, 8080), PortMapping("tcp", 90, 0, count=3)))
    assert [mapping.host_port for mapping in attachment.ports] == [0, 0]
    other, _, _ = lab.container(lab.network(versions=(4, 6)))
    routed, _, _ = lab.container(lab.network(versions=(4, 6), options=mode("routed")))
    route_from_outside(lab, network)
    with listen(lab.outside, 82) as server:
        assert reaches(sandbox, OUTSIDE, 82, server) == address_of(endpoint)
    with listen(lab.outside, 82, family=6) as server:
        assert reaches(sandbox, OUTSIDE6, 82, server) == address6_of(endpoint)
    for address in (address_of(endpoint), address6_of(endpoint)):
        assert pings(lab.outside, address)
        for port in (80, 92):
            with listen(sandbox, port, family=6) as server:
                for client in (lab.outside, lab.host, other, routed):
                    assert reaches(client, address, port, server), "a published port is reached from everywhere"
        with listen(sandbox, 81, family=6) as server:
            assert reaches(lab.host, address, 81, server)
            for client in (lab.outside, other, routed):
                assert unreachable(client, address, 81, server), "and no other"
    with listen(sandbox, 80, family=6) as server:
        assert unreachable(lab.outside, HOST, 8080, server)
        assert unreachable(lab.outside, HOST6, 8080, server)
        assert lab.check(network, endpoint, sandbox) == ()
        lab.host.run(lab.driver.unpublish, network, endpoint, endpoint.ports)
        assert unreachable(lab.outside, address_of(endpoint), 80, server)


def test_doors_outlive_the_daemon_and_go_with_the_container(lab: Lab) -> None:
    network = lab.network(options=mode("routed"))
    sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 0),))
    route_from_outside(lab, network)
    lab.driver = lab.start(network)
    assert lab.check(network, endpoint, sandbox) == ()
    lab.host.run(subprocess.run, ["nft", "flush", "set", "inet", "sampan_5a3bca7e", "doors4"], check=True)
    assert any("80" in line or "0/tcp" in line for line in lab.check(network, endpoint, sandbox))
    assert lab.host.run(lab.driver.repair, network, endpoint)
    assert lab.check(network, endpoint, sandbox) == ()
    assert lab.host.run(lab.driver.repair, network, endpoint) == ()
    with listen(sandbox, 80) as server:
        assert reaches(lab.outside, address_of(endpoint), 80, server)
    lab.detach(network, endpoint)
    successor = lab.namespace()
    lab.attach(network, lab.endpoint(network, ipv4=endpoint.ipv4), successor)
    with listen(successor, 80) as server:
        assert unreachable(lab.outside, address_of(endpoint), 80, server), "the next one with this address has not published it"


def test_nat_unprotected_is_reached_on_every_port_and_still_translated(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), options=mode("nat-unprotected"))
    sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    other, _, _ = lab.container(lab.network(versions=(4, 6)))
    route_from_outside(lab, network)
    with listen(lab.outside, 82) as server:
        assert reaches(sandbox, OUTSIDE, 82, server) == HOST
    with listen(sandbox, 80, family=6) as server:
        assert reaches(lab.outside, HOST, 8080, server)
    with listen(sandbox, 81, family=6) as server:
        for address in (address_of(endpoint), address6_of(endpoint)):
            assert reaches(lab.outside, address, 81, server)
            assert reaches(other, address, 81, server)


def test_one_mode_for_ipv4_and_another_for_ipv6(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), options={f"{BRIDGE}.gateway_mode_ipv6": "routed"})
    sandbox, endpoint, attachment = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    assert attachment.ports == (PortMapping("tcp", 80, 8080),)
    route_from_outside(lab, network)
    with listen(sandbox, 80, family=6) as server:
        assert reaches(lab.outside, HOST, 8080, server) == f"::ffff:{OUTSIDE}"
        assert unreachable(lab.outside, address_of(endpoint), 80, server)
        assert reaches(lab.outside, address6_of(endpoint), 80, server) == OUTSIDE6
        assert unreachable(lab.outside, HOST6, 8080, server)


def test_isolated_has_no_host_in_it(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), internal=True, options=mode("isolated"))
    one, first, _ = lab.container(network)
    two, second, _ = lab.container(network)
    bridge = next(name for name in lab.host.links() if name.startswith("sp-"))
    assert not any(has_address(lab.host, bridge, str(subnet.gateway)) for subnet in network.subnets)
    assert lab.host.run(Path(f"/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6").read_text) == "1\n"
    with listen(two, 80, family=6) as server:
        for address in (address_of(second), address6_of(second)):
            assert reaches(one, address, 80, server)
            assert unreachable(lab.host, address, 80, server)
    assert lab.check(network, first, one) == ()
    with pytest.raises(InvalidArgument, match="can only be used for an internal network"):
        lab.network(options=mode("isolated"))


def test_ipv6_only(lab: Lab) -> None:
    network = lab.network(versions=(6,))
    one, first, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    two, _, _ = lab.container(network)
    assert first.ipv4 is None
    with listen(one, 80, family=6) as server:
        assert reaches(two, address6_of(first), 80, server)
        assert reaches(two, HOST6, 8080, server)
        assert reaches(one, HOST6, 8080, server), "its own, by way of the host"
        assert reaches(lab.outside, HOST6, 8080, server) == OUTSIDE6
        assert unreachable(lab.outside, HOST, 8080, server)
    with listen(lab.outside, 82, family=6) as server:
        assert reaches(one, OUTSIDE6, 82, server) == HOST6
    assert lab.check(network, first, one) == ()


# ---------------------------------------------------------------- other options


def test_the_source_of_what_leaves(lab: Lab) -> None:
    options = {f"{DOCKER}.host_ipv4": "192.0.2.77", f"{DOCKER}.host_ipv6": "2001:db8::77"}
    uplink = lab.host.run(link_index, "uplink")
    change(lab.host, add_address(uplink, "192.0.2.77/24"), add_address(uplink, "2001:db8::77/64"))
    network = lab.network(versions=(4, 6), options=options)
    sandbox, endpoint, _ = lab.container(network)
    with listen(lab.outside, 82) as server:
        assert reaches(sandbox, OUTSIDE, 82, server) == "192.0.2.77"
    with listen(lab.outside, 82, family=6) as server:
        assert reaches(sandbox, OUTSIDE6, 82, server) == "2001:db8::77"
    lab.driver = lab.start(network)
    assert lab.check(network, endpoint, sandbox) == ()
    lab.detach(network, endpoint)
    lab.host.run(lab.driver.delete_network, network)
    assert "sources4 { }" not in _table(lab) and '"sp-' not in _table(lab), "nothing of it is left in the table"


def test_trusted_links_reach_published_ports_at_the_containers_address(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), options={f"{BRIDGE}.trusted_host_interfaces": "nothere:uplink"})
    sandbox, endpoint, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    other, _, _ = lab.container(lab.network(versions=(4, 6)))
    route_from_outside(lab, network)
    for address in (address_of(endpoint), address6_of(endpoint)):
        with listen(sandbox, 80, family=6) as server:
            assert reaches(lab.outside, address, 80, server)
            assert unreachable(other, address, 80, server)
        with listen(sandbox, 81, family=6) as server:
            assert unreachable(lab.outside, address, 81, server)


def test_a_door_of_two_ports_stays_until_both_are_gone(lab: Lab) -> None:
    network = lab.network(options={f"{BRIDGE}.trusted_host_interfaces": "uplink"})
    one, other = PortMapping("tcp", 80, 8080), PortMapping("tcp", 80, 8081)
    sandbox, endpoint, _ = lab.container(network, ports=(one, other))
    change(lab.outside, add_route(f"{address_of(endpoint)}/32", gateway=HOST))
    with listen(sandbox, 80) as server:
        lab.host.run(lab.driver.unpublish, network, endpoint, [other])
        assert reaches(lab.outside, address_of(endpoint), 80, server) == OUTSIDE
        assert unreachable(lab.outside, HOST, 8081, server)
        lab.host.run(lab.driver.unpublish, network, replace(endpoint, ports=(one,)), [one])
        assert unreachable(lab.outside, address_of(endpoint), 80, server)


def test_inhibit_ipv4_leaves_the_gateway_to_another(lab: Lab) -> None:
    """The network's router is a container, or what else somebody put into the bridge."""
    network = lab.network(options={f"{BRIDGE}.inhibit_ipv4": "true", f"{BRIDGE}.name": "br8"})
    assert not has_address(lab.host, "br8", str(network.subnets[0].gateway))
    router, _, _ = lab.container(network, ipv4=f"{network.subnets[0].gateway}/24", gateway_for=())
    change(router, add_address(router.run(link_index, "lo"), "198.51.100.1/32"))
    sandbox, endpoint, _ = lab.container(network)
    with listen(router, 80) as server:
        assert reaches(sandbox, "198.51.100.1", 80, server) == address_of(endpoint)


def test_switches_of_one_interface(lab: Lab) -> None:
    text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2"
    network = lab.network(versions=(4, 6))
    sandbox, _, _ = lab.container(network, interface="eth3", options={f"{DOCKER}.endpoint.sysctls": text})
    assert sandbox.run(Path("/proc/sys/net/ipv4/conf/eth3/log_martians").read_text) == "1\n"
    assert sandbox.run(Path("/proc/sys/net/ipv6/conf/eth3/accept_ra").read_text) == "2\n"
    before = lab.host.links()
    with pytest.raises(InvalidArgument, match="ipv4/conf/eth0/no_such"):
        lab.container(network, options={f"{DOCKER}.endpoint.sysctls": "net.ipv4.conf.IFNAME.no_such=1"})
    assert lab.host.links() == before


def test_ports_on_one_ipv6_address_unless_said_otherwise(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), options={f"{BRIDGE}.host_binding_ipv4": HOST6})
    sandbox, _, made = lab.container(network, ports=(PortMapping("tcp", 80, 8080), PortMapping("tcp", 80, 8081, "0.0.0.0")))
    assert made.ports[0].host_ip == HOST6
    with listen(sandbox, 80, family=6) as server:
        assert reaches(lab.outside, HOST6, 8080, server) == OUTSIDE6
        assert unreachable(lab.outside, HOST, 8080, server)
        assert reaches(lab.outside, HOST, 8081, server)


def test_a_network_that_cannot_be_finished_leaves_nothing(lab: Lab) -> None:
    before, table = lab.host.links(), _table(lab)
    with pytest.raises(SampanError):  # no link can have a multicast address, and the bridge is made by then
        lab.network(subnets=(Subnet("10.9.0.0/24", "10.9.0.1"), Subnet("fd09::/64", "ff02::9")))
    assert (lab.host.links(), _table(lab)) == (before, table)


def test_two_networks_cannot_share_a_bridge(lab: Lab) -> None:
    change(lab.host, add_bridge("theirs"))
    network = lab.network(options={f"{BRIDGE}.name": "theirs"})
    sandbox, endpoint, _ = lab.container(network)
    other = lab.describe(options={f"{BRIDGE}.name": "theirs"})
    with pytest.raises(Conflict, match="same bridge name"):
        lab.host.run(lab.driver.create_network, other)
    lab.host.run(lab.driver.delete_network, other)
    assert lab.check(network, endpoint, sandbox) == (), "what was never made takes nothing with it"


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("options", [
    {}, mode("nat-unprotected"), mode("routed"), {f"{BRIDGE}.enable_icc": "false"}, {f"{BRIDGE}.trusted_host_interfaces": "a:b"},
    {f"{DOCKER}.host_ipv4": HOST, f"{DOCKER}.host_ipv6": HOST6}, {f"{BRIDGE}.enable_ip_masquerade": "false"},
])  # fmt: skip
def test_what_is_rendered_is_in_the_table_and_goes_with_the_network(lab: Lab, options: dict[str, str], internal: bool) -> None:
    """Written by nft's text, read back by its JSON: both are the same, so that a restart finds no difference."""
    empty = _table(lab)
    networks = [lab.network(versions=(4, 6), options=options, internal=internal) for _ in range(2)]
    sandbox, endpoint, _ = lab.container(networks[0])
    assert lab.check(networks[0], endpoint, sandbox) == ()
    lab.host.run(lab.driver.delete_network, networks[1])
    assert lab.check(networks[0], endpoint, sandbox) == ()
    lab.detach(networks[0], endpoint)
    lab.host.run(lab.driver.delete_network, networks[0])
    assert _table(lab) == empty


# ---------------------------------------------------------------- several endpoints


def test_the_gateway_moves_between_networks(lab: Lab) -> None:
    """Two networks that leave with different sources: the server outside sees which one a packet went by."""
    uplink = lab.host.run(link_index, "uplink")
    change(lab.host, add_address(uplink, "192.0.2.71/24"), add_address(uplink, "192.0.2.72/24"))
    change(lab.host, add_address(uplink, "2001:db8::71/64"), add_address(uplink, "2001:db8::72/64"))
    left, right = (
        lab.network(versions=(4, 6), options={f"{DOCKER}.host_ipv4": f"192.0.2.{n}", f"{DOCKER}.host_ipv6": f"2001:db8::{n}"})
        for n in (71, 72)
    )
    sandbox, first, _ = lab.container(left)
    second = lab.endpoint(right, interface="eth1", gateway_for=())
    lab.attach(right, second, sandbox)

    def ways() -> tuple[str, str]:
        with listen(lab.outside, 82) as server, listen(lab.outside, 83, family=6) as server6:
            return reaches(sandbox, OUTSIDE, 82, server), reaches(sandbox, OUTSIDE6, 83, server6)

    def lead(network: Network, endpoint: Endpoint, *versions: int) -> None:
        led = Endpoint(**{**{name: getattr(endpoint, name) for name in Endpoint.__slots__}, "gateway_for": versions})
        lab.host.run(lab.driver.set_gateway, network, led, sandbox.fd)

    assert ways() == ("192.0.2.71", "2001:db8::71")
    lead(right, second, 6)
    assert ways() == ("192.0.2.71", "2001:db8::72")
    lead(right, second, 4)
    lead(left, first, 6)
    assert ways() == ("192.0.2.72", "2001:db8::71")
    lab.detach(right, second)  # the sandbox lives on
    assert ways()[0] == ""
    lead(left, first, 4, 6)
    assert ways() == ("192.0.2.71", "2001:db8::71")


# ---------------------------------------------------------------- isolation and forgery


def test_without_icc_neighbours_are_closed_by_ipv6_too(lab: Lab) -> None:
    for options in ({}, mode("nat-unprotected"), mode("routed")):
        network = lab.network(versions=(4, 6), options={f"{BRIDGE}.enable_icc": "false", **options})
        one, _, _ = lab.container(network)
        two, second, _ = lab.container(network, ports=(PortMapping("tcp", 80, 0),))
        with listen(two, 81, family=6) as server:
            assert reaches(lab.host, address6_of(second), 81, server)
            assert unreachable(one, address_of(second), 81, server)
            assert unreachable(one, address6_of(second), 81, server)


def test_an_answer_cannot_be_forged_into_a_container(lab: Lab) -> None:
    """A container that forges its neighbour's source makes the kernel expect answers to the neighbour; none may come in.

    Both the colluding server's answer by our translation and its packet straight to the address are tried.
    """
    near, far = lab.network(), lab.network()
    victim, endpoint, _ = lab.container(near)
    accomplice, forger, _ = lab.container(far)
    route_from_outside(lab, near)
    bridge = next(name for name in lab.host.links() if has_address(lab.host, name, str(far.subnets[0].gateway)))
    with listen(lab.outside, 5353, protocol="udp") as server, listen(victim, 4444, protocol="udp") as target:
        forge(accomplice, forger.interface, mac_of_link(lab.host, bridge), (address_of(endpoint), OUTSIDE), 5353, b"open")
        data, seen = server.recvfrom(16)
        assert data == b"open"
        server.sendto(b"forged", seen)
        server.sendto(b"forged", (address_of(endpoint), 4444))
        target.settimeout(0.4)
        with pytest.raises(TimeoutError):
            target.recv(16)
    with listen(lab.outside, 5354, protocol="udp") as server, listen(victim, 4444, protocol="udp") as target:
        target.sendto(b"real", (OUTSIDE, 5354))
        data, seen = server.recvfrom(16)
        assert (data, seen[0]) == (b"real", HOST)
        server.sendto(b"answer", seen)
        assert target.recv(16) == b"answer"


def test_internal_is_within_and_the_host(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), internal=True)
    sandbox, endpoint, _ = lab.container(network)
    gateway, gateway6 = (str(subnet.gateway) for subnet in network.subnets)
    route_from_outside(lab, network)
    for address, way in ((OUTSIDE, gateway), (OUTSIDE6, gateway6)):
        change(sandbox, add_route(f"{address}/{128 if ':' in address else 32}", gateway=way))
    with listen(lab.host, 81, family=6) as server:
        assert reaches(sandbox, gateway, 81, server)
        assert reaches(sandbox, gateway6, 81, server)
    with listen(sandbox, 80, family=6) as server:
        for address in (address_of(endpoint), address6_of(endpoint)):
            assert reaches(lab.host, address, 80, server)
            assert unreachable(lab.outside, address, 80, server)
    with listen(lab.outside, 82, family=6) as server:
        assert unreachable(sandbox, OUTSIDE, 82, server)
        assert unreachable(sandbox, OUTSIDE6, 82, server)
    published, _, _ = lab.container(lab.network(versions=(4, 6)), ports=(PortMapping("tcp", 80, 8080),))
    with listen(published, 80, family=6) as server:
        assert reaches(lab.host, gateway, 8080, server)
        for address in (gateway, gateway6):
            with pytest.raises(ConnectionRefusedError):
                sandbox.run(socket.create_connection, (address, 8080), 5)


def _table(lab: Lab) -> str:
    listed = lab.host.run(subprocess.run, ["nft", "list", "table", "inet", "sampan_5a3bca7e"], capture_output=True, text=True)
    return str(listed.stdout)


# ---------------------------------------------------------------- what others broke


def test_a_host_whose_new_links_do_not_forward(lab: Lab) -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        lab.host.run(set_sysctl, name, "1")
    for name in ("ipv4/conf/default/forwarding", "ipv6/conf/default/forwarding", "ipv6/conf/default/disable_ipv6"):
        lab.host.run(set_sysctl, name, str(int(name.endswith("disable_ipv6"))))
    sandbox, _, _ = lab.container(lab.network(versions=(4, 6)))
    with listen(lab.outside, 82, family=6) as server:
        assert reaches(sandbox, OUTSIDE, 82, server) == f"::ffff:{HOST}"
        assert reaches(sandbox, OUTSIDE6, 82, server) == HOST6


def test_a_lost_bridge_is_made_again_with_its_links(lab: Lab) -> None:
    network = lab.network(versions=(4, 6), options={f"{BRIDGE}.enable_icc": "false", f"{BRIDGE}.name": "br9"})
    one, first, _ = lab.container(network, ports=(PortMapping("tcp", 80, 8080),))
    two, second, _ = lab.container(network)
    change(lab.host, delete_link("br9"))
    assert lab.check(network, first, one) != ()
    lab.driver = lab.start(network)
    mended = [lab.host.run(lab.driver.repair, network, endpoint) for endpoint in (first, second)]
    assert all(len(lines) == 1 and "in bridge br9" in lines[0] for lines in mended)
    change(lab.host, delete_link("br9"))
    mended = [lab.host.run(lab.driver.repair, network, endpoint) for endpoint in (first, second)]
    assert mended[0][0] == "bridge br9" and len(mended[1]) == 1, "without a restart too"
    for endpoint, sandbox in ((first, one), (second, two)):
        assert lab.check(network, endpoint, sandbox) == ()
        assert lab.host.run(lab.driver.repair, network, endpoint) == ()
    with listen(lab.outside, 82) as server:
        assert reaches(one, OUTSIDE, 82, server) == HOST
    with listen(two, 81, family=6) as server:
        assert unreachable(one, address6_of(second), 81, server), "still closed to its neighbours"


def test_a_network_that_cannot_be_made_keeps_no_other_down(lab: Lab) -> None:
    well, ill = lab.network(), lab.network(options={f"{BRIDGE}.name": "br9"})
    change(lab.host, delete_link("br9"), add_veth("br9", peer="mine", netns=lab.outside.fd))
    lab.driver = lab.start(well, ill)
    with pytest.raises(Conflict, match="br9"):
        lab.container(ill)
    sandbox, endpoint, _ = lab.container(well)
    assert lab.check(well, endpoint, sandbox) == ()
    change(lab.host, delete_link("br9"))
    sandbox, endpoint, _ = lab.container(ill)
    assert lab.check(ill, endpoint, sandbox) == (), "made with the first endpoint, once its name is free"


# ---------------------------------------------------------------- the host's own IPv6


def test_the_host_goes_on_listening_to_its_router(lab: Lab) -> None:
    """A host that forwards forgets what its router told it, were it not for `accept_ra`; and no container is a router."""
    advertise(lab.outside, "wire", "fe80::9")
    assert until(lambda: "fe80::9" in routers_of(lab.host))
    network = lab.network(versions=(6,))
    sandbox, endpoint, _ = lab.container(network)
    assert lab.host.run(Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text) == "1\n"
    assert "fe80::9" in routers_of(lab.host)
    bridge = next(name for name in lab.host.links() if name.startswith("sp-"))
    assert lab.host.run(Path(f"/proc/sys/net/ipv6/conf/{bridge}/accept_ra").read_text) == "0\n"
    advertise(sandbox, endpoint.interface, "fe80::66")
    advertise(lab.outside, "wire", "fe80::99")
    assert until(lambda: "fe80::99" in routers_of(lab.host))
    assert "fe80::66" not in routers_of(lab.host)


def advertise(router: Namespace, interface: str, address: str) -> None:
    """Send a router advertisement to all nodes, from a link-local address: RFC 4861, section 4.2. Its checksum is the kernel's."""
    index = router.run(link_index, interface)
    change(router, add_address(index, f"{address}/64"))
    with router.run(socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as wire:
        wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        wire.bind((address, 0, 0, index))
        wire.sendto(struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, index))


def routers_of(where: Namespace) -> set[str]:
    """Give the gateways of the IPv6 default routes."""
    with where.run(Netlink) as kernel:
        return {route.gateway for route in kernel.routes() if route.destination == "::/0"}


def until(condition: Callable[[], bool]) -> bool:
    """Wait up to five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
