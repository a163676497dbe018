"""Who has which port: choices, groups and conflicts. Ports are tried for real, on loopback addresses that nobody uses."""

from __future__ import annotations

import os
import socket

import pytest

from sampan.api.errors import Conflict, System, Unsupported
from sampan.api.network import Endpoint, PortMapping
from sampan_network_bridge.bindings import Binding, door
from sampan_network_bridge.options import GatewayMode, Options
from sampan_network_bridge.ports import Ports

ONE = Endpoint("e1", "n", "c1", ipv4="172.17.0.2/16")
TWO = Endpoint("e2", "n", "c2", ipv4="172.17.0.3/16")
DUAL = Endpoint("e3", "n", "c3", ipv4="172.17.0.4/16", ipv6="fd00::4/64")
ANY = Options()
HERE, THERE = (f"127.{20 + os.getpid() % 200}.8.{last}" for last in (7, 8))  # tests run in several processes


def ranged(port: int, host_ip: str = HERE) -> PortMapping:
    """Container port `port` on one of three host ports."""
    return PortMapping("tcp", port, 47110, host_ip, host_port_end=47112)


def numbers(ports: Ports, endpoint: Endpoint, *asked: PortMapping) -> list[int]:
    return [mapping.host_port for mapping in ports.reserve(endpoint, asked, ANY)[0]]


def test_one_port_of_a_range_is_the_first_that_is_free() -> None:
    ports = Ports()
    assert numbers(ports, ONE, ranged(80), ranged(81)) == [47110, 47111]
    assert numbers(ports, TWO, ranged(80)) == [47112]
    with pytest.raises(Conflict, match=f"{HERE}:47110-47112 failed: all ports are already allocated"):
        ports.reserve(TWO, [ranged(81)], ANY)
    ports.release(ports.of("172.17.0.2"))
    assert numbers(ports, TWO, ranged(81)) == [47110]


def test_a_range_goes_around_a_process_that_listens() -> None:
    with socket.create_server((HERE, 47110)):
        assert numbers(Ports(), ONE, ranged(80)) == [47111]


def test_mappings_that_differ_in_the_hosts_address_get_one_number() -> None:
    with socket.create_server((THERE, 47110)):
        assert numbers(Ports(), ONE, ranged(80), ranged(81), ranged(80, THERE)) == [47111, 47110, 47111]
    free = [PortMapping("tcp", 80, 0, HERE), PortMapping("tcp", 81, 0, HERE), PortMapping("tcp", 80, 0, THERE)]
    first, second, third = numbers(Ports(), ONE, *free)
    assert first == third != second


def test_chosen_ports_and_the_networks_own_address_are_told() -> None:
    made, elements = Ports().reserve(ONE, [ranged(80, "")], Options(host_binding=HERE))
    assert made == (PortMapping("tcp", 80, 47110, HERE),)
    assert elements == [Binding(4, "tcp", HERE, 47110, "172.17.0.2", 80)]


def test_what_one_has_another_cannot_have_and_a_failure_takes_nothing() -> None:
    ports = Ports()
    ports.reserve(ONE, [PortMapping("tcp", 80, 47115, HERE)], ANY)
    with pytest.raises(Conflict, match=f"Bind for {HERE}:47115 failed: port is already allocated"):
        ports.reserve(TWO, [PortMapping("tcp", 80, 47116, HERE), PortMapping("tcp", 80, 47115, HERE)], ANY)
    assert ports.of("172.17.0.3") == []
    with pytest.raises(Conflict):
        ports.reserve(ONE, [PortMapping("tcp", 81, 47115, HERE)], ANY)
    assert ports.reserve(ONE, [PortMapping("tcp", 80, 47115, HERE)], ANY)[1] == [], "what an endpoint has is no conflict"
    ports.reserve(TWO, [PortMapping("tcp", 80, 47115, THERE)], ANY)


def test_an_address_that_the_host_does_not_have() -> None:
    with pytest.raises(System, match=r"192.0.2.77:47115: bind: cannot assign requested address"):
        Ports().reserve(ONE, [PortMapping("tcp", 80, 47115, "192.0.2.77")], ANY)


def test_ipv6_without_an_ipv6_address_takes_the_proxy() -> None:
    asked = PortMapping("tcp", 80, 47115, "::1")
    assert Ports(proxy=True).reserve(ONE, [asked], ANY)[1] == [Binding(6, "tcp", "::1", 47115, "172.17.0.2", 80)]
    for ports, endpoint, mapping in (
        (Ports(), ONE, asked), (Ports(), DUAL, asked), (Ports(proxy=True), ONE, PortMapping("sctp", 80, 47115, "::1"))
    ):  # fmt: skip
        with pytest.raises(Unsupported, match="on ::1: the container has no IPv6 address"):
            ports.reserve(endpoint, [mapping], ANY)


def test_every_address_is_of_both_families() -> None:
    asked = [PortMapping("tcp", 80, 47117)]
    assert [item.family for item in Ports().reserve(ONE, asked, ANY)[1]] == [4]
    assert Ports(proxy=True).reserve(ONE, asked, ANY)[1] == [
        Binding(4, "tcp", "", 47117, "172.17.0.2", 80), Binding(6, "tcp", "", 47117, "172.17.0.2", 80)
    ]  # fmt: skip
    dual = Ports(proxy=True)
    made, elements = dual.reserve(DUAL, asked, ANY)
    assert {(item.family, item.host_ip, item.target, item.is_proxied) for item in elements} == {
        (4, "", "172.17.0.4", False), (6, "", "fd00::4", False), (6, "::1", "fd00::4", True)
    }  # fmt: skip
    with pytest.raises(Conflict, match=r"\[::1\]:47117"):
        dual.reserve(ONE, [PortMapping("tcp", 80, 47117, "::1")], ANY)
    again = Ports(elements[:2], proxy=True)
    assert again.reserve(DUAL, made, ANY)[1] == elements[2:], "a part that was lost comes back, and is no conflict with itself"


ROUTED = Options(mode4=GatewayMode.ROUTED, mode6=GatewayMode.ROUTED)
DOORS = [door(4, "tcp", "172.17.0.4", 80), door(6, "tcp", "fd00::4", 80)]


def test_a_routed_network_opens_doors_and_takes_no_port_of_the_host() -> None:
    ports = Ports(proxy=True)
    for asked in (PortMapping("tcp", 80, 47118), PortMapping("tcp", 80, 0), PortMapping("tcp", 80, 47110, host_port_end=47112)):
        made, elements = ports.reserve(DUAL, [asked], ROUTED)
        assert made == (PortMapping("tcp", 80, 0),)
        assert elements in (DOORS, []), "the same door once"
    ports.reserve(ONE, [PortMapping("tcp", 80, 47118)], ANY)
    assert ports.of("172.17.0.4", "fd00::4") == DOORS
    ports.release(DOORS)
    assert ports.targets() == ["172.17.0.2"]


def test_routed_by_one_ip_version_only() -> None:
    made, elements = Ports().reserve(DUAL, [PortMapping("tcp", 80, 47119)], Options(mode6=GatewayMode.ROUTED))
    assert made == (PortMapping("tcp", 80, 47119),)
    assert elements == [Binding(4, "tcp", "", 47119, "172.17.0.4", 80), DOORS[1]]
    of6, opened = Ports().reserve(DUAL, [PortMapping("tcp", 80, 47119, "2001:db8::1")], Options(mode6=GatewayMode.ROUTED))
    assert (of6[0].host_port, opened) == (0, [DOORS[1]]), "no host has that address, and none is needed"


def test_a_trusted_link_has_doors_beside_the_hosts_ports() -> None:
    _, elements = Ports().reserve(DUAL, [PortMapping("tcp", 8080, 47120, HERE, count=3)], Options(trusted=("wg0",)))
    assert [item for item in elements if item.is_door] == [door(4, "tcp", "172.17.0.4", 8080, 3)]
    assert len([item for item in elements if not item.is_door]) == 3


def test_an_address_of_the_container_is_none_of_the_host() -> None:
    with pytest.raises(System, match="172.17.0.4:47121"):
        Ports().reserve(DUAL, [PortMapping("tcp", 80, 47121, "172.17.0.4")], ANY)


def test_what_cannot_all_be_restored_takes_nothing() -> None:
    ports = Ports()
    assert numbers(ports, TWO, PortMapping("tcp", 80, 47111, HERE)) == [47111]
    before = [PortMapping("tcp", 80, 47110, HERE), PortMapping("tcp", 81, 47111, HERE)]
    with pytest.raises(Conflict, match="47111"):
        ports.restore(ports.elements(ONE, before, ANY))
    assert ports.of("172.17.0.2") == []
    assert numbers(ports, TWO, PortMapping("tcp", 81, 47110, HERE)) == [47110]
