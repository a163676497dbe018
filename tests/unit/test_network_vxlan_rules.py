"""The vxlan driver's rules as text, compared with golden files: a change of a rule is seen in review as what it is.

After a change that is meant: python tests/unit/test_network_vxlan_rules.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan_network_vxlan import rules
from sampan_network_vxlan.options import Options, parse

GOLDEN = Path(__file__).parent / "golden"


def given(**options: str) -> Options:
    return parse({"vni": "42", **options}, 4789)


NETWORKS = {
    "remotes": {"ab" * 32: given(remotes="192.0.2.1,192.0.2.2")},
    "remotes6": {"ab" * 32: given(remotes="2001:db8::1", port="8472")},
    "group": {"ab" * 32: given(group="239.1.1.1", parent="eth1")},
    "several": {"ab" * 32: given(remotes="192.0.2.2"), "cd" * 32: given(vni="43", group="ff05::1", parent="eth1")},
    "none": {},
}


def render(name: str) -> str:
    return rules.render(rules.table_name("5a3bca7e"), "sx-5a3b-*", NETWORKS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_rendered_as_agreed(name: str) -> None:
    assert render(name) == (GOLDEN / f"vxlan-{name}.nft").read_text()


if __name__ == "__main__":
    for key in NETWORKS:
        (GOLDEN / f"vxlan-{key}.nft").write_text(render(key))
