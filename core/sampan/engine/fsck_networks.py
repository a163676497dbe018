"""What `fsck` finds of networks: drivers' orphans on the host, records without a container, endpoints that are damaged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from sampan.api.errors import NotFound, SampanError, System
from sampan.api.network import Endpoint, Network
from sampan.engine.connections import Connections
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.endpoints import Endpoints, to_endpoint
from sampan.engine.faults import Fault, Look, lasting, mendable
from sampan.engine.isolation import container_capabilities
from sampan.engine.network_drivers import NetworkPlank
from sampan.engine.networks import Networks, to_network
from sampan.engine.records import EndpointRecord
from sampan.engine.sandboxes import Sandboxes

AREA = "networks"

PATIENCE, PAUSE = 1.0, 0.05  # seconds


class NetworkCheck:
    """Networks and endpoints on the host and in running containers, against the records."""

    def __init__(
        self, networks: Networks, endpoints: Endpoints, sandboxes: Sandboxes, connections: Connections, containers: Containers
    ) -> None:  # fmt: skip
        self._networks = networks
        self._endpoints = endpoints
        self._sandboxes = sandboxes
        self._connections = connections
        self._containers = containers

    async def look(self) -> Look:
        """Tell what is wrong. A container that somebody starts, stops or connects is not judged."""
        faults = [*self._unavailable(), *self._left_behind()]
        skipped: list[str] = []
        for plank in self._networks.drivers.opened():
            faults += await self._orphans(plank)
        for container in self._containers.all():
            if not _is_settled(container) or not self._endpoints.of(container.id):
                continue
            if "CAP_NET_ADMIN" in container_capabilities(container.record.host)[0]:
                skipped.append(f"the network of container {container.id[:12]}, which it may change itself (NET_ADMIN)")
                continue
            faults += await self._damage(container)
        return Look(tuple(faults), tuple(skipped))

    def _unavailable(self) -> list[Fault]:
        remedy = "make the driver work again; until then its containers cannot start"
        reasons = self._networks.drivers.unavailable
        return [
            lasting(AREA, record.name, f"driver {record.driver} is not available: {reasons[record.driver]}", remedy)
            for record in self._networks.all()
            if record.driver in reasons
        ]

    # ------------------------------------------------------------------ orphans

    async def _orphans(self, plank: NetworkPlank) -> list[Fault]:
        """Find what does not go by itself: the kernel takes the links of a sandbox that has ended when it comes to it."""
        names: Sequence[str] = await plank.call(plank.driver.orphans, *self._valid(plank.name))
        deadline = time.monotonic() + PATIENCE
        while names and time.monotonic() < deadline:
            await asyncio.sleep(PAUSE)
            still = set(await plank.call(plank.driver.orphans, *self._valid(plank.name)))
            names = [name for name in names if name in still]
        problem, remedy = f"driver {plank.name} made it, and no network or endpoint has it", "remove it"
        return [mendable(AREA, name, problem, remedy, partial(self._sweep, plank)) for name in names]

    async def _sweep(self, plank: NetworkPlank) -> None:
        """Sweep while the driver makes nothing: what is valid is known to be so only then."""
        async with plank.alone() as call:
            await call(plank.driver.gc, *self._valid(plank.name))

    def _valid(self, driver: str) -> tuple[list[Network], list[Endpoint]]:
        """Give the driver's networks but those on their way out, and all endpoints in them, coming and prepared ones too."""
        records = [record for record in self._networks.all() if record.driver == driver and self._stays(record.id)]
        endpoints = [to_endpoint(endpoint) for record in records for endpoint in self._endpoints.inside(record)]
        prepared = [Endpoint(key, network_id, "") for network_id, key in self._sandboxes.prepared()]
        return [to_network(record) for record in records], endpoints + prepared

    def _stays(self, network_id: str) -> bool:
        record = self._networks.find(network_id)
        try:
            if record is not None:
                self._networks.check_stays(record)
        except NotFound:
            return False
        return record is not None

    def _left_behind(self) -> list[Fault]:
        """Find endpoints that a driver failed to take away: of a container that has ended, or has left their network."""
        faults = []
        for container_id in self._endpoints.holders():
            container = self._containers.get(container_id) if self._containers.has(container_id) else None
            if container is not None and container.lock.locked():
                continue
            runs = container is not None and container.is_running
            for endpoint in self._endpoints.of(container_id):
                if runs and endpoint.whole:
                    continue
                problem = f"its container {container_id[:12]} {'has left its network' if runs else 'does not run'}"
                take_away = partial(self._take_away, endpoint)
                faults.append(mendable(AREA, f"endpoint {endpoint.id[:12]}", problem, "take it away", take_away))
        return faults

    async def _take_away(self, endpoint: EndpointRecord) -> None:
        await self._endpoints.detach(endpoint)
        if endpoint in self._endpoints.of(endpoint.container_id):
            raise System(f"take away endpoint {endpoint.id[:12]}: the driver failed", remedy="the daemon's log says why")

    # ------------------------------------------------------------------ live endpoints

    async def _damage(self, container: Container) -> list[Fault]:
        who = f"container {container.id[:12]}"
        remedy = "make again what is missing on the host; in the container, disconnect and connect it does"
        try:
            found = await self._connections.damage(container)
        except NotFound:
            return []
        except SampanError as error:
            return [lasting(AREA, who, f"its network can't be looked at: {error}", "make the driver work again")]
        if not _is_settled(container):
            return []
        return [
            mendable(AREA, who, line, remedy, partial(self._repair, container, endpoint, line)) for endpoint, line in found
        ]

    async def _repair(self, container: Container, endpoint: EndpointRecord, line: str) -> None:
        async with container.lock:
            await self._endpoints.repair(endpoint)
            if (endpoint, line) in await self._connections.damage(container):
                raise System(f"repair the network of container {container.id[:12]}: {line}", remedy="disconnect and connect it")


def _is_settled(container: Container) -> bool:
    return container.is_running and not container.lock.locked()
