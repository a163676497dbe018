"""Volumes: named directories that outlive containers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from sampan import plugins
from sampan.api.errors import Conflict, NotFound
from sampan.api.volume import VolumeContext, VolumeDriver
from sampan.engine.drivers import DriverHandle, driver_config, private_directory
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.names import check_name, new_id
from sampan.engine.records import VolumeRecord
from sampan.settings import Settings

VolumePlank = DriverHandle[VolumeDriver]


class Volumes:
    """The engine's volumes, over any number of drivers."""

    def __init__(self, settings: Settings, registry: plugins.Registry, metadata: Metadata, events: EventBus) -> None:
        self._settings = settings
        self._registry = registry
        self._metadata = metadata
        self._events = events
        self._open: dict[str, VolumePlank] = {}
        self._changing = asyncio.Lock()
        self.users: Callable[[str], list[str]] = lambda name: []
        """Gives the ids of the containers that mount a volume; set by the engine."""

    async def _driver(self, name: str) -> VolumePlank:
        if name not in self._open:
            cls = self._registry.driver("volume", name, VolumeDriver)
            root = private_directory(self._settings.root / "volumes" / name, 0o701)
            private_directory(self._settings.root / "volumes", 0o701)
            handle = DriverHandle(
                cls(VolumeContext(root), driver_config(cls, self._settings.volume.get(name, {}), "volume"))
            )
            await handle.call(handle.driver.open)
            self._open[name] = handle
        return self._open[name]

    def all(self) -> list[VolumeRecord]:
        """Give all volumes."""
        return self._metadata.database.query(self._metadata.volumes.list)

    def get(self, name: str) -> VolumeRecord:
        """Find a volume. Raises `NotFound`."""
        return self._metadata.database.query(lambda tx: self._metadata.volumes.get(tx, name))

    async def mountpoint(self, record: VolumeRecord) -> Path | None:
        """Give the volume's directory on the host."""
        plank = await self._driver(record.driver)
        return (await plank.call(plank.driver.get, record.name)).mountpoint

    async def create(
        self, name: str, driver: str = "", options: dict[str, str] | None = None, labels: dict[str, str] | None = None
    ) -> VolumeRecord:
        """Make a volume, or give the one of that name. Raises `Conflict` if that has another driver."""
        anonymous = not name
        name = name or new_id()
        if not anonymous:
            check_name("volume", name)
        async with self._changing:
            known = self._metadata.database.query(lambda tx: self._metadata.volumes.find(tx, name))
            if known is not None:
                if driver and driver != known.driver:
                    raise Conflict(
                        f"create {name}: conflict: volume name must be unique: it has driver {known.driver!r}"
                    )
                return known
            plank = await self._driver(driver or "local")
            await plank.call(plank.driver.create, name, options or {})
            record = VolumeRecord(
                name=name,
                driver=plank.name,
                created=time.time_ns(),
                options=options or {},
                labels=labels or {},
                anonymous=anonymous,
            )
            await self._metadata.database.write(lambda tx: self._metadata.volumes.insert(tx, record))
        self._events.emit("volume", "create", name, {"driver": record.driver})
        return record

    async def mount(self, name: str, container_id: str) -> Path:
        """Make a volume usable by a container and give its directory."""
        plank = await self._driver(self.get(name).driver)
        return await plank.call(plank.driver.mount, name, container_id)

    async def unmount(self, name: str, container_id: str) -> None:
        """Say that a container no longer needs it."""
        try:
            plank = await self._driver(self.get(name).driver)
        except NotFound:
            return
        await plank.call(plank.driver.unmount, name, container_id)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Delete a volume with its contents. Raises `Conflict` while a container uses it; `NotFound` unless forced."""
        async with self._changing:
            try:
                record = self.get(name)
            except NotFound:
                if force:
                    return
                raise
            if users := self.users(name):
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            plank = await self._driver(record.driver)
            await self._metadata.database.write(lambda tx: self._metadata.volumes.delete(tx, name))
            await plank.call(plank.driver.remove, name)
        self._events.emit("volume", "destroy", name, {"driver": record.driver})

    async def close(self) -> None:
        """Let go of the drivers."""
        for plank in self._open.values():
            plank.shutdown()
        self._open.clear()
