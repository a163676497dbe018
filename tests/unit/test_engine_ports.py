from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan.api.network import PortMapping
from sampan.api.types import HostConfig
from sampan.engine.ports import join, mappings, parse_port, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80", (80, "tcp")), ("80/tcp", (80, "tcp")), ("53/UDP", (53, "udp")), ("1/sctp", (1, "sctp")), ("65535", (65535, "tcp"))],
)
def test_parse(text: str, expected: tuple[int, str]) -> None:
    assert parse_port(text) == expected


@pytest.mark.parametrize("text", ["", "/tcp", "0", "65536", "-1", "80/icmp", "http", "80-90", "8٣", " 80", "9" * 5000])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port specification"):
        parse_port(text)


def of(bindings: dict[str, object], exposed: tuple[str, ...] = (), **host: object) -> list[PortMapping]:
    return mappings(HostConfig.model_validate({"PortBindings": bindings, **host}), exposed)


def test_bindings() -> None:
    assert of({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}) == [PortMapping("tcp", 80, 8080, "")]
    assert of({"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}]}) == [PortMapping("udp", 53, 5353, "127.0.0.1")]
    assert of({"80/tcp": [{"HostPort": "8080-8080"}]}) == [PortMapping("tcp", 80, 8080, "")]
    assert of({"80/tcp": [{"HostPort": "1"}, {"HostPort": "9"}]}) == [
        PortMapping("tcp", 80, 1, ""),
        PortMapping("tcp", 80, 9, ""),
    ]


@pytest.mark.parametrize("binding", [None, [], [{}], [{"HostPort": ""}], [{"HostPort": "0"}]])
def test_no_host_port_lets_the_driver_choose(binding: object) -> None:
    assert of({"80/tcp": binding}) == [PortMapping("tcp", 80, 0, "")]


def test_publish_all_takes_the_exposed_ports_that_are_not_bound() -> None:
    assert of({"80/tcp": [{"HostPort": "8080"}]}, ("80/tcp", "443/tcp"), PublishAllPorts=True) == [
        PortMapping("tcp", 443, 0, ""),
        PortMapping("tcp", 80, 8080, ""),
    ]
    assert of({}, ("80/tcp",)) == []


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ({"HostIp": "localhost"}, "invalid IP address: localhost"),
        ({"HostPort": "x"}, "invalid port specification"),
        ({"HostPort": "80-"}, "invalid port specification"),
        ({"HostPort": "81-80"}, "invalid port specification"),
        ({"HostPort": "65536"}, "invalid port specification"),
    ],
)
def test_bad_bindings(binding: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        of({"80/tcp": [binding]})


def test_one_of_a_range() -> None:
    asked = of({"80/tcp": [{"HostPort": "8000-8010"}], "81/tcp": [{"HostPort": "8000-8010"}], "82/tcp": [{"HostPort": "8001"}]})
    assert asked == [
        PortMapping("tcp", 80, 8000, host_port_end=8010),
        PortMapping("tcp", 81, 8000, host_port_end=8010),
        PortMapping("tcp", 82, 8001),
    ]


def test_what_names_no_address_is_published_on_those_of_the_policy() -> None:
    host = HostConfig.model_validate({"PortBindings": {"80/tcp": [{}, {"HostIp": "192.0.2.1", "HostPort": "8080"}]}})
    assert mappings(host, (), ("127.0.0.1", "::1")) == [
        PortMapping("tcp", 80, 0, "127.0.0.1"),
        PortMapping("tcp", 80, 8080, "192.0.2.1"),
        PortMapping("tcp", 80, 0, "::1"),
    ]


def test_neighbours_become_ranges() -> None:
    bindings = {f"{port}/tcp": [{"HostPort": str(port + 1000)}] for port in range(100, 306)}
    assert of(bindings) == [PortMapping("tcp", 100, 1100, "", 206)]


def test_no_range_across_a_gap_an_address_or_a_protocol() -> None:
    apart = [
        PortMapping("tcp", 80, 80, ""),
        PortMapping("tcp", 82, 82, ""),
        PortMapping("tcp", 90, 83, ""),
        PortMapping("tcp", 81, 81, "127.0.0.1"),
        PortMapping("udp", 81, 81, ""),
        PortMapping("tcp", 1, 0, ""),
        PortMapping("tcp", 2, 0, ""),
    ]
    assert set(join(apart)) == set(apart)


single = st.builds(
    PortMapping, st.sampled_from(["tcp", "udp"]), st.integers(1, 12), st.integers(0, 12), st.sampled_from(["", "10.0.0.1"])
)


@given(st.lists(single, max_size=30))
def test_joining_neither_adds_nor_loses_a_port(items: list[PortMapping]) -> None:
    apart = [
        PortMapping(item.protocol, item.container_port + i, item.host_port + i if item.host_port else 0, item.host_ip)
        for item in join(items)
        for i in range(item.count)
    ]
    assert sorted(map(repr, apart)) == sorted(map(repr, set(items)))


def test_shown() -> None:
    ports = [("tcp", 80, 8080, "", 2), ("tcp", 80, 9000, "127.0.0.1", 1), ("sctp", 53, 53, "", 1)]
    assert shown(ports, ipv6=False) == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "9000"}],
        "81/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8081"}],
        "53/sctp": [{"HostIp": "0.0.0.0", "HostPort": "53"}],
    }
    assert shown(ports, ipv6=True)["81/tcp"] == [
        {"HostIp": "0.0.0.0", "HostPort": "8081"}, {"HostIp": "::", "HostPort": "8081"}
    ]  # fmt: skip
