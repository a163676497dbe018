"""The driver's table in the kernel: made, read back, changed. The rules' text is in `rules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sampan.linux.nftables import Nftables, NftError
from sampan_network_bridge import bindings, rules, sets
from sampan_network_bridge.bindings import Binding
from sampan_network_bridge.sets import Elements

_KINDS = re.compile("ifname|ipv[46]_addr")
_PROTOCOLS = {number: name for name, number in bindings.PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class _Contents:
    """What the table holds at a generation of the kernel's rules."""

    generation: int
    elements: Elements
    published: frozenset[Binding]


class Firewall:
    """One engine's table, in the network namespace of the thread that made this. Methods raise `NftError`."""

    def __init__(self, engine_id: str) -> None:
        """Open a context of libnftables. Raises `LibraryMissing`."""
        self.table = rules.table_name(engine_id)
        self._nft = Nftables()
        self._contents: _Contents | None = None
        self._seen = 0  # the last generation that the table was there

    def close(self) -> None:
        """Let go of the library; the table stays. Idempotent."""
        self._nft.close()

    def make(self, proxy_port: int = 0) -> None:
        """Make the table, or renew its rules where it is there already: at once, and without touching its
        elements.
        """
        self._nft.run(rules.base(self.table, proxy_port))

    def is_there(self) -> bool:
        """Say whether the table is there: anybody may flush all tables of the host, and `nftables.service` does.

        Asks for no more than a number if nobody has changed any rule since it was seen: 0.02 ms.
        """
        now = self._nft.generation()
        if now == self._seen:
            return True
        there = any(item["table"]["name"] == self.table for item in self._nft.list("tables inet"))
        if there:
            self._seen = now
        return there

    def elements(self) -> Elements:
        """Give what the networks' sets and maps hold now."""
        return self._read().elements

    def published(self) -> frozenset[Binding]:
        """Give what the maps of ports hold now, and the sets of doors and of those that take the proxy."""
        return self._read().published

    def change(self, old: Elements, new: Elements) -> None:
        """Go from the elements `old` to `new` in one transaction. To take some away, the table need not be there."""
        takes = all(elements <= old.get(name, frozenset()) for name, elements in new.items())
        if commands := sets.change(self.table, old, new):
            self._run(commands, takes=takes)

    def publish(self, elements: Iterable[Binding]) -> None:
        """Add to the maps in one transaction."""
        if commands := bindings.publish(self.table, elements):
            self._run(commands, takes=False)

    def unpublish(self, elements: Iterable[Binding]) -> None:
        """Take from the maps in one transaction; what is not there is no error."""
        if commands := bindings.unpublish(self.table, elements):
            self._run(commands, takes=True)

    def _run(self, commands: str, *, takes: bool) -> None:
        """Run commands; those that only take away have nothing to do without the table."""
        try:
            self._nft.run(commands)
            now = self._nft.generation()
            if now == self._seen + 1:  # else others were here too, and may have taken the table away
                self._seen = now
        except NftError:
            if not takes or self.is_there():
                raise

    def _read(self) -> _Contents:
        """Give the table's contents, listed anew if anybody has changed any rule since: a restart asks for each endpoint."""
        now = self._nft.generation()
        if self._contents is None or self._contents.generation != now:
            listed = self._list()
            self._contents = _Contents(now, _elements(listed), frozenset(_published(listed)))
        return self._contents

    def _list(self) -> list[dict[str, Any]]:
        """List the table's contents; none without the table."""
        try:
            return self._nft.list(f"table inet {self.table}")
        except NftError:
            if self.is_there():
                raise
            return []


def _elements(listed: Iterable[dict[str, Any]]) -> Elements:
    found = {name: frozenset[str]() for name in sets.SETS}
    for item in listed:
        one = item.get("set") or item.get("map") or {"name": ""}
        if one["name"] in found:
            found[one["name"]] = frozenset(_element(sets.SETS[one["name"]], entry) for entry in one.get("elem", ()))
    return found


def _published(listed: Iterable[dict[str, Any]]) -> Iterator[Binding]:
    for item in listed:
        if "map" in item and item["map"]["name"] not in sets.SETS:
            name = item["map"]["name"]
            yield from (_binding(name, key, value) for key, value in item["map"].get("elem", ()))
        elif "set" in item and item["set"]["name"].endswith("_proxied"):
            yield from (_proxied(entry["elem"]) for entry in item["set"].get("elem", ()) if "elem" in entry)
        elif "set" in item and item["set"]["name"] in ("doors4", "doors6"):
            yield from (_door(item["set"]["name"], entry) for entry in item["set"].get("elem", ()))


def _element(declared: str, entry: Any) -> str:
    """Write an element of a set with this declaration as `sets` does, from libnftables-json(5)."""
    is_mapped = isinstance(entry, list)
    parts = entry if is_mapped else entry["concat"] if isinstance(entry, dict) and "concat" in entry else [entry]
    kinds = _KINDS.findall(declared)
    return (" : " if is_mapped else " . ").join(
        _part(kind, part, whole=not is_mapped) for kind, part in zip(kinds, parts, strict=True)
    )


def _part(kind: str, part: Any, *, whole: bool) -> str:
    """Write a link's name, an address, or a prefix, also of `whole` length where an address is meant as one."""
    if kind == "ifname":
        return f'"{part}"'
    if isinstance(part, dict):
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    return f"{part}/{128 if ':' in part else 32}" if whole else str(part)


def _binding(name: str, key: Any, value: Any) -> Binding:
    host_ip, protocol, first, count = _key(key)
    target, port = value["concat"] if isinstance(value, dict) else (value, first)
    return Binding(int(name[-1]), protocol, host_ip, first, target, port, count)


def _door(name: str, key: Any) -> Binding:
    address, protocol, first, count = _key(key)
    return bindings.door(int(name[-1]), protocol, address, first, count)


def _proxied(entry: Any) -> Binding:
    host_ip, protocol, first, count = _key(entry["val"])
    target, _, port = entry["comment"].rpartition(":")
    return Binding(6, protocol, host_ip, first, target.strip("[]"), int(port), count)


def _key(key: Any) -> tuple[str, str, int, int]:
    """Give host address or "", protocol, first port and how many."""
    *host, protocol, ports = key["concat"]
    first, last = ports["range"] if isinstance(ports, dict) else (ports, ports)
    return host[0] if host else "", _PROTOCOLS.get(protocol, str(protocol)), first, last - first + 1
