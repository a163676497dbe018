"""What keeps frames from their way: where br_netfilter shows bridged packets to the host's firewall, one that drops what it
forwards stops a network too, even between two containers of this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.linux.forwarding import Packet, Table, tables
from sampan.linux.nftables import Nftables
from sampan.linux.sysctl import get_sysctl

SWITCHES = {4: "bridge/bridge-nf-call-iptables", 6: "bridge/bridge-nf-call-ip6tables"}


def find(bridges: str) -> list[str]:
    """Give the obstacles on this host, in the calling thread's network namespace. Raises `NftError`, `OSError`.

    `bridges`: pattern of the networks' bridges' names.
    """
    shown = [version for version, switch in SWITCHES.items() if get_sysctl(switch) == "1"]
    if not shown:
        return []
    nft = Nftables()
    try:
        return obstacles(bridges, shown, tables(nft))
    finally:
        nft.close()


def obstacles(bridges: str, shown: Sequence[int], others: Sequence[Table]) -> list[str]:
    """Say which tables drop packets from a bridge to itself, of the IP versions that are `shown` to them; with the remedy."""
    name = bridges.removesuffix("*")
    return [
        f"table {table.family} {table.name}, chain {table.base}, drops what is bridged within vxlan networks: {_remedy(table, bridges)}"
        for table in others
        if any(table.drops(Packet(version, into=name, out=name)) for version in shown)
    ]


def _remedy(table: Table, bridges: str) -> str:
    switches = " ".join(f"net.{switch.replace('/', '.')}=0" for switch in SWITCHES.values())
    if "DOCKER-USER" in table.chains:
        command, pattern = "iptables" if table.family == "ip" else "ip6tables", bridges.replace("*", "+")
        accept = f"{command} -I DOCKER-USER -i {pattern} -o {pattern} -j ACCEPT"
    else:
        accept = f"nft insert rule {table.family} {table.name} {table.base} iifname {bridges} oifname {bridges} accept"
    return f"{accept}; or, if no firewall of yours looks at bridged packets: sysctl {switches}"
