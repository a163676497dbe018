"""Endpoints: the places of containers in networks. Addresses are chosen here, drivers make them, the store keeps them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from sampan.api.errors import InvalidArgument, SampanError, Unsupported
from sampan.api.ipam import AddressRequest
from sampan.api.network import Endpoint, PortMapping, Subnet
from sampan.api.types import EndpointSettings
from sampan.engine.discovery import Discovery
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.names import new_id
from sampan.engine.networks import Networks, to_network
from sampan.engine.proxy import Proxy
from sampan.engine.records import EndpointRecord, NetworkRecord

log = logging.getLogger(__name__)


class Endpoints:
    """The endpoints of all running containers, each container's in the order of joining."""

    def __init__(
        self, networks: Networks, discovery: Discovery, proxy: Proxy, metadata: Metadata, events: EventBus
    ) -> None:
        self._networks = networks
        self._discovery = discovery
        self._proxy = proxy
        self._metadata = metadata
        self._events = events
        self._by_container: dict[str, list[EndpointRecord]] = {}
        self._allocating = asyncio.Lock()
        self._joining: set[str] = set()  # addresses given to endpoints that are not up yet

    def load(self) -> None:
        """Read what the store knows."""
        for endpoint in self._metadata.database.query(self._metadata.endpoints.list):
            self._by_container.setdefault(endpoint.container_id, []).append(endpoint)

    def of(self, container_id: str) -> list[EndpointRecord]:
        """Give a running container's endpoints, in the order of joining."""
        return list(self._by_container.get(container_id, ()))

    def inside(self, network: NetworkRecord) -> list[EndpointRecord]:
        """Give the endpoints in a network."""
        return [e for endpoints in self._by_container.values() for e in endpoints if e.network_id == network.id]

    async def attach(
        self,
        network: NetworkRecord,
        container_id: str,
        netns: int,
        asked: EndpointSettings,
        ports: Sequence[PortMapping],
        *,
        mac: str,
        endpoint_id: str = "",
    ) -> EndpointRecord:
        """Give a container's sandbox a place in a network: address, link, ports. All or nothing."""
        plank = await self._networks.get(network.driver)
        if asked.links or asked.aliases:
            raise Unsupported(
                f"join network {network.name}: links and aliases need name resolution, which this version does not have",
                remedy="use addresses or --add-host",
            )
        endpoint = await self._allocate(network, container_id, asked, ports, mac, endpoint_id)
        try:
            attachment = await plank.call(plank.driver.attach, to_network(network), to_endpoint(endpoint), netns)
            made = [(p.protocol, p.container_port, p.host_port, p.host_ip, p.count) for p in attachment.ports]
            known = {"host_interface": attachment.host_interface, "mac": attachment.mac or endpoint.mac, "ports": made}
            endpoint = endpoint.model_copy(update=known)
            # recorded after it exists: one that a crash leaves unrecorded is found by its engine's mark, by `gc`
            await self._metadata.database.note(lambda tx: self._metadata.endpoints.insert(tx, endpoint))
            self._by_container.setdefault(container_id, []).append(endpoint)
            if endpoint.ports:
                await self._proxy.publish(endpoint)
        finally:
            self._joining.discard(endpoint.ipv4 or "")
        self._events.emit("network", "connect", network.id, self._attributes(network, container_id))
        return endpoint

    async def _allocate(
        self, network: NetworkRecord, container_id: str, asked: EndpointSettings, ports: Sequence[PortMapping], mac: str,
        endpoint_id: str,
    ) -> EndpointRecord:
        preferred = asked.ipam_config.ipv4_address if asked.ipam_config else ""
        if preferred and network.is_default:
            raise InvalidArgument(
                "invalid config for network bridge: user specified IP address is supported on user defined networks only"
            )
        async with self._allocating:
            ipv4 = await self._choose_address(network, preferred) if network.subnets else None
            self._joining.add(ipv4 or "")
        return EndpointRecord(
            id=endpoint_id or new_id(),
            network_id=network.id,
            container_id=container_id,
            mac=mac,
            ipv4=ipv4,
            ports=[(p.protocol, p.container_port, p.host_port, p.host_ip, p.count) for p in ports],
        )

    async def _choose_address(self, network: NetworkRecord, preferred: str) -> str:
        prefix, gateway = network.subnets[0]
        held = [endpoint.ipv4 for endpoint in self.inside(network) if endpoint.ipv4]
        taken = {address.partition("/")[0] for address in (*held, *self._joining, gateway or "") if address}
        request = AddressRequest(Subnet(prefix, gateway), preferred=preferred or None, in_use=taken)
        return await self._networks.choose_address(network, request)

    async def detach(self, container_id: str) -> None:
        """Take a container out of all its networks. Best-effort: what fails stays recorded, for the next sweep."""
        for endpoint in self.of(container_id):
            await self._detach(endpoint)

    async def _detach(self, endpoint: EndpointRecord) -> None:
        container_id = endpoint.container_id
        network = self._networks.find(endpoint.network_id)
        if network is not None:
            try:
                plank = await self._networks.get(network.driver)
                await plank.call(plank.driver.detach, to_network(network), to_endpoint(endpoint))
            except SampanError as error:
                log.warning("detach endpoint %s of container %s: %s", endpoint.id[:12], container_id[:12], error)
                return
            self._events.emit("network", "disconnect", network.id, self._attributes(network, container_id))
        if endpoint.ports:
            await self._proxy.withdraw(endpoint.id)
        await self._metadata.database.note(partial(self._metadata.endpoints.delete, key=endpoint.id))
        others = [item for item in self.of(container_id) if item.id != endpoint.id]
        if others:
            self._by_container[container_id] = others
        else:
            self._by_container.pop(container_id, None)

    @staticmethod
    def _attributes(network: NetworkRecord, container_id: str) -> dict[str, str]:
        return {"container": container_id, "name": network.name, "type": network.driver}

    async def sweep(self, living: set[str]) -> None:
        """Remove from host and store whatever belongs to containers that no longer run, and mend what the others lack."""
        for container_id in set(self._by_container) - living:
            await self.detach(container_id)
        networks = {record.id: record for record in self._networks.all()}
        endpoints = [endpoint for endpoints in self._by_container.values() for endpoint in endpoints]
        for plank in self._networks.opened():
            own = {record.id: to_network(record) for record in networks.values() if record.driver == plank.name}
            valid = [to_endpoint(record) for record in endpoints if record.network_id in own]
            for removed in await plank.call(plank.driver.gc, list(own.values()), valid):
                log.info("network %s: swept %s", plank.name, removed)
            for endpoint in valid:
                for mended in await plank.call(plank.driver.repair, own[endpoint.network_id], endpoint):
                    log.warning("network %s: mended %s", plank.name, mended)


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
