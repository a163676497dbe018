"""A container's places in its networks: all of them at its start and end, one by one while it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sampan.api.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError, System
from sampan.api.network import NetworkCapability, PortMapping, SandboxKind
from sampan.api.types import EndpointSettings
from sampan.engine import container_networks, files, gateways, interfaces, resolver
from sampan.engine.container import Container
from sampan.engine.container_networks import CONTAINER_MODE
from sampan.engine.containers import Containers
from sampan.engine.endpoints import Endpoints, Place
from sampan.engine.links import Links
from sampan.engine.naming import Naming, has_names
from sampan.engine.networks import Networks
from sampan.engine.ports import PublishPolicy, mappings
from sampan.engine.records import ContainerRecord, EndpointRecord, NetworkRecord, Status
from sampan.engine.sandboxes import Sandbox

log = logging.getLogger(__name__)


class Connections:
    """What containers' records say of networks, carried out. `connect` and `disconnect` take the container's lock.

    After a crash the record leads: endpoints of containers that don't run are swept, and a container that ran on keeps
    those that it has. A network that it was just being connected to, it joins at its next start.
    """

    def __init__(
        self, networks: Networks, endpoints: Endpoints, naming: Naming, links: Links, containers: Containers,
        policy: PublishPolicy,
    ) -> None:  # fmt: skip
        self._networks = networks
        self._endpoints = endpoints
        self._naming = naming
        self._links = links
        self._containers = containers
        self._policy = policy

    # ------------------------------------------------------------------ start and end

    async def networks_of(self, record: ContainerRecord) -> list[NetworkRecord]:
        """Give the networks that a container joins, in order; none for one that shares another's. `Conflict` if one is gone."""
        if record.host.network_mode.startswith(CONTAINER_MODE):
            return []
        names = ["none"] if record.config.network_disabled else list(record.networks) or ["none"]
        with _missing_forbids():
            return [await self._networks.named(name) for name in names]

    def sandbox_owner(self, container: Container) -> Container:
        """Give the container whose network this one lives in: itself, or the one it shares that of. Raises `NotFound`."""
        while container.record.host.network_mode.startswith(CONTAINER_MODE):
            container = self._containers.get(container.record.host.network_mode.removeprefix(CONTAINER_MODE))
        return container

    async def sandbox_kind(self, networks: Sequence[NetworkRecord]) -> SandboxKind:
        """Say which namespace a container in these networks lives in."""
        return await self._networks.sandbox_kind(networks[0]) if networks else SandboxKind.OWN

    def preparable(self, record: ContainerRecord, networks: Sequence[NetworkRecord]) -> NetworkRecord | None:
        """Give the network whose link a sandbox may have before the container is known: the first, if it is as usual there."""
        if not networks or self._interface(networks[0], record.settings_in(networks[0]), ()) != "eth0":
            return None
        return networks[0]

    async def join(
        self, container: Container, networks: Sequence[NetworkRecord], sandbox: Sandbox | None
    ) -> list[EndpointRecord]:
        """Give a starting container its places in all its networks, and its names there. What fails is its caller's to undo.

        To be followed by `record`. `sandbox`: None in the host's network.
        """
        netns = sandbox.netns if sandbox else -1
        made: list[EndpointRecord] = []
        with _missing_forbids():
            self._links.check(container.record)
            for place in await self._places(container.record, networks, sandbox):
                with container.trace.span("start", "network.attach", place.network.driver):
                    made.append(await self._endpoints.attach(place, netns))
        with container.trace.span("start", "network.names"):
            await self._naming.announce(container.record, netns)
        return made

    async def record(self, container: Container, made: Sequence[EndpointRecord]) -> None:
        """Have what `join` gave a container in the store: before it runs, or nobody would know what belongs to it."""
        with container.trace.span("start", "network.record"):
            await self._endpoints.record(made)

    async def _places(
        self, record: ContainerRecord, networks: Sequence[NetworkRecord], sandbox: Sandbox | None
    ) -> list[Place]:
        candidates = [gateways.candidate(network, record.settings_in(network).gw_priority) for network in networks]
        leads, publisher = gateways.choose(candidates), gateways.publisher(candidates)
        ports = mappings(record.host, record.config.exposed_ports, self._policy.addresses())
        names: list[str] = []
        places: list[Place] = []
        for network in networks:
            names.append(self._interface(network, record.settings_in(network), names))
            place = Place(
                network,
                record.id,
                record.settings_in(network),
                interface=names[-1],
                mac=record.settings_in(network).mac_address,
                gateway_for=leads[network.id],
                ports=tuple(ports) if network.id == publisher and await self._publishes(network) else (),
                endpoint_id=sandbox.endpoint_id if sandbox and not places else "",
            )
            places.append(place)
        return places

    @staticmethod
    def _interface(network: NetworkRecord, asked: EndpointSettings, taken: Sequence[str]) -> str:
        if network.name in ("host", "none"):
            return ""
        return interfaces.choose(network.options, asked.driver_opts, taken)

    async def _publishes(self, network: NetworkRecord) -> bool:
        return NetworkCapability.PUBLISH in (await self._networks.driver_of(network)).capabilities

    async def leave(self, container_id: str) -> None:
        """Take a container out of all its networks, and its names away. Best-effort: what stays is swept later."""
        await self._naming.forget(container_id)
        for endpoint in self._endpoints.of(container_id):
            await self._naming.withdraw(endpoint)
            await self._endpoints.release(endpoint)

    async def damage(self, container: Container) -> list[tuple[EndpointRecord, str]]:
        """Name what is damaged about a running container's endpoints. Raises `NotFound` if it is ending, and as `check`."""
        with _sandbox_of(container) as netns:
            return [
                (endpoint, line)
                for endpoint in self._endpoints.of(container.id)
                for line in await self._endpoints.check(endpoint, netns)
            ]

    async def restore(self, cut: Collection[str]) -> None:
        """Tell the name server of all running containers after the daemon was away, and have them lead out as they should.

        `cut`: ids of containers that were joining or leaving a network when an earlier daemon died.
        """
        for container in self._containers.all():
            if not (container.is_running and self._endpoints.of(container.id)):
                continue
            try:
                with _sandbox_of(container) as netns:
                    await self._lead(container.record, netns)
                    if container.id in cut:
                        for _, endpoint in self._endpoints.places(container.id):
                            await self._endpoints.lead_again(endpoint, netns)
                    await self._naming.announce(container.record, netns)
            except SampanError as error:
                log.warning("restore the networks of container %s: %s", container.id[:12], error)

    # ------------------------------------------------------------------ one network

    async def connect(self, container: Container, network: NetworkRecord, asked: EndpointSettings) -> None:
        """Have a container be in one more network, at once if it runs. On an error it is not.

        Raises `InvalidArgument`, `Conflict` if it is being removed, `Forbidden` if it is there, or as the drivers.
        """
        async with container.lock:
            record = container.record
            _check_stays(container)
            self._networks.check_stays(network)
            if network.name in record.networks:
                if self._endpoint_in(container, network):
                    raise Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
                if not container.is_running:
                    return
            container_networks.add(record, network, asked)
            try:
                await self._containers.write(container)
                if container.is_running:
                    await self._join_live(container, network, asked)
            except BaseException:
                record.networks.pop(network.name, None)
                await self._containers.write(container)
                raise

    async def _join_live(self, container: Container, network: NetworkRecord, asked: EndpointSettings) -> None:
        before = self._endpoints.of(container.id)
        joined = gateways.candidate(network, asked.gw_priority)
        leads = gateways.choose([*self._candidates(container.record), joined])
        place = Place(
            network,
            container.id,
            asked,
            interface=self._interface(network, asked, [item.interface for item in before]),
            mac=asked.mac_address,
            gateway_for=leads[network.id],
        )
        with _sandbox_of(container) as netns:
            endpoint = await self._endpoints.attach_live(place, netns)
            try:
                await self._lead(container.record, netns)
                await self._naming.announce(container.record, netns)
                files.add_host_lines(container.directories.files, container.record, endpoint)
                resolv_conf = self._naming.resolv_conf(container.record, SandboxKind.OWN)
                resolver.write(files.bound_files(container.directories.files)["/etc/resolv.conf"], resolv_conf.text)
            except BaseException:
                if current := self._endpoint_in(container, network):
                    await self._take_out(current)
                    await self._settle_without(container, current, netns)
                raise

    async def disconnect(self, container: Container, network: NetworkRecord | None, name: str) -> None:
        """Have a container be in a network no more, at once if it runs; `network` is None if only its `name` is left.

        Raises `Conflict` if it is not there or is being removed, `InvalidArgument` for the host's network, `NotFound`.
        """
        async with container.lock:
            record = container.record
            _check_stays(container)
            name = network.name if network else name
            if name not in record.networks:
                raise Conflict(f"container {container.id} is not connected to network {name}")
            if name == "host":
                raise InvalidArgument(
                    "cannot disconnect container from host network - container was created in host network mode"
                )
            endpoint = self._endpoint_in(container, network) if container.is_running else None
            if endpoint is None:
                record.networks.pop(name)
                await self._containers.write(container)
                return
            with _sandbox_of(container) as netns:
                await self._take_out(endpoint)
                record.networks.pop(name)
                await self._containers.write(container)
                await self._settle_without(container, endpoint, netns)

    def _endpoint_in(self, container: Container, network: NetworkRecord | None) -> EndpointRecord | None:
        endpoints = self._endpoints.of(container.id)
        return next((endpoint for endpoint in endpoints if network and endpoint.network_id == network.id), None)

    async def _take_out(self, endpoint: EndpointRecord) -> None:
        await self._naming.withdraw(endpoint)
        await self._endpoints.detach_live(endpoint)
        if any(item.id == endpoint.id for item in self._endpoints.of(endpoint.container_id)):
            raise System(f"take endpoint {endpoint.id[:12]} out of its network: it stays", remedy="the log says why")

    async def _settle_without(self, container: Container, gone: EndpointRecord, netns: int) -> None:
        await self._lead(container.record, netns, _ports(gone))
        network = self._networks.find(gone.network_id)
        if network is not None and has_names(network):
            await self._naming.serve(container.record, netns)
        files.remove_host_lines(container.directories.files, container.record, gone)

    def _candidates(self, record: ContainerRecord) -> list[gateways.Candidate]:
        return [
            gateways.candidate(network, record.settings_in(network).gw_priority, endpoint)
            for network, endpoint in self._endpoints.places(record.id)
        ]

    async def _lead(self, record: ContainerRecord, netns: int, freed: Sequence[PortMapping] = ()) -> None:
        """Have default routes and published ports go by the networks that lead out now.

        `freed` are ports of an endpoint that is gone: they are published again where the container leads out.
        """
        candidates = self._candidates(record)
        leads, publisher = gateways.choose(candidates), gateways.publisher(candidates)
        for _, endpoint in self._endpoints.places(record.id):
            await self._endpoints.lead(endpoint, leads[endpoint.network_id], netns)
        for network, endpoint in self._endpoints.places(record.id):
            if endpoint.ports and network.id != publisher:
                freed = _ports(endpoint)
                await self._endpoints.unpublish(endpoint)
        for network, endpoint in self._endpoints.places(record.id):
            wanted = freed or mappings(record.host, record.config.exposed_ports, self._policy.addresses())
            if network.id == publisher and wanted and not endpoint.ports and await self._publishes(network):
                await self._endpoints.publish(endpoint, wanted)

    async def renamed(self, container: Container) -> None:
        """Have a running container found by its new name; one that is ending needs none."""
        if container.is_running and self._endpoints.of(container.id):
            with suppress(NotFound), _sandbox_of(container) as netns:
                await self._naming.announce(container.record, netns)

    def users(self, network: NetworkRecord) -> list[str]:
        """Name the endpoints in a network by their containers, as Docker does."""
        found = [(self._containers.find(item.container_id), item) for item in self._endpoints.inside(network)]
        return [f'name:"{c.record.name if c else item.container_id[:12]}" id:"{item.id[:12]}"' for c, item in found]


def _ports(endpoint: EndpointRecord) -> list[PortMapping]:
    return [PortMapping(*item) for item in endpoint.ports]


def _check_stays(container: Container) -> None:
    if container.status in (Status.REMOVING, Status.DEAD):
        raise Conflict(
            f"Container {container.id} is marked for removal and cannot be connected or disconnected to the network"
        )


@contextmanager
def _missing_forbids() -> Iterator[None]:
    """Turn the `NotFound` of a network or a linked container into `Conflict`: of a start, it would say that the program is missing."""
    try:
        yield
    except NotFound as error:
        raise Conflict(error.message, remedy=error.remedy) from error


@contextmanager
def _sandbox_of(container: Container) -> Iterator[int]:
    """Give a descriptor of a running container's network namespace.

    The pid is the container's own if its cgroup is: the number of a process that ended may be another's by now.
    """
    proc = Path(f"/proc/{container.record.state.pid}")
    try:
        netns = os.open(proc / "ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"find the network of container {container.record.name}: it is ending") from error
    try:
        if container.id not in _read(proc / "cgroup"):
            raise NotFound(f"find the network of container {container.record.name}: it is ending")
        yield netns
    finally:
        os.close(netns)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
