"""The storage plank inside the engine: which drivers are open, and images unpacked into them once each."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from functools import partial
from pathlib import Path

from sampan import plugins
from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError, Unavailable
from sampan.api.storage import SnapshotInfo, SnapshotOptions, StorageContext, StorageDriver
from sampan.content import layers
from sampan.content.blobs import BlobStore
from sampan.content.manifests import chain_ids
from sampan.engine.drivers import DriverHandle, driver_config, private_directory
from sampan.engine.metadata import Metadata
from sampan.engine.records import ImageRecord
from sampan.settings import Settings
from sampan.store import settings as stored
from sampan.store import snapshots
from sampan.store.snapshots import SnapshotOwner

log = logging.getLogger(__name__)

PRIORITY = ("overlayfs", "btrfs", "vfs")
"""Which driver becomes the default where none is configured: the first that works."""

UNPACKING = "unpack-"
"""Prefix of the keys of snapshots that are being filled; one found at start is a leftover of a crash."""

Storage = DriverHandle[StorageDriver]


class StorageDrivers:
    """All storage drivers in use. A driver is opened when it is first needed, or at start if it has data here."""

    def __init__(self, settings: Settings, registry: plugins.Registry, metadata: Metadata, blobs: BlobStore) -> None:
        self._settings = settings
        self._registry = registry
        self._metadata = metadata
        self._blobs = blobs
        self._open: dict[str, Storage] = {}
        self._opening = asyncio.Lock()
        self._unpacking: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unpacked: set[tuple[str, str, str]] = set()
        self.default = ""
        self.unavailable: dict[str, str] = {}

    def _root(self, name: str) -> Path:
        return self._settings.root / "storage" / name

    async def open(self) -> None:
        """Choose the default driver and open every driver that has data. Raises `Unavailable` if the default can't work."""
        private_directory(self._settings.root / "storage")
        prior = self._metadata.database.query(lambda tx: stored.get(tx, "storage_driver"))
        cls, _ = await asyncio.to_thread(
            plugins.choose, self._registry, "storage", StorageDriver, self._root,
            configured=self._settings.storage_driver, prior=prior, priority=PRIORITY,
        )  # fmt: skip
        self.default = cls.name
        await self.get(cls.name)
        await self._metadata.database.write(lambda tx: stored.put(tx, "storage_driver", cls.name))
        used = {owner.driver for owner in self._metadata.database.query(snapshots.everything)}
        for name in sorted(used - {cls.name}):
            try:
                await self.get(name)
            except SampanError as error:
                self.unavailable[name] = str(error)
                log.warning("storage driver %s has data here but is not available: %s", name, error)

    def opened(self) -> list[Storage]:
        """Give the open drivers."""
        return list(self._open.values())

    async def get(self, name: str) -> Storage:
        """Give the driver `name`, opened. Raises `InvalidArgument` for an unknown name, `Unavailable` if it can't work here."""
        async with self._opening:
            if name not in self._open:
                self._open[name] = await self._start(name)
                self.unavailable.pop(name, None)
            return self._open[name]

    async def _start(self, name: str) -> Storage:
        cls = self._registry.driver("storage", name, StorageDriver)
        root = self._root(name)
        found = await asyncio.to_thread(plugins.probe, cls, root)
        if not found.supported:
            raise Unavailable(f"storage driver {name!r} does not work here: {found.reason}")
        private_directory(root)
        config = driver_config(cls, self._settings.storage.get(name, {}), "storage")
        driver = cls(StorageContext(root, self._metadata.engine_id), config)
        handle = DriverHandle(driver, driver.capabilities())
        await handle.call(handle.driver.open)
        return handle

    async def ensure_unpacked(self, image: ImageRecord, name: str) -> str | None:
        """Have all layers of an image in a driver; give the topmost snapshot (None for an image without layers)."""
        storage = await self.get(name)
        parent: str | None = None
        for chain_id, layer, diff_id in zip(chain_ids(image.diff_ids), image.layers, image.diff_ids, strict=True):
            async with self._unpacking[name, chain_id]:
                await self._ensure_layer(storage, image, chain_id, parent, layer, diff_id)
            parent = chain_id
        return parent

    async def _ensure_layer(
        self,
        storage: Storage,
        image: ImageRecord,
        chain_id: str,
        parent: str | None,
        layer: tuple[str, str, int],
        diff_id: str,
    ) -> None:
        if (storage.name, chain_id, image.id) in self._unpacked:
            return
        owner = SnapshotOwner(storage.name, chain_id, "image", image.id)
        try:
            await storage.call(storage.driver.stat, chain_id)
        except NotFound:
            await self._unpack(storage, chain_id, parent, layer, diff_id)
        known = self._metadata.database.query(lambda tx: snapshots.owners(tx, storage.name, chain_id))
        if owner not in known:
            await self._metadata.database.write(lambda tx: snapshots.add(tx, owner))
        self._unpacked.add((storage.name, chain_id, image.id))

    async def _unpack(
        self, storage: Storage, chain_id: str, parent: str | None, layer: tuple[str, str, int], diff_id: str
    ) -> None:
        digest, media_type, _ = layer
        key = UNPACKING + secrets.token_hex(8)
        await storage.call(storage.driver.prepare, key, parent, SnapshotOptions())
        try:
            stored = layers.StoredLayer(self._blobs.path(digest), media_type, diff_id)
            await storage.call_for_long(storage.driver.apply, key, stored)
            await storage.call_for_long(storage.driver.commit, chain_id, key)
        except BaseException:
            await storage.call(storage.driver.remove, key)
            raise

    async def forget_image(self, image: ImageRecord) -> None:
        """Remove the snapshots of an image that no other image uses."""
        self._unpacked = {known for known in self._unpacked if known[2] != image.id}
        owned = self._metadata.database.query(lambda tx: snapshots.owned(tx, "image", image.id))
        order = {chain_id: index for index, chain_id in enumerate(chain_ids(image.diff_ids))}
        for owner in sorted(owned, key=lambda owner: -order.get(owner.key, 0)):
            unused = await self._metadata.database.write(partial(snapshots.remove, owner=owner))
            if unused and owner.driver in self._open:
                await self.remove(owner.driver, owner.key)

    async def remove(self, name: str, key: str) -> None:
        """Remove a snapshot; one that is gone, or that others still build on, is no error."""
        storage = await self.get(name)
        try:
            await storage.call(storage.driver.remove, key)
        except (NotFound, Conflict):
            pass

    async def sweep(self, containers: set[tuple[str, str]]) -> None:
        """Remove snapshots that a crash left: half-filled layers, and containers' (driver, key) that are in no record."""
        for storage in self.opened():
            known = {o.key for o in self._metadata.database.query(snapshots.everything) if o.driver == storage.name}
            infos = await storage.call(_walk, storage.driver)
            for info in reversed(infos):
                if info.key in known or (storage.name, info.key) in containers:
                    continue
                log.info("storage %s: sweeping snapshot %s, which nothing owns", storage.name, info.key)
                await self.remove(storage.name, info.key)

    async def close(self) -> None:
        """Close every driver."""
        for handle in self._open.values():
            try:
                await handle.call(handle.driver.close)
            except SampanError:
                log.exception("close storage driver %s", handle.name)
            handle.shutdown()
        self._open.clear()


def _walk(driver: StorageDriver) -> list[SnapshotInfo]:
    return list(driver.walk())


def snapshot_options(storage_opt: dict[str, str]) -> SnapshotOptions:
    """Read the `--storage-opt`s that are not the driver's name. Raises `InvalidArgument` for an unknown one."""
    rest = {key: value for key, value in storage_opt.items() if key != "driver"}
    size = rest.pop("size", None)
    if rest:
        raise InvalidArgument(
            f"unknown storage option {', '.join(sorted(rest))}", remedy="known ones are driver and size"
        )
    return SnapshotOptions(size=None if size is None else parse_size(size))


def parse_size(text: str) -> int:
    """Read a size as Docker writes it (`10G`, `512m`, bytes). Raises `InvalidArgument`."""
    units = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    body = text.strip().lower().removesuffix("b") or "b"
    number, unit = (body[:-1], body[-1]) if body[-1] in units else (body, "")
    try:
        size = int(float(number) * units[unit])
    except (ValueError, OverflowError):
        raise InvalidArgument(f"invalid size: '{text}'") from None
    if size <= 0:
        raise InvalidArgument(f"invalid size: '{text}'", remedy="give a size above zero")
    return size
