"""Whose a link on the host is: a driver gives every link that it makes a mark, as its alias (ip-link(8)).

Names have 15 bytes, too few for a whole id, and anybody may use them; what a driver removes must be its own for certain. Many
engines live on one host, and many drivers in one engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.linux.netlink import Link, Netlink

if TYPE_CHECKING:
    from sampan.api.network import Endpoint, Network

__all__ = ["Marks"]


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one engine's driver."""

    engine_id: str
    driver: str

    def network(self, network_id: str) -> str:
        """Give the mark of a network's links."""
        return f"{self._prefix}network {network_id}"

    def endpoint(self, endpoint_id: str) -> str:
        """Give the mark of an endpoint's links on the host."""
        return f"{self._prefix}endpoint {endpoint_id}"

    def own(self, link: Link) -> bool:
        """Say whether this engine's driver made the link."""
        return link.alias.startswith(self._prefix)

    def lost(self, networks: Iterable[Network], endpoints: Iterable[Endpoint]) -> list[Link]:
        """Give the own links that are none of these networks' or endpoints', in the calling thread's namespace. Raises `OSError`."""
        valid = {self.network(network.id) for network in networks} | {self.endpoint(endpoint.id) for endpoint in endpoints}
        with Netlink() as kernel:
            return [link for link in kernel.links() if self.own(link) and link.alias not in valid]

    @property
    def _prefix(self) -> str:
        return f"sampan {self.engine_id} {self.driver} "
