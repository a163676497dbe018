"""The engine: its parts put together, opened in order, closed in reverse."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sampan import plugins
from sampan.api.errors import Conflict
from sampan.api.hookspecs import Event
from sampan.content.blobs import BlobStore
from sampan.engine import shm
from sampan.engine.checkpoints import Checkpoints
from sampan.engine.commit import Commits
from sampan.engine.connections import Connections
from sampan.engine.containers import Containers
from sampan.engine.defaults import Defaults
from sampan.engine.discovery import Discovery
from sampan.engine.drivers import contained, private_directory
from sampan.engine.endpoints import Endpoints
from sampan.engine.events import EventBus
from sampan.engine.execs import Execs
from sampan.engine.export import Exports
from sampan.engine.images import Images
from sampan.engine.ledger import ByteLedger
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.links import Links
from sampan.engine.metadata import Metadata
from sampan.engine.migration import Migrations
from sampan.engine.naming import Naming
from sampan.engine.netd import Netd
from sampan.engine.networks import Networks
from sampan.engine.ports import PublishPolicy
from sampan.engine.proxy import Proxy
from sampan.engine.recovery import Recovery
from sampan.engine.runtimes import Runtimes
from sampan.engine.sandboxes import Sandboxes
from sampan.engine.start import Starter
from sampan.engine.stats import StatsReader
from sampan.engine.storage import StorageDrivers
from sampan.engine.unpacking import UnpackedImages
from sampan.engine.update import Updates
from sampan.engine.usage import DiskUse
from sampan.engine.volumes import Volumes
from sampan.linux import cgroups
from sampan.linux.cgroup_layout import OWN_HIERARCHY
from sampan.settings import Settings

log = logging.getLogger(__name__)

MOVES = OWN_HIERARCHY
"""Name in the state directory of the mount that has processes move quickly between cgroups: the hierarchy's own, since runc mounts
each hierarchy for a container by the name of the place where it has found it."""


class Engine:
    """One engine over one root and one state directory, which it holds locked."""

    def __init__(self, settings: Settings, registry: plugins.Registry, metadata: Metadata, locks: list[int]) -> None:
        """Put the parts together; use `open`."""
        self.settings = settings
        self.registry = registry
        self.metadata = metadata
        self.events = EventBus()
        self.blobs = BlobStore(settings.root / "content")
        self.storage = StorageDrivers(settings, registry, metadata)
        self.unpacked = UnpackedImages(self.storage, metadata, self.blobs)
        self.images = Images(metadata, self.blobs, self.unpacked, self.events)
        self.netd = Netd(settings.state)
        self.proxy = Proxy(self.netd, settings.state)
        self.networks = Networks(settings, registry, metadata, self.events, self.proxy)
        self.discovery = Discovery(self.netd)
        self.endpoints = Endpoints(self.networks, self.proxy, metadata, self.events)
        self.defaults = Defaults.load(settings)
        self.sandboxes = Sandboxes(self.networks, settings.sandbox_pool, self.defaults.idmaps)
        self.volumes = Volumes(settings, registry, metadata, self.events)
        self.runtimes = Runtimes(settings, registry)
        self.containers = Containers(
            settings, registry, metadata, self.events, self.images, self.storage, self.unpacked, self.networks, self.volumes,
            self.runtimes, self.defaults,
        )
        policy = PublishPolicy(settings.publish, self.proxy)
        self.naming = Naming(self.endpoints, self.discovery)
        self.links = Links(self.containers, self.endpoints)
        self.connections = Connections(
            self.networks, self.endpoints, self.naming, self.links, self.containers, policy
        )
        self.starter = Starter(
            settings, registry, metadata.engine_id, self.containers, self.storage, self.networks, self.connections,
            self.naming, self.links, self.sandboxes, self.volumes, self.runtimes, self.defaults,
        )
        self.lifecycle = Lifecycle(self.events, self.containers, self.starter, self.connections, self.links, self.volumes)
        self.stats = StatsReader(self.endpoints, self.connections)
        self.checkpoints = Checkpoints(self.runtimes, self.events)
        self.updates = Updates(self.containers, self.events)
        self.commits = Commits(
            self.containers, self.images, self.storage, self.lifecycle, self.blobs, self.events
        )
        self.exports = Exports(self.storage, self.events)
        self.execs = Execs(self.containers, self.starter, self.links, self.events)
        self.usage = DiskUse(self.images, self.storage, self.volumes)
        self.ledger = ByteLedger(settings.root, metadata, self.images, self.containers, self.storage, self.volumes)
        self.migrations = Migrations(metadata, self.images, self.storage, self.unpacked, self.events)
        self.images.users = self.containers.of_image
        self.volumes.users = self.containers.of_volume
        self.networks.users = self.connections.users
        self.networks.before_removal = self.sandboxes.forget
        self._locks = locks
        self._event_hooks = ThreadPoolExecutor(1, thread_name_prefix="event-hooks")
        """Plugins hear of events one by one, in a thread of their own: one that hangs holds up only the others."""

    @classmethod
    async def open(cls, settings: Settings, registry: plugins.Registry) -> Engine:
        """Open an engine and bring back what ran. Raises `Conflict` if another daemon holds root or state."""
        locks = [_lock(private_directory(settings.root)), _lock(private_directory(settings.state))]
        try:
            metadata = await Metadata.open(settings.root / "metadata.db")
        except BaseException:
            _unlock(locks)
            raise
        engine = cls(settings, registry, metadata, locks)
        try:
            await engine._bring_up()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _bring_up(self) -> None:
        private_directory(self.settings.root / "containers", 0o711)
        private_directory(self.settings.state / "containers")
        await asyncio.to_thread(self.blobs.open)
        self.events.observe(self._tell_plugins)
        _favor_moves(self.settings.state)
        await self.proxy.open()
        await asyncio.gather(self.starter.open(), self.storage.open(), self.networks.open())
        self.endpoints.load()
        self.containers.load()
        recovery = Recovery(self.containers, self.lifecycle, self.settings.state)
        await recovery.run(rebooted=await self.metadata.rebooted())
        everyone = self.containers.all()
        await self.images.sweep()
        await self.volumes.sweep()
        cut = await self.endpoints.sweep({c.id for c in everyone if c.is_running})
        await self.connections.restore(cut)
        await self.discovery.settle()
        await self.proxy.settle(endpoint for c in everyone for endpoint in self.endpoints.of(c.id))
        await self.storage.sweep()
        await asyncio.to_thread(self._sweep_directories, {c.id for c in everyone})
        for obstacle in await self.networks.drivers.obstacles():
            log.warning("%s", obstacle)
        for network in self.networks.all():
            if network.is_default and network.driver == "bridge":
                self.sandboxes.expect(network)

    def _sweep_directories(self, known: set[str]) -> None:
        for base in (self.settings.root / "containers", self.settings.state / "containers"):
            for directory in base.iterdir():
                if directory.name not in known:
                    log.info("sweeping %s, which belongs to no container", directory)
                    shm.unmount(directory / "shm")
                    shutil.rmtree(directory, ignore_errors=True)

    def _tell_plugins(self, event: Event) -> None:
        hook = self.registry.manager.hook.sampan_event
        if hook.get_hookimpls():
            asyncio.get_running_loop().run_in_executor(self._event_hooks, self._call_event_hook, event)

    def _call_event_hook(self, event: Event) -> None:
        try:
            contained(self.registry.manager.hook.sampan_event, event=event)
        except Exception:
            log.exception("a sampan_event hook failed on %s %s", event.type, event.action)

    async def close(self) -> None:
        """Let go of everything; containers go on."""
        self.events.close()
        self._event_hooks.shutdown(wait=False, cancel_futures=True)
        self.exports.close()
        await self.execs.close()
        await self.lifecycle.close()
        await self.sandboxes.close()
        await self.networks.close()
        self.proxy.close()
        self.discovery.close()
        await self.netd.close()
        await self.volumes.close()
        self.usage.close()
        self.ledger.close()
        await self.storage.close()
        self.metadata.database.close()
        _leave_moves(self.settings.state)
        _unlock(self._locks)
        self._locks = []


def _favor_moves(state: Path) -> None:
    """Have quick moves between cgroups for as long as the daemon lives (ADR 12); without them starts take longer."""
    try:
        cgroups.favor_moves(state / MOVES)
    except OSError as error:
        log.info("this kernel cannot favor moves between cgroups (%s): each start takes some milliseconds longer", error)


def _leave_moves(state: Path) -> None:
    try:
        cgroups.leave_moves(state / MOVES)
    except OSError as error:
        log.warning("unmount %s: %s", state / MOVES, error.strerror)


def _lock(directory: Path) -> int:
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(
            f"lock {directory}: another sampan daemon uses this directory",
            remedy="stop it, or give this one another --root and --state",
        ) from None
    return fd


def _unlock(locks: list[int]) -> None:
    for fd in locks:
        os.close(fd)
