"""Sandboxes: the network namespaces that containers start in."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from sampan.engine.records import NetworkRecord
from sampan.linux import namespaces


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A network namespace behind a descriptor that is the holder's to close.

    `endpoint_id`: the id of an endpoint whose link the network's driver has made in it already, or "".
    """

    netns: int
    endpoint_id: str = ""

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.netns)


class Sandboxes:
    """Gives sandboxes."""

    async def take(self, network: NetworkRecord | None) -> Sandbox:
        """Give a sandbox for a container whose first network this is (None: it joins none)."""
        return Sandbox(await asyncio.to_thread(namespaces.new_netns))
