"""Which of a container's networks leads out, for each IP version. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sampan.engine.records import EndpointRecord, NetworkRecord


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that a container is in, with the priority that was asked for it (`gw-priority`)."""

    network: NetworkRecord
    priority: int
    versions: tuple[int, ...]
    """IP versions that the network has a gateway for, and the container an address."""


def candidate(network: NetworkRecord, priority: int, endpoint: EndpointRecord | None = None) -> Candidate:
    """Give the candidate for a network, by the addresses of an endpoint that is there, else by those it will have."""
    versions = {6 if ":" in prefix else 4 for prefix, gateway in network.subnets if gateway}
    if network.internal:
        versions = set()
    if endpoint is not None:
        versions &= {version for version, address in ((4, endpoint.ipv4), (6, endpoint.ipv6)) if address}
    return Candidate(network, priority, tuple(sorted(versions)))


def choose(candidates: Sequence[Candidate]) -> Mapping[str, tuple[int, ...]]:
    """Give network id → IP versions whose default route goes there.

    Docker's order (libnetwork, Endpoint.Less): the highest priority, then networks that are not internal, then those that
    lead out for more versions, then by name; the first that can leads out, for each version on its own.
    """
    ordered = sorted(candidates, key=lambda c: (-c.priority, c.network.internal, -len(c.versions), c.network.name))
    leads: dict[str, list[int]] = {c.network.id: [] for c in candidates}
    for version in (4, 6):
        first = next((c for c in ordered if version in c.versions), None)
        if first is not None:
            leads[first.network.id].append(version)
    return {network_id: tuple(versions) for network_id, versions in leads.items()}


def publisher(candidates: Sequence[Candidate]) -> str:
    """Give the id of the network by which a container's ports are published: where it leads out, IPv4 first; else ""."""
    leads = choose(candidates)
    for version in (4, 6):
        for network_id, versions in leads.items():
            if version in versions:
                return network_id
    return ""
