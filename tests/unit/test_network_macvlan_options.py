from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan_network_macvlan.options import Options, parse

MTU = "com.docker.network.driver.mtu"


def test_what_is_not_said() -> None:
    assert parse({}) == parse({"parent": "", "macvlan_mode": "", "com.example": "x"}) == Options("", "bridge", 0)


def test_what_is_said() -> None:
    assert parse({"parent": "eth0", "macvlan_mode": "vepa", MTU: "1400"}) == Options("eth0", "vepa", 1400)


@pytest.mark.parametrize(
    ("parent", "vlan"),
    [
        ("eth0", None), ("eth0.10", ("eth0", 10)), ("br-1.2.4094", ("br-1.2", 4094)), ("eth0.0", None), ("eth0.4095", None),
        (".10", None), ("eth0.x", None), ("eth0.", None),
    ],
)  # fmt: skip
def test_a_parent_may_be_called_by_its_vlan(parent: str, vlan: tuple[str, int] | None) -> None:
    assert Options(parent).vlan == vlan


@pytest.mark.parametrize(
    "options",
    [
        {"parent": "lo"}, {"parent": "."}, {"parent": "a b"}, {"parent": "a/b"}, {"parent": "sixteen-letters-"},
        {"parent": "\ud800"}, {"parent": "\u00e4\u00f6\u00fc"}, {"parent": "a\n"},
        {"macvlan_mode": "Bridge"}, {"macvlan_mode": "source"}, {MTU: "-1"}, {MTU: "67"}, {MTU: "65536"}, {MTU: "x"},
    ],
)  # fmt: skip
def test_what_no_network_can_have(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=r"parent|mode|mtu"):
        parse({**options})
