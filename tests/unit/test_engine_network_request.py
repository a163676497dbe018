"""Requests for networks, checked."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.api.errors import Forbidden, InvalidArgument, SampanError, Unsupported
from sampan.api.types import NetworkCreateRequest
from sampan.engine.network_request import check, pools_of


def request(**fields: Any) -> NetworkCreateRequest:
    return NetworkCreateRequest.model_validate({"Name": "net"} | fields)


def pool(**fields: Any) -> dict[str, Any]:
    return {"IPAM": {"Config": [fields]}}


def test_defaults() -> None:
    checked = check(request())
    assert (checked.driver, checked.enable_ipv4, checked.enable_ipv6) == ("bridge", True, False)
    assert [item.subnet for item in pools_of(checked, 4)] == [""]
    assert pools_of(checked, 6) == []
    assert check(request(Driver="", IPAM={"Driver": ""})).ipam.driver == "default"  # as docker compose writes it


def test_versions_by_option() -> None:
    checked = check(request(Options={"com.docker.network.enable_ipv6": "true", "com.docker.network.enable_ipv4": "0"}))
    assert (checked.enable_ipv4, checked.enable_ipv6) == (False, True)
    named = check(request(EnableIPv6=False, Options={"com.docker.network.enable_ipv6": "true"}))
    assert named.enable_ipv6 is False


def test_pools_of_a_version_that_is_off_are_left_out() -> None:
    both = {"IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "10.1.0.0/16"}]}}
    checked = check(request(**both))
    assert [item.subnet for item in checked.ipam.config] == ["10.1.0.0/16"]
    checked = check(request(EnableIPv6=True, **both))
    assert [item.subnet for item in pools_of(checked, 6)] == ["fd00::/64"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"Subnet": "10.1.2.3/16"}, "invalid subnet 10.1.2.3/16: it should be 10.1.0.0/16"),
        ({"Subnet": "10.1.0.0"}, "invalid CIDR block notation"),
        ({"Subnet": "x/16"}, "invalid CIDR block notation"),
        ({"Subnet": "10.1.0.0/16", "IPRange": "10.2.0.0/24"}, "doesn't contain ip-range"),
        ({"Subnet": "10.1.0.0/16", "IPRange": "10.1.0.1/24"}, "it should be 10.1.0.0/24"),
        ({"Subnet": "10.1.0.0/16", "IPRange": "10.0.0.0/8"}, "CIDR block is bigger than its parent subnet"),
        ({"Subnet": "10.1.0.0/16", "IPRange": "fd00::/64"}, "parent subnet is an IPv4 block"),
        ({"Subnet": "10.1.0.0/16", "Gateway": "10.2.0.1"}, "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/16 doesn't contain"),
        ({"Subnet": "10.1.0.0/16", "Gateway": "fd00::1"}, "parent subnet is an IPv4 block"),
        ({"Subnet": "10.1.0.0/16", "AuxiliaryAddresses": {"printer": "10.2.0.9"}}, "invalid auxiliary address printer"),
        ({"Gateway": "10.1.0.1"}, "need the subnet"),
    ],
)
def test_pools_that_contradict_themselves(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid network config") as caught:
        check(request(**pool(**fields)))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "kind", "told"),
    [
        ({"Name": " "}, InvalidArgument, "invalid name: name is empty"),
        ({"Name": "host"}, Forbidden, "operation is not permitted on predefined host network"),
        ({"Name": "a\nb"}, InvalidArgument, "invalid name"),
        ({"Name": "container:x"}, InvalidArgument, "invalid name"),
        ({"EnableIPv4": False}, InvalidArgument, "IPv4 or IPv6 must be enabled"),
        ({"Options": {"com.docker.network.enable_ipv6": "maybe"}}, InvalidArgument, "not a valid bool"),
        ({"Scope": "swarm"}, Unsupported, "swarm"),
        ({"Ingress": True}, Unsupported, "swarm"),
        ({"ConfigOnly": True}, Unsupported, "configuration-only"),
    ],
)
def test_refusals(fields: dict[str, Any], kind: type[SampanError], told: str) -> None:
    with pytest.raises(kind) as caught:
        check(request(**fields))
    assert told in str(caught.value)
