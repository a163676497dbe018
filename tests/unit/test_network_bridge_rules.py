"""The bridge driver's rules as text, compared with golden files: a change of a rule is seen in review as what it is.

After a change that is meant: python tests/unit/test_network_bridge_rules.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan_network_bridge import bindings, rules, sets
from sampan_network_bridge.bindings import Binding, door
from sampan_network_bridge.options import GatewayMode, Options

GOLDEN = Path(__file__).parent / "golden"


def single(port: int, host_ip: str = "") -> Binding:
    return Binding(6 if ":" in host_ip else 4, "tcp", host_ip, port, "fd00::2" if ":" in host_ip else "172.17.0.2", 80)


BINDINGS = [
    single(8080),
    single(8081),
    single(8082, "127.0.0.1"),
    single(8083, "2001:db8::1"),
    Binding(4, "udp", "", 5000, "172.17.0.2", 5000, count=100),
    Binding(4, "udp", "192.0.2.1", 6000, "172.17.0.2", 6000, count=3),
    Binding(4, "sctp", "", 7000, "172.17.0.2", 7100, count=3),
    door(4, "tcp", "172.17.0.2", 80),
    door(6, "udp", "fd00::2", 5000, count=100),
    Binding(6, "tcp", "", 8080, "172.17.0.2", 80),
    Binding(6, "udp", "", 7000, "172.17.0.2", 7100, count=3),
    Binding(6, "tcp", "", 9080, "fd00::2", 80),
]

PREFIXES = ["172.17.0.0/16", "fd00:1::/64"]


def network(*, internal: bool = False, **options: Any) -> sets.Elements:
    return sets.network("br0", PREFIXES, Options(**options), internal=internal)


RENDERED = {
    "base": lambda: rules.base("sampan_5a3bca7e", 40000),
    "network": lambda: sets.change("t", {}, network()),
    "network-internal": lambda: sets.change("t", {}, network(internal=True)),
    "network-without-icc": lambda: sets.change("t", {}, network(icc=False)),
    "network-routed": lambda: sets.change("t", {}, network(mode4=GatewayMode.ROUTED, mode6=GatewayMode.ROUTED)),
    "network-unprotected": lambda: sets.change(
        "t", {}, network(mode4=GatewayMode.NAT_UNPROTECTED, mode6=GatewayMode.NAT_UNPROTECTED)
    ),
    "network-source": lambda: sets.change("t", {}, network(source4="192.0.2.7", source6="2001:db8::7")),
    "network-trusted": lambda: sets.change("t", {}, network(trusted=("eth1", "wg0"))),
    "network-removed": lambda: sets.change("t", network(), {}),
    "publish": lambda: bindings.publish("t", bindings.split(BINDINGS)),
    "unpublish": lambda: bindings.unpublish("t", bindings.split(BINDINGS)),
}


@pytest.mark.parametrize("name", RENDERED)
def test_rendered_as_agreed(name: str) -> None:
    assert RENDERED[name]() == (GOLDEN / f"bridge-{name}.nft").read_text()


def test_no_difference_is_no_command() -> None:
    assert sets.change("t", network(), network()) == ""
    assert bindings.publish("t", []) == bindings.unpublish("t", []) == ""


def test_only_the_difference_is_written() -> None:
    assert sets.change("t", network(source4="192.0.2.7"), network()) == (
        'add element inet t sources4 { "br0" : 192.0.2.7 }\ndelete element inet t sources4 { "br0" }\n'
    )


def test_a_link_local_prefix_is_not_guarded() -> None:
    """Every link of the host has it: dropping packets to it would cut them off."""
    elements = sets.network("br0", ["fe80::/64"], Options(), internal=False)
    assert elements["guarded6"] == elements["within6"] == frozenset()


def test_without_translation_answers_come_to_the_containers_own_address() -> None:
    assert network(masquerade=False)["guarded4"] == frozenset()
    assert network(masquerade=False, internal=True)["guarded4"] == {"172.17.0.0/16"}


def test_a_thousand_ports_that_keep_their_numbers_are_one_element() -> None:
    assert len(bindings.split([Binding(4, "tcp", "", 1000, "172.17.0.2", 1000, count=1000)])) == 1


def test_a_range_that_shifts_falls_into_its_ports() -> None:
    parts = bindings.split([Binding(4, "tcp", "", 1000, "172.17.0.2", 2000, count=3)])
    assert [(part.host_port, part.port, part.count) for part in parts] == [(1000, 2000, 1), (1001, 2001, 1), (1002, 2002, 1)]


if __name__ == "__main__":
    for key, render in RENDERED.items():
        (GOLDEN / f"bridge-{key}.nft").write_text(render())
