"""The storage plank inside the engine: which drivers are open, and that they hold what the records say."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from sampan import plugins
from sampan.api.driver import Probe
from sampan.api.errors import Conflict, NotFound, SampanError, Unavailable, host_errors
from sampan.api.storage import Damage, SnapshotInfo, StorageContext, StorageDriver
from sampan.engine.drivers import DriverHandle, driver_config, private_directory
from sampan.engine.metadata import Metadata
from sampan.engine.storage_check import Finding, Mismatch, compare, read_records
from sampan.linux import trees
from sampan.settings import Settings
from sampan.store import settings as stored
from sampan.store import snapshots

log = logging.getLogger(__name__)

PRIORITY = ("overlayfs", "btrfs", "vfs")
"""Which driver becomes the default where none is configured: the first that works."""

Storage = DriverHandle[StorageDriver]


@dataclass(frozen=True, slots=True)
class DriverState:
    """What can be said of a driver without using it. `state` is open, ready (not used yet), or unavailable for `reason`."""

    name: str
    state: str
    reason: str
    capabilities: frozenset[str]


class StorageDrivers:
    """All storage drivers in use. A driver is opened when it is first needed, or at start if it was used here before."""

    def __init__(self, settings: Settings, registry: plugins.Registry, metadata: Metadata) -> None:
        self._settings = settings
        self._registry = registry
        self._metadata = metadata
        self._open: dict[str, Storage] = {}
        self._opening = asyncio.Lock()
        self._changing: Counter[tuple[str, str]] = Counter()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.default = ""
        self.unavailable: dict[str, str] = {}
        self.repairs = 0
        """How many were made: what was seen before the last one may be gone."""

    # ------------------------------------------------------------------ drivers

    def _root(self, name: str) -> Path:
        return self._settings.root / "storage" / name

    async def open(self) -> None:
        """Choose the default driver and open every driver used before. Raises `Unavailable` if the default can't work."""
        base = private_directory(self._settings.root / "storage")
        await asyncio.to_thread(_remove_trials, base)
        prior = self._metadata.database.query(lambda tx: stored.get(tx, "storage_driver"))
        cls, found = await asyncio.to_thread(
            plugins.choose, self._registry, "storage", StorageDriver, self._root,
            configured=self._settings.storage_driver, prior=prior, priority=PRIORITY,
        )  # fmt: skip
        self.default = cls.name
        self._open[cls.name] = await self._start(cls, found)
        await self._metadata.database.write(lambda tx: stored.put(tx, "storage_driver", cls.name))
        used = self._with_records()
        for name in sorted(used | {entry.name for entry in base.iterdir()}):
            try:
                await self.get(name)
            except SampanError as error:
                if name in used:
                    self.unavailable[name] = str(error)
                log.warning("storage driver %s was used here but is not available: %s", name, error)

    def _with_records(self) -> set[str]:
        return {owner.driver for owner in self._metadata.database.query(snapshots.everything)}

    def opened(self) -> list[Storage]:
        """Give the open drivers."""
        return list(self._open.values())

    async def get(self, name: str) -> Storage:
        """Give the driver `name`, opened. Raises `InvalidArgument` for an unknown name, `Unavailable` if it can't work here."""
        async with self._opening:
            if name not in self._open:
                cls = self._registry.driver("storage", name, StorageDriver)
                self._open[name] = await self._start(cls, await asyncio.to_thread(plugins.probe, cls, self._root(name)))
                self.unavailable.pop(name, None)
            return self._open[name]

    async def _start(self, cls: type[StorageDriver], found: Probe) -> Storage:
        """Open a driver whose probe found this. Raises `Unavailable` if it can't work here."""
        if not found.supported:
            raise Unavailable(f"storage driver {cls.name!r} does not work here: {found.reason}")
        root = private_directory(self._root(cls.name))
        config = driver_config(cls, self._settings.storage.get(cls.name, {}), "storage")
        handle = DriverHandle(cls(StorageContext(root, self._metadata.engine_id), config))
        await handle.call(handle.driver.open)
        handle.capabilities = await handle.call(handle.driver.capabilities, found.capabilities)
        return handle

    async def states(self) -> list[DriverState]:
        """Give every driver that is installed, or has data here, by name."""
        found = {name: DriverState(name, "unavailable", why, frozenset()) for name, why in self.unavailable.items()}
        for registration in self._registry.registrations("storage"):
            name = registration.driver.name
            if name in self._open:
                found[name] = DriverState(name, "open", "", self._open[name].capabilities)
            elif name not in found:
                probed = await asyncio.to_thread(plugins.probe, registration.driver, self._root(name))
                state = "ready" if probed.supported else "unavailable"
                found[name] = DriverState(name, state, probed.reason, probed.capabilities)
        return [found[name] for name in sorted(found)]

    async def close(self) -> None:
        """Close every driver."""
        for handle in self._open.values():
            try:
                await handle.call(handle.driver.close)
            except SampanError:
                log.exception("close storage driver %s", handle.name)
            handle.shutdown()
        self._open.clear()

    # ------------------------------------------------------------------ snapshots

    @contextmanager
    def changing(self, name: str, key: str) -> Iterator[None]:
        """Say that a snapshot comes or goes, and that its record follows: until then `check` doesn't miss either."""
        self._changing[name, key] += 1
        try:
            yield
        finally:
            self._changing[name, key] -= 1

    def lock(self, name: str, key: str) -> asyncio.Lock:
        """Give what is held by whoever makes or removes a snapshot that several may want: a layer, an orphan."""
        return self._locks.setdefault((name, key), asyncio.Lock())

    async def snapshots(self, name: str) -> list[SnapshotInfo]:
        """Give the snapshots of a driver, parents before children."""
        storage = await self.get(name)
        return await storage.call(_walk, storage.driver)

    async def remove(self, name: str, key: str) -> None:
        """Remove a snapshot; one that is gone, or that others still build on, is no error."""
        storage = await self.get(name)
        try:
            await storage.call(storage.driver.remove, key)
        except (NotFound, Conflict):
            pass

    async def check(self, name: str) -> list[Finding]:
        """Tell what is wrong in a driver: what it finds itself, and where its snapshots and the records differ.

        Changes nothing. What comes or goes meanwhile is not taken for a fault: what differs is looked at twice.
        """
        storage = await self.get(name)
        found = [Finding(name, damage) for damage in await storage.call_for_long(_check, storage.driver)]
        if differences := await self._differences(name):
            again = set(await self._differences(name))
            found += [finding for finding in differences if finding in again]
        return found

    async def _differences(self, name: str) -> list[Finding]:
        infos = await self.snapshots(name)
        found = compare(name, infos, read_records(self._metadata))
        return [finding for finding in found if not self._changing[name, finding.damage.subject]]

    async def repair(self, name: str) -> list[Finding]:
        """Mend what `check` calls repairable; give what was mended."""
        storage = await self.get(name)
        self.repairs += 1
        mended = [Finding(name, damage) for damage in await storage.call_for_long(_repair, storage.driver)]
        for finding in await self.check(name):
            if finding.mismatch is not None and finding.damage.repairable and await self._mend(finding):
                mended.append(finding)
        return mended

    async def _mend(self, finding: Finding) -> bool:
        """Mend what still is so: to mend others may have taken long, and an image may have come back to its layers. Tell whether."""
        async with self.lock(finding.driver, finding.damage.subject):
            if finding not in await self._differences(finding.driver):
                return False
            await self._carry_out(finding)
            return True

    async def _carry_out(self, finding: Finding) -> None:
        owner = finding.owner
        if finding.mismatch is Mismatch.ORPHAN:
            await self.remove(finding.driver, finding.damage.subject)
        elif finding.mismatch is Mismatch.UNRECORDED and owner is not None:
            await self._metadata.database.write(lambda tx: snapshots.add(tx, owner))
        elif owner is not None and await self._metadata.database.write(lambda tx: snapshots.remove(tx, owner)):
            await self.remove(owner.driver, owner.key)

    async def sweep(self) -> None:
        """Mend what a crash left: half-filled layers, containers' snapshots without a container, records without a snapshot."""
        for storage in self.opened():
            for finding in await self._differences(storage.name):
                log.info("storage %s: %s: %s", storage.name, finding.damage.subject, finding.damage.problem)
                if finding.damage.repairable:
                    await self._carry_out(finding)


def _remove_trials(base: Path) -> None:
    """Remove what a probe was trying when it was killed: drivers make trials beside their roots, under names with a dot."""
    for trial in base.glob(".*"):
        with host_errors(f"remove {trial}, which a killed probe left"):
            trees.remove(trial)


def _walk(driver: StorageDriver) -> list[SnapshotInfo]:
    return list(driver.walk())


def _check(driver: StorageDriver) -> list[Damage]:
    return list(driver.check())


def _repair(driver: StorageDriver) -> list[Damage]:
    return list(driver.repair())
