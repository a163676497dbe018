"""Legacy links (`--link` on the default bridge): another container's name in /etc/hosts, and what it is in the environment.

In networks that users make, a link is another name that the name server answers with: `discovery`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sampan.api.errors import Conflict, InvalidArgument, NotFound
from sampan.engine import files
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.endpoints import Endpoints
from sampan.engine.ports import parse_port
from sampan.engine.records import ContainerRecord, EndpointRecord


@dataclass(frozen=True, slots=True)
class Link:
    """A running container that another one knows by `alias`, and its endpoint in the default bridge."""

    alias: str
    target: ContainerRecord
    endpoint: EndpointRecord


class Links:
    """The links of containers on the default bridge, as their records have them."""

    def __init__(self, containers: Containers, endpoints: Endpoints) -> None:
        self._containers = containers
        self._endpoints = endpoints

    def of(self, record: ContainerRecord) -> list[Link]:
        """Give a container's links to those that run."""
        linked = [(self._containers.find(target_id), alias) for target_id, alias in record.links]
        return [
            Link(alias, target.record, endpoint)
            for target, alias in linked
            if target is not None and "bridge" in record.networks
            for endpoint in self._on_bridge(target.id)
        ]

    def _on_bridge(self, container_id: str) -> list[EndpointRecord]:
        return [endpoint for network, endpoint in self._endpoints.places(container_id) if network.name == "bridge"]

    def check(self, record: ContainerRecord) -> None:
        """Refuse to start a container whose links lead nowhere: `Conflict`. Those to a container that was removed went with it."""
        there = {link.alias for link in self.of(record)}
        for target_id, alias in record.links:
            target = self._containers.find(target_id)
            if target is None or alias in there or "bridge" not in record.networks:
                continue
            if target.is_running:
                raise Conflict(f"Cannot link to /{target.record.name}, as it does not belong to the default network")
            raise Conflict(f"Cannot link to a non running container: /{target.record.name} AS /{record.name}/{alias}")

    async def remove(self, text: str) -> None:
        """Remove a link, `PARENT/ALIAS`; both containers stay. Raises `NotFound`, `InvalidArgument` for a container's name."""
        name, _, alias = text.removeprefix("/").rpartition("/")
        if not name:
            raise InvalidArgument("Conflict, cannot remove the default link name of the container")
        parent = self._containers.get(name)
        async with parent.lock:
            kept = [(target_id, other) for target_id, other in parent.record.links if other != alias]
            if len(kept) == len(parent.record.links):
                raise NotFound(f"No such link: {text}")
            for link in self.of(parent.record):
                if parent.is_running and link.alias == alias:
                    files.replace_host(parent.directories.files, names(alias, link.target), [])
            parent.record.links = kept
            await self._containers.write(parent)

    def follow(self, target: Container) -> None:
        """Have the running containers that are linked to one that has just started find it at its new address."""
        for other in self._containers.all():
            for target_id, alias in other.record.links:
                if target_id == target.id and other.is_running:
                    lines = host_lines([Link(alias, target.record, endpoint) for endpoint in self._on_bridge(target.id)])
                    files.replace_host(other.directories.files, names(alias, target.record), lines)


def host_lines(links: Sequence[Link]) -> list[str]:
    """Give the lines for /etc/hosts: alias, host name and name of each target."""
    return [
        f"{address.partition('/')[0]}\t{' '.join(names(link.alias, link.target))}"
        for link in links
        for address in (link.endpoint.ipv4, link.endpoint.ipv6)
        if address
    ]


def names(alias: str, target: ContainerRecord) -> list[str]:
    """Give the names of a target on such a line."""
    return [alias, target.config.hostname, *([target.name] if target.name != alias else [])]


def environment(name: str, links: Sequence[Link]) -> list[str]:
    """Give the variables that the container `name` gets by its links, as dockerd up to version 28 sets them."""
    return [variable for link in links if link.endpoint.ipv4 for variable in _variables(name, link, link.endpoint.ipv4)]


def _variables(name: str, link: Link, ipv4: str) -> Iterator[str]:
    prefix = link.alias.upper().replace("-", "_")
    address = ipv4.partition("/")[0]
    ports = sorted((parse_port(port) for port in link.target.config.exposed_ports), key=lambda p: (p[1] != "tcp", p[1], p[0]))
    if ports:
        number, protocol = ports[0]
        yield f"{prefix}_PORT={protocol}://{address}:{number}"
    for number, protocol in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield f"{one}={protocol}://{address}:{number}"
        yield f"{one}_ADDR={address}"
        yield f"{one}_PORT={number}"
        yield f"{one}_PROTO={protocol}"
    for (first, protocol), (last, _) in _ranges(ports):
        one = f"{prefix}_PORT_{first}_{protocol.upper()}"
        yield f"{one}_START={protocol}://{address}:{first}"
        yield f"{one}_PORT_START={first}"
        yield f"{one}_END={protocol}://{address}:{last}"
        yield f"{one}_PORT_END={last}"
    yield f"{prefix}_NAME=/{name}/{link.alias}"
    for item in link.target.config.env:
        variable, separator, value = item.partition("=")
        if separator and variable not in ("HOME", "PATH"):
            yield f"{prefix}_ENV_{variable}={value}"


def _ranges(ports: Sequence[tuple[int, str]]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Give first and last of each run of at least two neighbouring ports."""
    runs: list[list[tuple[int, str]]] = []
    for number, protocol in ports:
        if runs and runs[-1][-1] == (number - 1, protocol):
            runs[-1].append((number, protocol))
        else:
            runs.append([(number, protocol)])
    return [(run[0], run[-1]) for run in runs if len(run) > 1]
