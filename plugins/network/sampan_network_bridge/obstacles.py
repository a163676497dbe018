"""What other tables of the host do with packets that are forwarded to and from our bridges.

A packet must be accepted by every table, so a policy of `drop` elsewhere is stronger than our `accept`: dockerd sets one, ufw and
firewalld end in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sampan.linux.forwarding import Packet, Table, tables
from sampan.linux.nftables import Nftables

DOCKER_USER = "DOCKER-USER"


def find(bridges: Mapping[str, Sequence[int]]) -> list[str]:
    """Give the obstacles on this host for bridges (→ IP versions), in the calling thread's network namespace.

    Raises `NftError`.
    """
    nft = Nftables()
    try:
        return among(tables(nft), bridges)
    finally:
        nft.close()


def among(others: Sequence[Table], bridges: Mapping[str, Sequence[int]]) -> list[str]:
    """Say which tables keep packets from and to the bridges from their way, each with its remedy."""
    told = []
    for table in others:
        ways = {
            bridge: way
            for bridge, versions in bridges.items()
            if (way := " or ".join(_stopped(table, bridge, versions)))
        }
        for way in dict.fromkeys(ways.values()):
            stopped = [bridge for bridge, its in ways.items() if its == way]
            told.append(
                f"table {table.family} {table.name}, chain {table.base}, drops what is forwarded {way} {', '.join(stopped)}:"
                f" {_remedy(table, stopped[0])}"
            )
    return told


def _stopped(table: Table, bridge: str, versions: Sequence[int]) -> list[str]:
    stopped = []
    if any(table.drops(Packet(version, bridge, "", translated=False)) for version in versions):
        stopped.append("from")
    if any(table.drops(Packet(version, "", bridge, translated=True)) for version in versions):
        stopped.append("to")
    return stopped


def _remedy(table: Table, bridge: str) -> str:
    if DOCKER_USER in table.chains:
        command = "iptables" if table.family == "ip" else "ip6tables"
        return (
            "docker_user = true under [network.bridge] has the daemon add an accept, or do"
            f" {command} -I {DOCKER_USER} -i {bridge} -j ACCEPT; {command} -I {DOCKER_USER} -o {bridge} -j ACCEPT"
        )
    if any(chain.startswith(("ufw-", "ufw6-")) for chain in table.chains):
        return f"ufw route allow in on {bridge}; ufw route allow out on {bridge}"
    if table.name == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-interface={bridge}; firewall-cmd --reload"
    return (
        f"nft insert rule {table.family} {table.name} {table.base} iifname {bridge} accept;"
        f" nft insert rule {table.family} {table.name} {table.base} oifname {bridge} accept"
    )
