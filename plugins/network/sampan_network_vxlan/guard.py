"""The driver's table in the kernel."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from sampan.linux.nftables import Nftables, NftError
from sampan_network_vxlan import rules
from sampan_network_vxlan.options import Options


class Guard:
    """Keeps the table as the networks want it. Raises `LibraryMissing`; methods raise `NftError`."""

    def __init__(self, engine_id: str, bridges: str) -> None:
        """Open the library in the calling thread's network namespace. `bridges`: pattern of the networks' bridges' names."""
        self.table = rules.table_name(engine_id)
        self._bridges = bridges
        self._nft = Nftables()
        self._networks: dict[str, Options] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the library; the table stays. Idempotent."""
        self._nft.close()

    def renew(self, networks: Mapping[str, Options]) -> None:
        """Guard these networks, by id, and no others."""
        with self._lock:
            self._write(dict(networks))

    def add(self, network_id: str, given: Options) -> None:
        """Guard one more."""
        with self._lock:
            self._write({**self._networks, network_id: given})

    def remove(self, network_id: str) -> None:
        """Guard one less. Idempotent."""
        with self._lock:
            self._write({key: given for key, given in self._networks.items() if key != network_id})

    def kept(self) -> set[str]:
        """Give the ids of the networks that the kernel has rules of, be they all or some."""
        return {about.removeprefix("network ") for _, about in self._rules() if about.startswith("network ")}

    def is_whole(self, network_id: str) -> bool:
        """Say whether the kernel has all rules that keep a network."""
        return set(rules.subjects(network_id)) <= self._rules()

    def _rules(self) -> set[tuple[str, str]]:
        """Give the chain of each rule in the kernel, and what it is about."""
        try:
            objects = self._nft.list(f"table inet {self.table}")
        except NftError:  # there is no such table
            return set()
        return {(item["rule"]["chain"], item["rule"].get("comment", "")) for item in objects if "rule" in item}

    def _write(self, networks: dict[str, Options]) -> None:
        self._nft.run(rules.render(self.table, self._bridges, networks))
        self._networks = networks
