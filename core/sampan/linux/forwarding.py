"""What the host's packet filter does with packets that it forwards: chains read, never changed.

    nft = Nftables()
    dropped = [table for table in tables(nft) if table.drops(Packet(4, into="br0", out="eth0"))]

A packet must be accepted by every table. Chains are followed as nft(8) describes, for a packet of a new connection of which links
and family are known. A rule that asks for anything else is taken not to match: what is accepted for its address alone is called
dropped. Source: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.linux.nftables import Nftables

__all__ = ["Packet", "Table", "tables"]

FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
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
    translated: bool = False

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
    """A table that sees forwarded packets. `base`: the chain that sees them first, `policy` what it ends in."""

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


def tables(nft: Nftables) -> list[Table]:
    """Read what is hooked to forwarded packets. Raises `NftError`."""
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
