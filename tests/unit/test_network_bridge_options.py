from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan.api.network import Network, Subnet
from sampan_network_bridge.options import GatewayMode, Options, check, parse


def test_without_options() -> None:
    assert parse({}) == Options()


def test_all_options() -> None:
    assert parse({
        "com.docker.network.bridge.name": "br7",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "0",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.bridge.inhibit_ipv4": "true",
        "com.docker.network.bridge.gateway_mode_ipv4": "routed",
        "com.docker.network.bridge.gateway_mode_ipv6": "nat-unprotected",
        "com.docker.network.bridge.trusted_host_interfaces": "eth1:wg0",
        "com.docker.network.bridge.default_bridge": "false",
        "com.docker.network.host_ipv4": "192.0.2.7",
        "com.docker.network.host_ipv6": "2001:db8:0::7",
        "com.docker.network.driver.mtu": "1400",
    }) == Options(
        bridge_name="br7", icc=False, masquerade=False, host_binding="127.0.0.1", mtu=1400, inhibit_ipv4=True,
        mode4=GatewayMode.ROUTED, mode6=GatewayMode.NAT_UNPROTECTED, source4="192.0.2.7", source6="2001:db8::7",
        trusted=("eth1", "wg0"),
    )  # fmt: skip


@pytest.mark.parametrize(("value", "binding"), [("", ""), ("0.0.0.0", ""), ("::", "::"), ("::1", "::1")])
def test_the_default_address_of_published_ports(value: str, binding: str) -> None:
    assert parse({"com.docker.network.bridge.host_binding_ipv4": value}).host_binding == binding


def network(*, internal: bool = False, **options: str) -> Network:
    subnets = (Subnet("10.9.0.0/24", "10.9.0.1"), Subnet("fd09::/64", "fd09::1"))
    return Network("ab" * 32, "net", "bridge", subnets, internal, {f"com.docker.network.{k}": v for k, v in options.items()})


def test_isolated_is_for_internal_networks() -> None:
    isolated = {"bridge.gateway_mode_ipv6": "isolated"}
    check(network(internal=True, **isolated))
    with pytest.raises(InvalidArgument, match="can only be used for an internal network"):
        check(network(**isolated))


def test_ipv6_has_a_least_mtu() -> None:
    check(network(**{"driver.mtu": "1280"}))
    with pytest.raises(InvalidArgument, match="1279"):
        check(network(**{"driver.mtu": "1279"}))


def test_what_is_not_ours_is_ignored() -> None:
    assert parse({"com.example.colour": "red", "com.docker.network.container_iface_prefix": "x"}) == Options()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("com.docker.network.bridge.name", "a-name-of-sixteen"),
        ("com.docker.network.bridge.name", "a/b"),
        ("com.docker.network.bridge.name", 'a"b'),
        ("com.docker.network.bridge.name", ".."),
        ("com.docker.network.bridge.name", "br*"),
        ("com.docker.network.bridge.name", "br%d"),
        ("com.docker.network.bridge.name", "br\0"),
        ("com.docker.network.bridge.name", "brücke"),
        ("com.docker.network.bridge.enable_icc", "maybe"),
        ("com.docker.network.bridge.enable_ip_masquerade", ""),
        ("com.docker.network.bridge.host_binding_ipv4", "localhost"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "NAT"),
        ("com.docker.network.bridge.gateway_mode_ipv6", ""),
        ("com.docker.network.bridge.inhibit_ipv4", "si"),
        ("com.docker.network.bridge.default_bridge", "no"),
        ("com.docker.network.bridge.trusted_host_interfaces", "eth0:a-name-of-sixteen"),
        ("com.docker.network.bridge.trusted_host_interfaces", 'eth0" drop'),
        ("com.docker.network.host_ipv4", "2001:db8::1"),
        ("com.docker.network.host_ipv4", "0.0.0.0"),
        ("com.docker.network.host_ipv6", "192.0.2.1"),
        ("com.docker.network.host_ipv6", "fe80::1%eth0"),
        ("com.docker.network.driver.mtu", "67"),
        ("com.docker.network.driver.mtu", "1" * 5000),
        ("com.docker.network.driver.mtu", "-1"),
        ("com.docker.network.driver.mtu", "1e3"),
    ],
)
def test_a_bad_value_is_named(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=key):
        parse({key: value})
