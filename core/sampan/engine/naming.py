"""Names of running containers: told to the name server, and whom each container asks for others."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sampan.api.network import SandboxKind
from sampan.engine import resolver
from sampan.engine.container_networks import parse_link
from sampan.engine.discovery import Discovery, Member, Sandbox
from sampan.engine.endpoints import Endpoints
from sampan.engine.records import ContainerRecord, EndpointRecord, NetworkRecord
from sampan.engine.resolver import ResolvConf

_FULL_ID = re.compile(r"[0-9a-f]{64}")


class Naming:
    """Puts records and endpoints into the words of `Discovery`."""

    def __init__(self, endpoints: Endpoints, discovery: Discovery) -> None:
        self._endpoints = endpoints
        self._discovery = discovery

    async def announce(self, record: ContainerRecord, netns: int) -> None:
        """Have a container found by its names in networks that have names, and answer it the others'."""
        named = [(network, endpoint) for network, endpoint in self._endpoints.places(record.id) if has_names(network)]
        for network, endpoint in named:
            await self._discovery.join(network.id, Member(record.id, dns_names(record, network), _addresses(endpoint)))
        if named:
            await self.serve(record, netns)

    async def serve(self, record: ContainerRecord, netns: int) -> None:
        """Answer a container the names of the networks that it is in now, which may be none any more."""
        networks = [network for network, _ in self._endpoints.places(record.id)]
        asked = self.resolv_conf(record, SandboxKind.OWN)
        sandbox = Sandbox(
            record.id,
            tuple(network.id for network in networks if has_names(network)),
            _links(record, networks),
            asked.upstreams,
            forwards=any(not network.internal for network in networks),
            network_names={network.id: network.name for network in networks if has_names(network)},
            dotted_only=asked.dotted_only,
        )
        await self._discovery.serve(sandbox, netns)

    async def withdraw(self, endpoint: EndpointRecord) -> None:
        """Have a container found no more in one network. Idempotent."""
        await self._discovery.leave(endpoint.network_id, endpoint.container_id)

    async def forget(self, container_id: str) -> None:
        """Answer a container nothing more. Idempotent."""
        await self._discovery.forget(container_id)

    def resolv_conf(self, record: ContainerRecord, kind: SandboxKind) -> ResolvConf:
        """Give what a container that has joined its networks asks names with."""
        places = self._endpoints.places(record.id)
        place = resolver.Place.NAMED if any(has_names(network) for network, _ in places) else resolver.Place.PLAIN
        if kind is SandboxKind.HOST:
            place = resolver.Place.HOST
        return resolver.resolv_conf(record, place, ipv6=any(endpoint.ipv6 for _, endpoint in places))


def has_names(network: NetworkRecord) -> bool:
    """Say whether containers find each other by name there: in all but the engine's own networks, as with Docker."""
    return not network.is_default


def dns_names(record: ContainerRecord, network: NetworkRecord) -> tuple[str, ...]:
    """Give the names of a container in a network: its own, aliases, short id, host name. Empty where there are none."""
    if not has_names(network):
        return ()
    given = (record.name, *record.settings_in(network).aliases, record.id[:12], record.config.hostname)
    return tuple(dict.fromkeys(name for name in given if name))


def _links(record: ContainerRecord, networks: Sequence[NetworkRecord]) -> dict[str, str]:
    """Give other names and the names they stand for: a container may be made later, or anew, as with Docker."""
    linked = [parse_link(text) for network in networks for text in record.settings_in(network).links]
    return {alias: target[:12] if _FULL_ID.fullmatch(target) else target for target, alias in linked}


def _addresses(endpoint: EndpointRecord) -> tuple[str, ...]:
    return tuple(address.partition("/")[0] for address in (endpoint.ipv4, endpoint.ipv6) if address)
