"""Endpoints: the places of containers in networks. Addresses are chosen here, drivers make them, the store keeps them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sampan.api.errors import SampanError
from sampan.api.network import Endpoint, Network, NetworkDriver, PortMapping
from sampan.api.types import EndpointSettings
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.names import new_id
from sampan.engine.networks import Networks, to_network
from sampan.engine.proxy import Proxy
from sampan.engine.records import EndpointRecord, NetworkRecord
from sampan.store.database import Transaction

log = logging.getLogger(__name__)

_Removal = Callable[[Network, Endpoint], None]

LINK_LOCAL_PREFIX = {4: 16, 6: 64}
"""Prefix lengths of addresses given by `--link-local-ip`, as Docker's: RFC 3927, RFC 4291."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a network that a container is to get: everything but the addresses is decided.

    `endpoint_id`: of an endpoint whose link is in the sandbox already, or "" for a new one.
    """

    network: NetworkRecord
    container_id: str
    asked: EndpointSettings
    interface: str = "eth0"
    mac: str = ""
    gateway_for: tuple[int, ...] = (4, 6)
    ports: tuple[PortMapping, ...] = ()
    endpoint_id: str = ""


class Endpoints:
    """The endpoints of all running containers, each container's in the order of joining."""

    def __init__(self, networks: Networks, proxy: Proxy, metadata: Metadata, events: EventBus) -> None:
        self._networks = networks
        self._proxy = proxy
        self._metadata = metadata
        self._events = events
        self._by_container: dict[str, list[EndpointRecord]] = {}
        self._allocating = asyncio.Lock()
        self._joining: list[EndpointRecord] = []  # they have addresses, and are not up yet

    def load(self) -> None:
        """Read what the store knows."""
        for endpoint in self._metadata.database.query(self._metadata.endpoints.list):
            self._by_container.setdefault(endpoint.container_id, []).append(endpoint)

    def of(self, container_id: str) -> list[EndpointRecord]:
        """Give a running container's endpoints, in the order of joining."""
        return list(self._by_container.get(container_id, ()))

    def holders(self) -> list[str]:
        """Give the ids of the containers that have endpoints."""
        return list(self._by_container)

    def places(self, container_id: str) -> list[tuple[NetworkRecord, EndpointRecord]]:
        """Give a running container's networks and its endpoints there, in the order of joining."""
        found = [(self._networks.find(endpoint.network_id), endpoint) for endpoint in self.of(container_id)]
        return [(network, endpoint) for network, endpoint in found if network is not None]

    def inside(self, network: NetworkRecord) -> list[EndpointRecord]:
        """Give the endpoints in a network, those that are being made too."""
        up = [endpoint for endpoints in self._by_container.values() for endpoint in endpoints]
        return [endpoint for endpoint in (*up, *self._joining) if endpoint.network_id == network.id]

    # ------------------------------------------------------------------ joining

    async def attach(self, place: Place, netns: int) -> EndpointRecord:
        """Give a starting container's sandbox a place in a network: addresses, link, ports. All or nothing.

        To be followed by `record`. Raises as the network's drivers, `NotFound` if the network is going away.
        """
        endpoint = await self._allocate(place)
        try:
            endpoint = await self._make(place, endpoint, netns)
            self._by_container.setdefault(place.container_id, []).append(endpoint)
        finally:
            self._joining = [item for item in self._joining if item.id != endpoint.id]
        await self._tell(place.network, endpoint)
        return endpoint

    async def record(self, made: Sequence[EndpointRecord]) -> None:
        """Have a starting container's endpoints in the store. One that a crash leaves out is found by its engine's mark, by `gc`."""

        def insert(tx: Transaction) -> None:
            for endpoint in made:
                self._metadata.endpoints.insert(tx, endpoint)

        if made:
            await self._metadata.database.note(insert)

    async def attach_live(self, place: Place, netns: int) -> EndpointRecord:
        """As `attach`, for a container that runs. Recorded before it exists, so that a crash lets the next daemon undo it."""
        planned = (await self._allocate(place)).model_copy(update={"whole": False})
        try:
            await self._metadata.database.note(lambda tx: self._metadata.endpoints.insert(tx, planned))
            try:
                endpoint = await self._make(place, planned, netns)
            except BaseException:
                await self._metadata.database.note(partial(self._metadata.endpoints.delete, key=planned.id))
                raise
            endpoint = endpoint.model_copy(update={"whole": True})
            self._by_container.setdefault(place.container_id, []).append(endpoint)
            await self._replace(endpoint)
        finally:
            self._joining = [item for item in self._joining if item.id != planned.id]
        await self._tell(place.network, endpoint)
        return endpoint

    async def _make(self, place: Place, endpoint: EndpointRecord, netns: int) -> EndpointRecord:
        plank = await self._networks.driver_of(place.network)
        given = replace(to_endpoint(endpoint), ports=place.ports)
        attachment = await plank.call(plank.driver.attach, to_network(place.network), given, netns)
        made = {
            "host_interface": attachment.host_interface,
            "mac": attachment.mac or endpoint.mac,
            "ports": _port_records(attachment.ports),
        }
        return endpoint.model_copy(update=made)

    async def _tell(self, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        if endpoint.ports:
            await self._proxy.publish(endpoint)
        self._emit("connect", network, endpoint.container_id)

    async def _allocate(self, place: Place) -> EndpointRecord:
        """Choose the addresses and hold them: the endpoint is in `_joining` when this returns."""
        network, wanted = place.network, place.asked.ipam_config
        async with self._allocating:
            self._networks.check_stays(network)
            held = {address.partition("/")[0] for item in self.inside(network) for address in (item.ipv4, item.ipv6) if address}
            choose = partial(self._networks.choose_address, network, held=held)
            endpoint = EndpointRecord(
                id=place.endpoint_id or new_id(),
                network_id=network.id,
                container_id=place.container_id,
                interface=place.interface,
                mac=place.mac,
                ipv4=await choose(4, wanted.ipv4_address if wanted else ""),
                ipv6=await choose(6, wanted.ipv6_address if wanted else ""),
                link_local=[_link_local(address) for address in wanted.link_local_ips] if wanted else [],
                gateway_for=list(place.gateway_for),
                options=place.asked.driver_opts,
            )
            self._networks.check_stays(network)
            self._joining.append(endpoint)
        return endpoint

    # ------------------------------------------------------------------ changing

    async def lead(self, endpoint: EndpointRecord, versions: Sequence[int], netns: int) -> EndpointRecord:
        """Have the default routes of these IP versions, and no others, go by an endpoint. Raises as `set_gateway`."""
        if list(versions) == endpoint.gateway_for:
            return endpoint
        changed = endpoint.model_copy(update={"gateway_for": list(versions)})
        network = self._networks.find(endpoint.network_id)
        if network is not None and set(versions) - set(endpoint.gateway_for):
            plank = await self._networks.driver_of(network)
            await plank.call(plank.driver.set_gateway, to_network(network), to_endpoint(changed), netns)
        await self._replace(changed)
        return changed

    async def lead_again(self, endpoint: EndpointRecord, netns: int) -> None:
        """Have the default routes that are an endpoint's go by it, whatever has happened to them. Raises as `set_gateway`."""
        network = self._networks.resolve(endpoint.network_id)
        plank = await self._networks.driver_of(network)
        await plank.call(plank.driver.set_gateway, to_network(network), to_endpoint(endpoint), netns)

    async def publish(self, endpoint: EndpointRecord, ports: Sequence[PortMapping]) -> EndpointRecord:
        """Publish ports of a live endpoint that has none yet. Raises as the driver's `publish`."""
        network = self._networks.resolve(endpoint.network_id)
        plank = await self._networks.driver_of(network)
        made = await plank.call(plank.driver.publish, to_network(network), to_endpoint(endpoint), ports)
        changed = endpoint.model_copy(update={"ports": _port_records(made)})
        await self._replace(changed)
        await self._proxy.publish(changed)
        return changed

    async def unpublish(self, endpoint: EndpointRecord) -> EndpointRecord:
        """Take back all published ports of a live endpoint. Raises as the driver's `unpublish`."""
        network = self._networks.resolve(endpoint.network_id)
        plank = await self._networks.driver_of(network)
        await self._proxy.withdraw(endpoint.id)
        given = to_endpoint(endpoint)
        await plank.call(plank.driver.unpublish, to_network(network), given, given.ports)
        changed = endpoint.model_copy(update={"ports": []})
        await self._replace(changed)
        return changed

    async def _replace(self, changed: EndpointRecord) -> None:
        await self._metadata.database.note(lambda tx: self._metadata.endpoints.update(tx, changed))
        endpoints = self._by_container.get(changed.container_id, [])
        endpoints[:] = [changed if item.id == changed.id else item for item in endpoints]

    async def explain(self, endpoint: EndpointRecord) -> list[str]:
        """Say in words which packets reach an endpoint and which it may send. Raises as the driver's `explain`."""
        network = self._networks.resolve(endpoint.network_id)
        plank = await self._networks.driver_of(network)
        return list(await plank.call(plank.driver.explain, to_network(network), to_endpoint(endpoint)))

    async def check(self, endpoint: EndpointRecord, netns: int) -> list[str]:
        """Name what is damaged about a live endpoint. Raises as the driver's `check`."""
        network = self._networks.resolve(endpoint.network_id)
        plank = await self._networks.driver_of(network)
        return list(await plank.call(plank.driver.check, to_network(network), to_endpoint(endpoint), netns))

    async def repair(self, endpoint: EndpointRecord) -> None:
        """Make again what is missing of a live endpoint on the host. Raises as the driver's `repair`."""
        network = self._networks.resolve(endpoint.network_id)
        plank = await self._networks.driver_of(network)
        for mended in await plank.call(plank.driver.repair, to_network(network), to_endpoint(endpoint)):
            log.warning("network %s: mended %s", network.name, mended)

    # ------------------------------------------------------------------ leaving

    async def detach_live(self, endpoint: EndpointRecord) -> None:
        """As `detach`, for a container that goes on: a crash lets the next daemon finish it."""
        await self._replace(endpoint.model_copy(update={"whole": False}))
        await self.detach(endpoint)

    async def detach(self, endpoint: EndpointRecord) -> None:
        """Take an endpoint of a living sandbox away. Best-effort: what fails stays recorded, for the next sweep."""
        await self._take_away(endpoint, lambda driver: driver.detach)

    async def release(self, endpoint: EndpointRecord) -> None:
        """Take an endpoint away whose sandbox has ended. As `detach`, but the link may go a little later."""
        await self._take_away(endpoint, lambda driver: driver.release)

    async def _take_away(self, endpoint: EndpointRecord, operation: Callable[[NetworkDriver], _Removal]) -> None:
        network = self._networks.find(endpoint.network_id)
        try:
            if network is not None:
                plank = await self._networks.driver_of(network)
                await plank.call(operation(plank.driver), to_network(network), to_endpoint(endpoint))
            if endpoint.ports:
                await self._proxy.withdraw(endpoint.id)
            await self._metadata.database.note(partial(self._metadata.endpoints.delete, key=endpoint.id))
        except SampanError as error:
            log.warning("detach endpoint %s of container %s: %s", endpoint.id[:12], endpoint.container_id[:12], error)
            return
        others = [item for item in self.of(endpoint.container_id) if item.id != endpoint.id]
        if others:
            self._by_container[endpoint.container_id] = others
        else:
            self._by_container.pop(endpoint.container_id, None)
        if network is not None:
            self._emit("disconnect", network, endpoint.container_id)

    async def sweep(self, living: set[str]) -> set[str]:
        """Remove from host and store whatever belongs to containers that no longer run, and mend what the others lack.

        Gives the ids of running containers that were just joining or leaving a network: they are out of it now.
        """
        known = [endpoint for endpoints in self._by_container.values() for endpoint in endpoints]
        for stale in known:
            if stale.container_id not in living or not stale.whole:
                await self.detach(stale)
        networks = {record.id: record for record in self._networks.all()}
        endpoints = [endpoint for endpoints in self._by_container.values() for endpoint in endpoints]
        for plank in self._networks.drivers.opened():
            own = {record.id: to_network(record) for record in networks.values() if record.driver == plank.name}
            valid = [to_endpoint(record) for record in endpoints if record.network_id in own]
            for removed in await plank.call(plank.driver.gc, list(own.values()), valid):
                log.info("network %s: swept %s", plank.name, removed)
            for endpoint in valid:
                try:
                    for mended in await plank.call(plank.driver.repair, own[endpoint.network_id], endpoint):
                        log.warning("network %s: mended %s", plank.name, mended)
                except SampanError as error:
                    log.error("network %s: container %s stays damaged: %s", plank.name, endpoint.container_id[:12], error)
        return {stale.container_id for stale in known if not stale.whole} & living

    def _emit(self, action: str, network: NetworkRecord, container_id: str) -> None:
        attributes = {"container": container_id, "name": network.name, "type": network.driver}
        self._events.emit("network", action, network.id, attributes)


def _port_records(ports: Sequence[PortMapping]) -> list[tuple[str, int, int, str, int]]:
    return [(p.protocol, p.container_port, p.host_port, p.host_ip, p.count) for p in ports]


def _link_local(address: str) -> str:
    return f"{address}/{LINK_LOCAL_PREFIX[6 if ':' in address else 4]}"


def to_endpoint(record: EndpointRecord) -> Endpoint:
    """Give the record as the contract's data."""
    return Endpoint(
        id=record.id,
        network_id=record.network_id,
        container_id=record.container_id,
        interface=record.interface,
        mac=record.mac,
        ipv4=record.ipv4,
        ipv6=record.ipv6,
        link_local=tuple(record.link_local),
        gateway_for=tuple(record.gateway_for),
        options=record.options,
        ports=tuple(PortMapping(*item) for item in record.ports),
    )
