"""An IPv6 address may bear a zone, which is any text: it must not get as far as the kernel's packet filter, whose language is text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ground.daemon import Daemon

ZONE = "%x } ; flush ruleset ; #"
NETWORKS: list[dict[str, Any]] = [
    {"IPAM": {"Config": [{"Subnet": f"fd00:9::{ZONE}/64"}]}},
    {"IPAM": {"Config": [{"Subnet": "fd00:9::/64", "Gateway": f"fd00:9::1{ZONE}"}]}},
    {"IPAM": {"Config": [{"Subnet": "fd00:9::/64", "IPRange": f"fd00:9::{ZONE}/80"}]}},
    {"IPAM": {"Config": [{"Subnet": "fd00:9::/64", "AuxiliaryAddresses": {"x": f"fd00:9::5{ZONE}"}}]}},
    {"Options": {"com.docker.network.bridge.host_binding_ipv4": f"fe80::1{ZONE}"}},
    {"Options": {"com.docker.network.host_ipv6": f"fd00:9::1{ZONE}"}},
]


def ruleset(daemon: Daemon) -> bytes:
    return daemon.run("nft", "-s", "list", "ruleset").stdout


@pytest.mark.parametrize("request_", NETWORKS, ids=lambda item: json.dumps(item)[:70])
def test_of_networks(daemon: Daemon, request_: dict[str, Any]) -> None:
    before = ruleset(daemon)
    status, answer = daemon.api_raw("POST", "/networks/create", {"Name": "zoned", "EnableIPv6": True, **request_})
    assert status == 400, answer
    assert ruleset(daemon) == before


@pytest.mark.parametrize("host_ip", [f"fe80::1{ZONE}", "fe80::1%lo", "::1%lo"])
def test_of_published_ports(daemon: Daemon, host_ip: str) -> None:
    ports = {"80/tcp": [{"HostIp": host_ip, "HostPort": "8080"}]}
    status, answer = daemon.api_raw("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"PortBindings": ports}})
    assert (status, b"invalid IP address" in answer) == (400, True)
