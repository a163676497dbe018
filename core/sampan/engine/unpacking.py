"""Images unpacked into storage drivers: each layer once per driver, shared by all images that have it.

A layer's snapshot is named by its chain id, so images share it without knowing of each other. Work on one snapshot is done
by one at a time, and to its end: who asked for it may go away meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sampan.api.errors import NotFound, SampanError
from sampan.api.storage import SnapshotOptions
from sampan.content import layers
from sampan.content.blobs import BlobStore
from sampan.content.manifests import chain_ids
from sampan.engine.metadata import Metadata
from sampan.engine.records import ImageRecord
from sampan.engine.storage import Storage, StorageDrivers
from sampan.store import snapshots
from sampan.store.database import Transaction
from sampan.store.snapshots import SnapshotOwner

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """A layer in its place in an image: its blob, what the plain tar is called, the chain ids of it and of what is under it."""

    image_id: str
    digest: str
    media_type: str
    diff_id: str
    chain_id: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer that is in a driver now; `was_there`: it was before."""

    layer: ImageLayer
    was_there: bool


class UnpackedImages:
    """Unpacks images into storage drivers, and removes what no image needs any more."""

    def __init__(self, storage: StorageDrivers, metadata: Metadata, blobs: BlobStore) -> None:
        self._storage = storage
        self._metadata = metadata
        self._blobs = blobs
        self._tasks: set[asyncio.Task[bool]] = set()
        self._whole: set[tuple[str, str, int]] = set()
        """(driver, image, repairs so far) that were seen whole: not looked for again before the next repair."""
        self._half: set[tuple[str, str]] = set()
        """(driver, key) of what could not be removed after an error."""

    async def ensure(self, image: ImageRecord, name: str) -> str | None:
        """Have all layers of an image in a driver; give the topmost snapshot (None for an image without layers)."""
        if (name, image.id, self._storage.repairs) not in self._whole:
            async for _ in self.unpack(image, name):
                pass
        chain = chain_ids(image.diff_ids)
        return chain[-1] if chain else None

    async def unpack(self, image: ImageRecord, name: str) -> AsyncIterator[UnpackedLayer]:
        """Have all layers of an image in a driver, and tell each when it is there, lowest first.

        Raises what `StorageDrivers.get` raises, `NotFound` if the image is removed meanwhile, and what the layer or the
        driver raises; then the layers told before stay, and the next call goes on from there.
        """
        storage, repairs = await self._storage.get(name), self._storage.repairs
        for layer in _layers(image):
            task = asyncio.create_task(self._ensure_layer(storage, layer))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            yield UnpackedLayer(layer, await asyncio.shield(task))
        if self._is_there(image.id):
            self._whole.add((name, image.id, repairs))

    def _done(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its own waiter may be gone; the next one meets the same error

    async def _ensure_layer(self, storage: Storage, layer: ImageLayer) -> bool:
        """Have a layer in a driver, with its image as an owner; tell whether it was there before."""
        with self._storage.changing(storage.name, layer.chain_id):
            async with self._storage.lock(storage.name, layer.chain_id):
                was_there = True
                try:
                    await storage.call(storage.driver.stat, layer.chain_id)
                except NotFound:
                    was_there = False
                    await self._unpack_unless_gone(storage, layer)
                await self._own(SnapshotOwner(storage.name, layer.chain_id, "image", layer.image_id))
        return was_there

    async def _unpack_unless_gone(self, storage: Storage, layer: ImageLayer) -> None:
        try:
            await self._unpack(storage, layer)
        except SampanError as error:
            if self._is_there(layer.image_id):
                raise
            raise _gone(layer.image_id) from error  # and its blobs with it

    async def _unpack(self, storage: Storage, layer: ImageLayer) -> None:
        await self._remove_half(storage.name)
        key = f"unpack-{secrets.token_hex(8)}"
        with self._storage.changing(storage.name, key):
            await storage.call(storage.driver.prepare, key, layer.parent, SnapshotOptions())
            try:
                stored = layers.StoredLayer(self._blobs.path(layer.digest), layer.media_type, layer.diff_id)
                await storage.call_for_long(storage.driver.apply, key, stored)
                await storage.call_for_long(storage.driver.commit, layer.chain_id, key)
            except Exception:
                await self._give_up(storage.name, key)
                raise

    async def _give_up(self, name: str, key: str) -> None:
        """Remove what is half unpacked. If that fails too, the first error is the one to tell."""
        try:
            await self._storage.remove(name, key)
        except SampanError as error:
            log.warning("storage %s: half a layer stays until the next is unpacked: %s", name, error)
            self._half.add((name, key))

    async def _remove_half(self, name: str) -> None:
        for driver, key in [half for half in self._half if half[0] == name]:
            await self._storage.remove(driver, key)
            self._half.discard((driver, key))

    async def _own(self, owner: SnapshotOwner) -> None:
        """Enter an image as an owner. Raises `NotFound` if it was removed; what nobody owns then is removed too."""
        if owner in self._metadata.database.query(lambda tx: snapshots.owners(tx, owner.driver, owner.key)):
            return

        def enter(tx: Transaction) -> bool:
            if self._metadata.images.find(tx, owner.owner_id) is None:
                return False
            snapshots.add(tx, owner)
            return True

        if not await self._metadata.database.write(enter):
            await self._remove_unowned(owner)
            raise _gone(owner.owner_id)

    async def forget(self, image_id: str, unowned: Sequence[SnapshotOwner]) -> None:
        """Remove the snapshots of an image that is no more: `unowned` are those that no other image has."""
        self._whole = {whole for whole in self._whole if whole[1] != image_id}
        open_drivers = {storage.name for storage in self._storage.opened()}
        going = {(owner.driver, owner.key): owner for owner in unowned if owner.driver in open_drivers}
        for name in sorted({owner.driver for owner in going.values()}):
            for info in reversed(await self._storage.snapshots(name)):
                if owner := going.get((name, info.key)):
                    with self._storage.changing(name, info.key):
                        async with self._storage.lock(name, info.key):
                            await self._remove_unowned(owner)

    async def _remove_unowned(self, owner: SnapshotOwner) -> None:
        if not self._metadata.database.query(lambda tx: snapshots.owners(tx, owner.driver, owner.key)):
            await self._storage.remove(owner.driver, owner.key)

    def _is_there(self, image_id: str) -> bool:
        return self._metadata.database.query(lambda tx: self._metadata.images.find(tx, image_id)) is not None


def _gone(image_id: str) -> NotFound:
    return NotFound(f"No such image: {image_id}: it was removed while it was unpacked")


def _layers(image: ImageRecord) -> list[ImageLayer]:
    chain = chain_ids(image.diff_ids)
    parents = [None, *chain[:-1]]
    return [
        ImageLayer(image.id, digest, media_type, diff_id, chain_id, parent)
        for (digest, media_type, _), diff_id, chain_id, parent in zip(image.layers, image.diff_ids, chain, parents, strict=True)
    ]
