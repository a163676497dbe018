"""The driver's table in the kernel: made, read back, changed. The rules' text is in `rules`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sampan.linux.nftables import Nftables, NftError
from sampan_network_bridge import bindings, rules
from sampan_network_bridge.bindings import Binding
from sampan_network_bridge.rules import Elements

_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


class Firewall:
    """One engine's table, in the network namespace of the thread that made this. Methods raise `NftError`."""

    def __init__(self, engine_id: str) -> None:
        """Open a context of libnftables. Raises `LibraryMissing`."""
        self.table = rules.table_name(engine_id)
        self._nft = Nftables()

    def close(self) -> None:
        """Let go of the library; the table stays. Idempotent."""
        self._nft.close()

    def make(self) -> None:
        """Make the table, or renew its rules where it is there already: at once, and without touching its
        elements.
        """
        self._nft.run(rules.base(self.table))

    def elements(self) -> Elements:
        """Give what the sets hold now."""
        found = {name: frozenset[str]() for name in rules.SETS}
        for item in self._list():
            if "set" in item:
                found[item["set"]["name"]] = frozenset(_element(entry) for entry in item["set"].get("elem", ()))
        return found

    def published(self) -> list[Binding]:
        """Give what the maps hold now."""
        return [
            _binding(item["map"]["name"], key, value)
            for item in self._list()
            if "map" in item
            for key, value in item["map"].get("elem", ())
        ]

    def change(self, old: Elements, new: Elements) -> None:
        """Go from the elements `old` to `new` in one transaction."""
        if commands := rules.change(self.table, old, new):
            self._nft.run(commands)

    def publish(self, elements: Iterable[Binding]) -> None:
        """Add to the maps in one transaction."""
        if commands := bindings.publish(self.table, elements):
            self._nft.run(commands)

    def unpublish(self, elements: Iterable[Binding]) -> None:
        """Take from the maps in one transaction; what is not there is no error."""
        if commands := bindings.unpublish(self.table, elements):
            self._nft.run(commands)

    def _list(self) -> Iterator[dict[str, Any]]:
        return iter(self._nft.list(f"table inet {self.table}"))


def _element(entry: Any) -> str:
    """Write a set's element as `rules` does, from libnftables-json(5)."""
    if isinstance(entry, dict):
        if "concat" in entry:
            return " . ".join(f'"{part}"' for part in entry["concat"])
        if "prefix" in entry:
            return f"{entry['prefix']['addr']}/{entry['prefix']['len']}"
        raise NftError(f"an element of a form that this driver does not write: {entry}")
    text = str(entry)
    return f"{text}/{128 if ':' in text else 32}" if _is_address(text) else f'"{text}"'


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _binding(name: str, key: Any, value: Any) -> Binding:
    *host, protocol, ports = key["concat"]
    first, last = ports["range"] if isinstance(ports, dict) else (ports, ports)
    target, port = value["concat"] if isinstance(value, dict) else (value, first)
    return Binding(
        family=int(name[-1]), protocol=_PROTOCOLS.get(protocol, str(protocol)), host_ip=host[0] if host else "",
        host_port=first, target=target, port=port, count=last - first + 1,
    )  # fmt: skip
