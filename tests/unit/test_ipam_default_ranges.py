from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from sampan_ipam_default import host
from sampan_ipam_default.ranges import IPNetwork, first_gap


def networks(*texts: str) -> list[IPNetwork]:
    return [ipaddress.ip_network(text) for text in texts]


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ((), "10.0.0.0/24"),
        (("9.255.255.0/24",), "10.0.0.0/24"),
        (("10.0.0.0/24",), "10.0.1.0/24"),
        (("10.0.0.0/30",), "10.0.1.0/24"),
        (("10.0.0.0/24", "10.0.0.128/25", "10.0.2.0/24"), "10.0.1.0/24"),
        (("10.0.0.0/8",), None),
        (("10.0.0.0/23", "10.0.0.0/25", "10.0.2.0/25"), "10.0.3.0/24"),
        (("10.0.0.0/23", "10.0.2.0/23"), None),
        (("10.0.1.7/32", "10.0.2.0/24"), "10.0.0.0/24"),
        (("10.0.0.0/23", "10.0.2.0/24", "11.0.0.0/8"), "10.0.3.0/24"),
    ],
)
def test_the_first_gap(taken: tuple[str, ...], found: str | None) -> None:
    gap = first_gap(ipaddress.ip_network("10.0.0.0/22"), 24, networks(*taken))
    assert gap == (ipaddress.ip_network(found) if found else None)


def test_a_gap_at_the_very_end_of_the_address_space() -> None:
    assert first_gap(ipaddress.ip_network("ff00::/8"), 9, networks("ff00::/9")) == ipaddress.ip_network("ff80::/9")
    assert first_gap(ipaddress.ip_network("ff00::/8"), 9, networks("ff00::/9", "ffff::/128")) is None


def test_name_servers_are_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may lie behind the default route, and a container network on top of one would leave the host without names."""
    path = tmp_path / "resolv.conf"
    path.write_text("# nameserver 10.9.9.9\nsearch x\nnameserver 172.17.0.53\nnameserver\tfe80::1%eth0\nnameserver nonsense\n")
    monkeypatch.setattr(host, "_RESOLV_CONF", path)
    used = host.networks_in_use()
    assert set(networks("172.17.0.53/32", "fe80::1/128")) <= set(used)
    assert ipaddress.ip_network("10.9.9.9/32") not in used
    path.unlink()
    host.networks_in_use()
