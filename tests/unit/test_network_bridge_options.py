from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan_network_bridge.options import Options, parse


def test_without_options() -> None:
    assert parse({}) == Options()


def test_all_options() -> None:
    assert parse({
        "com.docker.network.bridge.name": "br7",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "0",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.driver.mtu": "1400",
    }) == Options("br7", False, False, "127.0.0.1", 1400)  # fmt: skip


def test_what_is_not_ours_is_ignored() -> None:
    assert parse({"com.example.colour": "red", "com.docker.network.container_iface_prefix": "x"}) == Options()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("com.docker.network.bridge.name", "a-name-of-sixteen"),
        ("com.docker.network.bridge.name", "a/b"),
        ("com.docker.network.bridge.name", 'a"b'),
        ("com.docker.network.bridge.name", ".."),
        ("com.docker.network.bridge.enable_icc", "maybe"),
        ("com.docker.network.bridge.enable_ip_masquerade", ""),
        ("com.docker.network.bridge.host_binding_ipv4", "::1"),
        ("com.docker.network.driver.mtu", "67"),
        ("com.docker.network.driver.mtu", "-1"),
        ("com.docker.network.driver.mtu", "1e3"),
    ],
)
def test_a_bad_value_is_named(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=key):
        parse({key: value})
