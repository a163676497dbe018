"""Which network leads out: Docker's order."""

from __future__ import annotations

import pytest

from sampan.engine import gateways
from sampan.engine.records import EndpointRecord, NetworkRecord


def network(name: str, *prefixes: str, internal: bool = False) -> NetworkRecord:
    subnets = [(prefix, prefix.replace("0/", "1/").partition("/")[0].replace("::", "::1")) for prefix in prefixes]
    return NetworkRecord(id=name, name=name, driver="bridge", created=0, subnets=list(subnets), internal=internal)


FOUR, SIX = "10.0.0.0/24", "fd00::/64"


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([], {}),
        ([(network("a", FOUR), 0)], {"a": (4,)}),
        ([(network("b", FOUR), 0), (network("a", FOUR), 0)], {"a": (4,), "b": ()}),
        ([(network("b", FOUR), 1), (network("a", FOUR), 0)], {"a": (), "b": (4,)}),
        ([(network("b", FOUR), -1), (network("z", FOUR), 0)], {"b": (), "z": (4,)}),
        ([(network("a", FOUR), 0), (network("b", FOUR, SIX), 0)], {"a": (), "b": (4, 6)}),
        ([(network("a", FOUR), 1), (network("b", FOUR, SIX), 0)], {"a": (4,), "b": (6,)}),
        ([(network("a", SIX), 0), (network("b", FOUR), 0)], {"a": (6,), "b": (4,)}),
        ([(network("a", FOUR, internal=True), 9), (network("b", FOUR), 0)], {"a": (), "b": (4,)}),
        ([(network("none"), 0)], {"none": ()}),
    ],
)
def test_choice(candidates: list[tuple[NetworkRecord, int]], expected: dict[str, tuple[int, ...]]) -> None:
    assert gateways.choose([gateways.candidate(found, priority) for found, priority in candidates]) == expected


def test_an_endpoint_without_an_address_of_a_version_does_not_lead_out_for_it() -> None:
    endpoint = EndpointRecord(id="e", network_id="a", container_id="c", ipv4="10.0.0.2/24")
    assert gateways.choose([gateways.candidate(network("a", FOUR, SIX), 0, endpoint)]) == {"a": (4,)}


def test_ports_are_published_where_it_leads_out() -> None:
    def publisher(*found: tuple[NetworkRecord, int]) -> str:
        return gateways.publisher([gateways.candidate(item, priority) for item, priority in found])

    assert publisher((network("a", SIX), 0), (network("b", FOUR), 0)) == "b"
    assert publisher((network("a", SIX), 0)) == "a"
    assert publisher((network("a", FOUR, internal=True), 0)) == ""
