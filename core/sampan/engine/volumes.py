"""Volumes: named directories that outlive containers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sampan import plugins
from sampan.api.errors import Conflict, NotFound, SampanError
from sampan.api.volume import VolumeContext, VolumeDriver, VolumeInfo
from sampan.engine.drivers import DriverHandle, driver_config, private_directory
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.names import check_name, new_id
from sampan.engine.records import VolumeRecord
from sampan.settings import Settings

log = logging.getLogger(__name__)

VolumePlank = DriverHandle[VolumeDriver]


@dataclass(frozen=True, slots=True)
class VolumeDifferences:
    """`lost`: recorded, and its driver doesn't have it. `unknown`: (driver, name) without a record. `leftovers`: no volumes."""

    lost: list[VolumeRecord]
    unknown: list[tuple[str, str]]
    leftovers: list[Path]


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
        return [record for record in self._metadata.database.query(self._metadata.volumes.list) if record.whole]

    def find(self, name: str) -> VolumeRecord | None:
        """Give a volume, or None."""
        record = self._metadata.database.query(lambda tx: self._metadata.volumes.find(tx, name))
        return record if record is not None and record.whole else None

    def get(self, name: str) -> VolumeRecord:
        """Find a volume. Raises `NotFound`."""
        if (record := self.find(name)) is None:
            raise NotFound(f"get {name}: no such volume")
        return record

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
            if (known := self.find(name)) is not None:
                if driver and driver != known.driver:
                    raise Conflict(
                        f"create {name}: conflict: volume name must be unique: it has driver {known.driver!r}"
                    )
                return known
            plank = await self._driver(driver or "local")
            record = VolumeRecord(
                name=name,
                driver=plank.name,
                created=time.time_ns(),
                options=options or {},
                labels=labels or {},
                anonymous=anonymous,
            )
            half = record.model_copy(update={"whole": False})
            await self._metadata.database.note(lambda tx: self._metadata.volumes.insert(tx, half))
            try:
                await plank.call(plank.driver.create, name, options or {})
            except BaseException:
                await self._metadata.database.note(lambda tx: self._metadata.volumes.delete(tx, name))
                raise
            await self._metadata.database.write(lambda tx: self._metadata.volumes.update(tx, record))
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
        """Delete a volume with its contents. Raises `Conflict` while a container uses it; `NotFound` unless forced.

        One that its driver can't delete stays, unless forced: then it is forgotten all the same.
        """
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
            half = record.model_copy(update={"whole": False})
            await self._metadata.database.note(lambda tx: self._metadata.volumes.update(tx, half))
            try:
                await plank.call(plank.driver.remove, name)
            except BaseException as error:
                if not (force and isinstance(error, SampanError)):
                    await self._metadata.database.note(lambda tx: self._metadata.volumes.update(tx, record))
                    raise
                log.warning("remove volume %s by force, although its driver could not: %s", name, error)
            await self._metadata.database.write(lambda tx: self._metadata.volumes.delete(tx, name))
        self._events.emit("volume", "destroy", name, {"driver": record.driver})

    async def sweep(self) -> None:
        """Remove what a crash left half made or half removed."""
        for record in self._metadata.database.query(self._metadata.volumes.list):
            if not record.whole:
                try:
                    plank = await self._driver(record.driver)
                    await plank.call(plank.driver.remove, record.name)
                except SampanError as error:
                    log.warning("remove volume %s, which a crash left: %s", record.name, error)
                    continue
                await self._metadata.database.write(partial(self._metadata.volumes.delete, key=record.name))

    async def compare(self) -> VolumeDifferences:
        """Tell where the records and the drivers differ. Waits for a volume that is being made or removed."""
        async with self._changing:
            records = self.all()
            there: set[tuple[str, str]] = set()
            for name in sorted({record.driver for record in records} | set(self._used_drivers())):
                plank = await self._driver(name)
                there |= {(name, info.name) for info in await plank.call_for_long(_list, plank.driver)}
            known = {(record.driver, record.name) for record in records}
            leftovers = await asyncio.to_thread(
                self._leftovers, {name for driver, name in known | there if driver == "local"}
            )
        lost = [record for record in records if (record.driver, record.name) not in there]
        return VolumeDifferences(lost, sorted(there - known), leftovers)

    def _used_drivers(self) -> list[str]:
        """Give the drivers that have a directory here."""
        base, installed = self._settings.root / "volumes", self._registry.names("volume")
        return [name for name in installed if (base / name).is_dir()]

    def _leftovers(self, names: set[str]) -> list[Path]:
        base = self._settings.root / "volumes" / "local"
        return sorted(path for path in base.iterdir() if path.name not in names) if base.is_dir() else []

    async def adopt(self, driver: str, name: str) -> None:
        """Record a volume that a driver has and no record names, contents and all."""
        async with self._changing:
            if self.find(name) is None:
                record = VolumeRecord(name=name, driver=driver, created=time.time_ns())
                await self._metadata.database.write(lambda tx: self._metadata.volumes.insert(tx, record))

    async def close(self) -> None:
        """Let go of the drivers."""
        for plank in self._open.values():
            plank.shutdown()
        self._open.clear()


def _list(driver: VolumeDriver) -> list[VolumeInfo]:
    return list(driver.list())
