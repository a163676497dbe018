"""The engine's containers: made, found, listed, renamed, removed. Starting and stopping is in `lifecycle`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sampan import plugins
from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError
from sampan.api.logs import LogDriver
from sampan.api.types import ContainerConfig, ContainerCreateRequest, HostConfig
from sampan.engine import container_networks, isolation, restart_policy, shm
from sampan.engine.container import Container, Directories
from sampan.engine.defaults import Defaults
from sampan.engine.devices import check_devices
from sampan.engine.events import EventBus
from sampan.engine.host_limits import discard_missing, host_limits
from sampan.engine.images import Images
from sampan.engine.metadata import Metadata
from sampan.engine.modes import CONTAINER, check_modes, check_sysctls
from sampan.engine.mounts import mount_points
from sampan.engine.names import check_name, new_id, random_name
from sampan.engine.networks import Networks
from sampan.engine.ports import mappings, parse_port
from sampan.engine.reach import out_of_reach
from sampan.engine.records import ContainerRecord, ImageRecord, MountPoint, Status
from sampan.engine.remap import check_shifts
from sampan.engine.resources import check_limits
from sampan.engine.rootfs import copy_directory
from sampan.engine.runtimes import Runtimes
from sampan.engine.security_options import parse_security_options
from sampan.engine.spec import stop_signal
from sampan.engine.storage import Storage, StorageDrivers
from sampan.engine.storage_options import snapshot_options, split_storage_options
from sampan.engine.unpacking import UnpackedImages
from sampan.engine.volumes import Volumes
from sampan.settings import Settings
from sampan.store import snapshots
from sampan.store.snapshots import SnapshotOwner

log = logging.getLogger(__name__)

MAX_HOSTNAME = 64
"""The kernel's limit in bytes, sethostname(2), setdomainname(2)."""


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` made."""

    container: Container
    warnings: list[str]


class Containers:
    """All containers of the engine, by id and by name. The records in memory are the truth; the store follows them."""

    def __init__(
        self, settings: Settings, registry: plugins.Registry, metadata: Metadata, events: EventBus,
        images: Images, storage: StorageDrivers, unpacked: UnpackedImages, networks: Networks, volumes: Volumes, runtimes: Runtimes,
        defaults: Defaults,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._runtimes = runtimes
        self._defaults = defaults
        self._registry = registry
        self._metadata = metadata
        self._events = events
        self._images = images
        self._storage = storage
        self._unpacked = unpacked
        self._networks = networks
        self._volumes = volumes
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}

    def load(self) -> None:
        """Take all containers from the store."""
        for record in self._metadata.database.query(self._metadata.containers.list):
            self._enter(Container(record, self.directories(record.id)))

    def directories(self, container_id: str) -> Directories:
        """Give where a container's files lie."""
        return Directories(
            self._settings.root / "containers" / container_id, self._settings.state / "containers" / container_id
        )

    def _enter(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.record.name] = container.id

    # ------------------------------------------------------------------ looking

    def all(self) -> list[Container]:
        """Give all containers, newest first."""
        return sorted(self._by_id.values(), key=lambda container: -container.record.created)

    def has(self, container_id: str) -> bool:
        """Tell whether there is a container with exactly this id."""
        return container_id in self._by_id

    def being_made(self) -> set[str]:
        """Give the ids of containers that are not there yet, but have files and a snapshot perhaps."""
        return set(self._by_name.values()) - self._by_id.keys()

    def get(self, ref: str) -> Container:
        """Find a container by id, name or the beginning of an id. Errors in Docker's words."""
        found = self._by_id.get(ref) or self._by_id.get(self._by_name.get(ref.removeprefix("/"), ""))
        if found is not None:
            return found
        matching = [item for key, item in self._by_id.items() if key.startswith(ref)] if ref else []
        if len(matching) > 1:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
        if not matching:
            raise NotFound(f"No such container: {ref}")
        return matching[0]

    def find(self, ref: str) -> Container | None:
        """As `get`, but None for what is not there."""
        try:
            return self.get(ref)
        except NotFound:
            return None

    def of_image(self, image_id: str) -> list[tuple[str, bool]]:
        """Give (id, is running) of the containers made from an image."""
        return [(c.id, c.is_running) for c in self._by_id.values() if c.record.image_id == image_id]

    def of_volume(self, name: str) -> list[str]:
        """Give the ids of the containers that mount a volume."""
        return [
            c.id for c in self._by_id.values() if any(p.type == "volume" and p.name == name for p in c.record.mounts)
        ]

    # ------------------------------------------------------------------ making

    async def create(self, request: ContainerCreateRequest, name: str | None) -> Created:
        """Make a container from an image: record, snapshot, volumes. On an error nothing is left.

        Raises `NotFound` for the image alone: a client takes that as the word to pull it. What else is missing is
        `InvalidArgument`.
        """
        image = self._images.resolve(request.image)
        config, host = merge(request, image), request.host_config
        warnings = self._check(config, host)
        await self._runtimes.check(host.runtime or self._runtimes.default, host, remapped=self._defaults.idmaps is not None)
        container_id = new_id()
        name = self._claim_name((name or "").removeprefix("/"), container_id)
        try:
            container = self._container(container_id, name, image, config, request)
            with self._storage.changing(container.record.storage_driver, container_id):
                await self._make(container, image)
            with contextlib.suppress(SampanError):  # the container is made: its start tells what is wrong with its networks
                warnings += await container_networks.discarded_ports(container.record, self._networks)
        except NotFound as error:
            raise InvalidArgument(error.message, remedy=error.remedy) from error
        finally:
            if container_id not in self._by_id:
                self._by_name.pop(name, None)
        self._emit(container, "create")
        return Created(container, warnings)

    def _container(
        self, container_id: str, name: str, image: ImageRecord, config: ContainerConfig, request: ContainerCreateRequest
    ) -> Container:
        host = request.host_config
        host.storage_opt = split_storage_options(host.storage_opt)
        host.pid_mode, host.ipc_mode = self._by_identity(host.pid_mode), self._by_identity(host.ipc_mode)
        if not config.hostname:
            config.hostname = os.uname().nodename if host.network_mode == "host" else container_id[:12]
        record = ContainerRecord(
            id=container_id,
            name=name,
            created=time.time_ns(),
            image_id=image.id,
            config=config,
            host=host,
            networks=dict(request.networking_config.endpoints_config),
            mounts=mount_points(host, list(config.volumes), lambda ref: self.get(ref).record),
            storage_driver=host.storage_opt.get("driver") or self._storage.default,
            runtime=host.runtime or self._runtimes.default,
            log_driver=host.log_config.type or self._settings.log_driver,
        )
        return Container(record, self.directories(container_id))

    def _by_identity(self, mode: str) -> str:
        """Give a mode that names another container, if there is one, by its id: names may pass to others."""
        named = self.find(mode.removeprefix(CONTAINER)) if mode.startswith(CONTAINER) else None
        return f"{CONTAINER}{named.id}" if named else mode

    async def _make(self, container: Container, image: ImageRecord) -> None:
        """Make what a container consists of, and enter it. All or nothing."""
        record = container.record
        options = snapshot_options(record.host.storage_opt)
        await container_networks.settle(record, self._networks, lambda ref: self.get(ref).record)
        record.links = self._links(record.host)
        with container.trace.span("create", "image.unpack", record.storage_driver):
            parent = await self._unpacked.ensure(image, record.storage_driver)
        storage = await self._storage.get(record.storage_driver)
        if self._defaults.idmaps_of(record.host):
            check_shifts(storage)
        with container.trace.span("create", "storage.prepare", storage.name):
            await storage.call(storage.driver.prepare, container.id, parent, options)
        try:
            record.mounts = await self._make_volumes(record.mounts)
            await self._fill_volumes(record, storage)
            for directory in (container.directories.root, container.directories.bundle, container.directories.logs):
                directory.mkdir(mode=0o710, parents=True)
            with container.trace.span("create", "store.insert"):
                await self._insert(record, storage.name)
        except BaseException:
            shutil.rmtree(container.directories.root, ignore_errors=True)
            await self._remove_anonymous(record)
            await self._storage.remove(storage.name, container.id)
            raise
        self._enter(container)

    async def _fill_volumes(self, record: ContainerRecord, storage: Storage) -> None:
        """Give volumes that are empty what the image has at their places, as Docker does."""
        empty = [point for point in record.mounts if point.type == "volume" and point.copy_up and point.source]
        if not empty:
            return
        rootfs = await storage.call(storage.driver.look, record.id)
        for point in empty:
            await asyncio.to_thread(copy_directory, rootfs, point.destination, Path(point.source))

    async def _insert(self, record: ContainerRecord, driver: str) -> None:
        owner = SnapshotOwner(driver, record.id, "container", record.id)

        def change(tx: object) -> None:
            self._metadata.containers.insert(tx, record)  # type: ignore[arg-type]
            snapshots.add(tx, owner)  # type: ignore[arg-type]

        await self._metadata.database.write(change)

    async def _make_volumes(self, points: list[MountPoint]) -> list[MountPoint]:
        made = []
        for point in points:
            if point.type == "volume":
                volume = await self._volumes.create(point.name, point.driver if not point.name else "")
                where = await self._volumes.mountpoint(volume)
                point = point.model_copy(
                    update={"name": volume.name, "driver": volume.driver, "source": str(where or "")}
                )
            made.append(point)
        return made

    async def _remove_anonymous(self, record: ContainerRecord) -> None:
        for point in record.mounts:
            if point.type != "volume" or not point.name:
                continue
            with contextlib.suppress(Conflict, NotFound):  # still used by another, or gone already
                if self._volumes.get(point.name).anonymous:
                    await self._volumes.remove(point.name)

    def _claim_name(self, name: str, container_id: str) -> str:
        """Take the wanted name, or a random one, before anything is waited for. Raises `InvalidArgument`, `Conflict`."""
        if name:
            check_name("container", name)
            self._check_name_free(name)
        else:
            name = self._free_name()
        self._by_name[name] = container_id
        return name

    def _check_name_free(self, name: str) -> None:
        if holder := self._by_name.get(name):
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}".'
                " You have to remove (or rename) that container to be able to reuse that name."
            )

    def _free_name(self) -> str:
        for attempt in range(64):
            name = random_name() + (str(attempt) if attempt > 8 else "")
            if name not in self._by_name:
                return name
        return f"container_{new_id()[:12]}"

    def _check(self, config: ContainerConfig, host: HostConfig) -> list[str]:
        """Refuse what contradicts itself or can't be done; everything that a later start would stumble on."""
        warnings = discard_missing(host, host_limits())
        if host.memory_swappiness == -1:  # how clients say that they name none
            host.memory_swappiness = None
        self._defaults.fill(host)
        warnings += check_limits(host)
        warnings += out_of_reach(self._defaults.ulimits_of(host), host.oom_score_adj)
        if not (config.entrypoint or config.cmd):
            raise InvalidArgument("no command specified")
        if config.working_dir and not config.working_dir.startswith("/"):
            raise InvalidArgument(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        for text in (config.hostname, config.domainname, *host.extra_hosts, *host.dns_search, *host.dns_options):
            if not text.isprintable():
                raise InvalidArgument(f"invalid name {text!r}: it would not stay on its line of /etc/hosts or /etc/resolv.conf")
        for what, name in (("hostname", config.hostname), ("domain name", config.domainname)):
            if len(name.encode()) > MAX_HOSTNAME:
                raise InvalidArgument(f"invalid {what}: it is longer than {MAX_HOSTNAME} bytes")
        for item in config.env:
            if not item or item.startswith("="):
                raise InvalidArgument(f"invalid environment variable: {item}")
        stop_signal(config.stop_signal)
        parse_security_options(host.security_opt)
        warnings.extend(isolation.container_capabilities(host)[1])
        check_devices(host)
        for port in config.exposed_ports:
            parse_port(port)
        mappings(host, config.exposed_ports)
        log_driver = self._registry.driver("log", host.log_config.type or self._settings.log_driver, LogDriver)
        log_driver.validate(host.log_config.config)
        restart_policy.check(host.restart_policy)
        if host.auto_remove and restart_policy.restarts(host.restart_policy):
            raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
        check_modes(host, remapped=self._defaults.idmaps is not None)
        if host.uts_mode == "host" and config.hostname:
            raise InvalidArgument("conflicting options: hostname and the UTS mode")
        check_sysctls(host)
        self._defaults.init_of(host)
        warnings.extend(container_networks.check_modes(config, host))
        if config.healthcheck and config.healthcheck.test and config.healthcheck.test != ["NONE"]:
            warnings.append("Health checks are not run yet: the container's health stays unknown")
        return warnings

    def _links(self, host: HostConfig) -> list[tuple[str, str]]:
        """Find what a container is linked to on the default bridge; elsewhere its endpoints' settings say it."""
        found = []
        for text in host.links if container_networks.plain_mode(host.network_mode) == "bridge" else ():
            name, alias = container_networks.parse_link(text)
            target = self.get(name)
            if target.record.host.network_mode == "host":
                raise InvalidArgument(
                    "conflicting options: host type networking can't be used with links."
                    " This would result in undefined behavior"
                )
            found.append((target.id, alias))
        return found

    # ------------------------------------------------------------------ changing

    async def rename(self, container: Container, name: str) -> None:
        """Give a container another name. The caller holds its lock."""
        name = name.removeprefix("/")
        check_name("container", name)
        old = container.record.name
        if name == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        self._check_name_free(name)
        self._by_name[name] = container.id
        container.record.name = name
        try:
            await self.write(container)
        except BaseException:
            container.record.name = old
            del self._by_name[name]
            raise
        del self._by_name[old]
        self._emit(container, "rename", oldName=f"/{old}")

    async def save(self, container: Container) -> None:
        """Write the record to the store (not flushed: it can be read back from the shim)."""
        await self._metadata.database.note(lambda tx: self._metadata.containers.update(tx, container.record))

    async def write(self, container: Container) -> None:
        """Write the record to the store, durably: a client is told of what it says."""
        await self._metadata.database.write(lambda tx: self._metadata.containers.update(tx, container.record))

    async def remove(self, container: Container, *, volumes: bool) -> None:
        """Remove a stopped container. The caller holds its lock. The store forgets it last, so a crash removes it again."""
        record = container.record
        record.state.status = Status.REMOVING
        await self.save(container)
        owner = SnapshotOwner(record.storage_driver, container.id, "container", container.id)

        def forget(tx: object) -> None:
            snapshots.remove(tx, owner)  # type: ignore[arg-type]
            self._metadata.containers.delete(tx, container.id)  # type: ignore[arg-type]

        with self._storage.changing(record.storage_driver, container.id):
            await asyncio.gather(self._remove_snapshot(container), asyncio.to_thread(self._remove_files, container))
            await self._metadata.database.write(forget)
        self._by_id.pop(container.id, None)
        if self._by_name.get(record.name) == container.id:
            del self._by_name[record.name]
        if volumes:
            await self._remove_anonymous(record)
        self._emit(container, "destroy")
        container.tell_removed()

    async def _remove_snapshot(self, container: Container) -> None:
        driver = container.record.storage_driver
        with container.trace.span("remove", "storage.remove", driver):
            try:
                await self._storage.remove(driver, container.id)
            except SampanError as error:
                log.warning("remove container %s: its snapshot stays: %s", container.id[:12], error)

    @staticmethod
    def _remove_files(container: Container) -> None:
        shm.unmount(container.directories.shm)
        for directory in (container.directories.state, container.directories.root):
            shutil.rmtree(directory, ignore_errors=True)

    def _emit(self, container: Container, action: str, **more: str) -> None:
        self._events.emit("container", action, container.id, attributes(container.record) | more)


def attributes(record: ContainerRecord) -> dict[str, str]:
    """Give what an event tells of a container."""
    return {**record.config.labels, "image": record.config.image, "name": record.name}


def merge(request: ContainerCreateRequest, image: ImageRecord) -> ContainerConfig:
    """Put the request over the image's defaults, by Docker's rules."""
    own = image.config
    config = ContainerConfig.model_validate(request.model_dump(include=set(ContainerConfig.model_fields)))
    config.user = config.user or own.user
    config.working_dir = config.working_dir or own.working_dir
    config.exposed_ports = {**own.exposed_ports, **config.exposed_ports}
    config.exposed_ports.update({port: {} for port in request.host_config.port_bindings})
    config.exposed_ports = {"/".join(map(str, parse_port(port))): {} for port in config.exposed_ports}
    config.volumes = {**own.volumes, **config.volumes}
    config.labels = {**own.labels, **config.labels}
    names = {item.partition("=")[0] for item in config.env}
    config.env = [*config.env, *(item for item in own.env if item.partition("=")[0] not in names)]
    config.stop_signal = config.stop_signal or own.stop_signal
    config.healthcheck = config.healthcheck or own.healthcheck
    if not config.entrypoint and not config.cmd:
        config.cmd = own.cmd
    if config.entrypoint is None:
        config.entrypoint = own.entrypoint
    elif config.entrypoint == [""]:  # how `--entrypoint ""` arrives
        config.entrypoint = []
    return config
