"""What other tables of the host do with packets that are forwarded to and from our bridges: chains read, never changed.

A packet must be accepted by every table, so a policy of `drop` elsewhere is stronger than our `accept`: dockerd sets one, ufw and
firewalld end in one. Chains are followed as nft(8) describes, for a packet of a new connection of which links and family are
known. A rule that asks for anything else is taken not to match: what is accepted for its address alone is called dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.linux.nftables import Nftables

FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
DOCKER_USER = "DOCKER-USER"
DEPTH = 32
"""Jumps followed; the kernel allows 16."""

Rules = Sequence[Sequence[Mapping[str, Any]]]
"""A chain's rules, each a list of expressions of libnftables-json(5)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. A link "" is any that no rule names."""

    version: int
    into: str
    out: str
    translated: bool

    @property
    def facts(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """What a rule may ask of it: the values that match."""
        return {
            ("meta", "iifname"): frozenset({self.into}),
            ("meta", "oifname"): frozenset({self.out}),
            ("meta", "nfproto"): frozenset({f"ipv{self.version}"}),
            ("ct", "state"): frozenset({"new"}),
            ("ct", "status"): frozenset({"dnat"} if self.translated else ()),
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A table of somebody else that sees forwarded packets. `base`: the chain that sees them first, `policy` what it ends in."""

    family: str
    name: str
    base: str
    policy: str
    chains: Mapping[str, Rules]

    def drops(self, packet: Packet) -> bool:
        """Say whether the packet ends here."""
        if packet.version not in FAMILIES[self.family]:
            return False
        return (self._walk(self.base, packet, DEPTH) or self.policy) == "drop"

    def _walk(self, chain: str, packet: Packet, depth: int) -> str:
        """Give what the chain says: accept, drop, or "" for nothing."""
        for rule in self.chains.get(chain, ()) if depth else ():
            verdict = self._judge(rule, packet, depth)
            if verdict == "return":
                return ""
            if verdict:
                return verdict
        return ""

    def _judge(self, rule: Sequence[Mapping[str, Any]], packet: Packet, depth: int) -> str:
        for expression in rule:
            ((kind, content),) = expression.items()
            if kind == "match":
                if not _matches(content, packet):
                    return ""
            elif kind in ("accept", "return"):
                return kind
            elif kind in ("drop", "reject"):
                return "drop"
            elif kind == "jump":
                return self._walk(content["target"], packet, depth - 1)
            elif kind == "goto":
                return self._walk(content["target"], packet, depth - 1) or "return"
            elif kind not in ("counter", "log", "mangle"):  # limits, sets, iptables' own matches: not known here
                return ""
        return ""


def _matches(match: Mapping[str, Any], packet: Packet) -> bool:
    """Say whether it certainly matches."""
    left, right, operator = match["left"], match["right"], match["op"]
    kind, content = next(iter(left.items())) if isinstance(left, dict) else ("", None)
    known = packet.facts.get((kind, content.get("key", ""))) if isinstance(content, dict) else None
    listed = right.get("set", ()) if isinstance(right, dict) else right
    values = listed if isinstance(listed, list) else [listed]
    if known is None or not all(isinstance(value, str) and not value.startswith("@") for value in values):
        return False
    found = any(_same(value, fact) for value in values for fact in known)
    return found if operator in ("==", "in") else not found if operator == "!=" else False


def _same(value: str, fact: str) -> bool:
    return fact.startswith(value[:-1]) if value.endswith("*") else fact == value


# ---------------------------------------------------------------- the kernel's


def tables(nft: Nftables) -> list[Table]:
    """Read what is hooked to forwarded packets; our own table says nothing of the kind. Raises `NftError`."""
    found = []
    for item in nft.list("chains"):
        chain = item.get("chain", {})
        if chain.get("hook") == "forward" and chain["family"] in FAMILIES:
            found.append(
                Table(
                    chain["family"], chain["table"], chain["name"], chain.get("policy", "accept"),
                    _chains(nft, chain["family"], chain["table"]),
                )
            )  # fmt: skip
    return found


def _chains(nft: Nftables, family: str, table: str) -> dict[str, Rules]:
    chains: dict[str, list[Sequence[Mapping[str, Any]]]] = {}
    for item in nft.list(f"table {family} {table}"):
        if "chain" in item:
            chains.setdefault(item["chain"]["name"], [])
        elif "rule" in item:
            chains.setdefault(item["rule"]["chain"], []).append(item["rule"].get("expr", []))
    return dict(chains)


# ---------------------------------------------------------------- obstacles


def obstacles(bridges: Mapping[str, Sequence[int]], others: Sequence[Table]) -> list[str]:
    """Say which tables keep packets from and to these bridges (→ IP versions) from their way, each with its remedy."""
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


def find(bridges: Mapping[str, Sequence[int]]) -> list[str]:
    """Give the obstacles on this host, in the calling thread's network namespace. Raises `NftError`."""
    nft = Nftables()
    try:
        return obstacles(bridges, tables(nft))
    finally:
        nft.close()
