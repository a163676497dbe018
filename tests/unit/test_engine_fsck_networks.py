"""Endpoints that a driver failed to take away, and networks of a driver that is not there: by engine parts and a driver of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.api.driver import Probe
from sampan.api.errors import System
from sampan.api.network import Attachment, Endpoint, Network, NetworkCapability, NetworkDriver, PortMapping
from sampan.api.types import EndpointSettings, NetworkCreateRequest
from sampan.engine.endpoints import Endpoints, Place
from sampan.engine.events import EventBus
from sampan.engine.fsck_networks import NetworkCheck
from sampan.engine.metadata import Metadata
from sampan.engine.networks import Networks
from sampan.engine.sandboxes import Sandboxes
from sampan.plugins import Registration, discover
from sampan.settings import Settings


class Stubborn(NetworkDriver):
    """A driver that fails to take endpoints away until it is told better."""

    name = "stubborn"
    detaches = False

    @classmethod
    def probe(cls, root: Path) -> Probe:
        return Probe(True, capabilities=frozenset({NetworkCapability.MULTIPLE}))

    def open(self, networks: Sequence[Network]) -> None:
        pass

    def close(self) -> None:
        pass

    def default_network(self) -> None:
        pass

    def create_network(self, network: Network) -> None:
        pass

    def delete_network(self, network: Network) -> None:
        pass

    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        return Attachment()

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        if not self.detaches:
            raise System("detach: the switch in the cellar does not answer")

    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        return ()

    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        pass

    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        return ()

    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        return ()


class NoPorts:
    """A proxy for an engine that publishes nothing."""

    port = 0


@dataclass
class Known:
    """Containers by id, each a name for whether it runs; all that the check asks of them."""

    containers: dict[str, Any] = field(default_factory=dict)

    def has(self, container_id: str) -> bool:
        return container_id in self.containers

    def get(self, container_id: str) -> Any:
        return self.containers[container_id]

    def all(self) -> list[Any]:
        return []


@dataclass
class Stopped:
    is_running: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def test_endpoints_that_a_driver_failed_to_take_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = discover()
        registry.claim(Registration("network", Stubborn, "test", "test", "1"))
        metadata = await Metadata.open(tmp_path / "metadata.db")
        settings = Settings(root=tmp_path / "root", state=tmp_path / "state")
        events = EventBus()
        networks = Networks(settings, registry, metadata, events, NoPorts())
        endpoints = Endpoints(networks, NoPorts(), metadata, events)
        known = Known()
        check = NetworkCheck(networks, endpoints, Sandboxes(networks, 0), None, known)
        try:
            network = await networks.create(NetworkCreateRequest(name="cellar", driver="stubborn"))
            for holder in ("ab" * 32, "cd" * 32):
                row = ("INSERT INTO containers VALUES (?, ?, '{}')", (holder, holder))
                await metadata.database.write(lambda tx, row=row: tx.execute(*row))
                await endpoints.attach(Place(network, holder, EndpointSettings()), -1)
            known.containers = {"ab" * 32: Stopped()}  # the other is gone
            found = (await check.look()).faults
            assert {fault.damage.problem for fault in found} == {
                f"its container {holder[:12]} does not run" for holder in ("ab" * 32, "cd" * 32)
            }
            for fault in found:
                try:
                    await fault.mend()
                except System as error:
                    assert "take away endpoint" in str(error)
                else:
                    raise AssertionError("what is still there was called mended")
            async with known.containers["ab" * 32].lock:
                assert len((await check.look()).faults) == 1, "somebody starts the other: not judged"
            Stubborn.detaches = True
            for fault in (await check.look()).faults:
                await fault.mend()
            assert (await check.look()).faults == ()
            networks.drivers.unavailable["stubborn"] = "it was uninstalled"
            (fault,) = (await check.look()).faults
            assert (fault.damage.subject, fault.damage.repairable) == ("cellar", False)
            assert "it was uninstalled" in fault.damage.problem
        finally:
            Stubborn.detaches = False
            await networks.close()
            metadata.database.close()

    asyncio.run(scenario())
