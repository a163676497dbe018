"""A stopped container's files moved from one storage driver to another.

The container's record names the one driver that has its files. They are copied beside, compared and made durable; then the
record and the ledger change in one transaction; then the old ones are removed. A crash before the transaction leaves a copy,
after it an old snapshot, that no record names, and the next start sweeps it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import zip_longest

from sampan.api.errors import Conflict, NotModified, SampanError, System, Unsupported, host_errors
from sampan.api.storage import Change, ChangeKind, StorageDriver
from sampan.content.layer_writer import WrittenLayer
from sampan.content.tree_layer import TreeLayer
from sampan.engine import rootfs
from sampan.engine.changes import with_ancestors
from sampan.engine.container import Container
from sampan.engine.containers import attributes
from sampan.engine.events import EventBus
from sampan.engine.images import Images
from sampan.engine.metadata import Metadata
from sampan.engine.records import ImageRecord, Status
from sampan.engine.storage import Storage, StorageDrivers
from sampan.engine.storage_options import snapshot_options
from sampan.engine.unpacking import UnpackedImages
from sampan.linux.comparing import same
from sampan.linux.cursor import Cursor, Inode, inode
from sampan.linux.mounts import open_root
from sampan.linux.trees import syncfs
from sampan.store import snapshots
from sampan.store.database import Transaction
from sampan.store.snapshots import SnapshotOwner

log = logging.getLogger(__name__)

SOCKET = "socket"
"""What may stay behind, as the layer writer calls it: whoever listened on it is gone."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did. `size`: bytes of the tar that went over; `sockets`: how many stayed behind."""

    source: str
    target: str
    size: int
    sockets: int


class Migrations:
    """Moves containers between storage drivers."""

    def __init__(
        self, metadata: Metadata, images: Images, storage: StorageDrivers, unpacked: UnpackedImages, events: EventBus
    ) -> None:
        self._metadata = metadata
        self._images = images
        self._storage = storage
        self._unpacked = unpacked
        self._events = events

    async def migrate(self, container: Container, name: str) -> Migrated:
        """Move a stopped container to the storage driver `name`. It can't be started or removed meanwhile.

        Raises `NotModified` if it is there, `Conflict` if it isn't stopped, `InvalidArgument` for an unknown driver,
        `Unsupported` if that driver can't keep the container's size, `System` if what arrived is not what was sent. On an
        error the container stays where it was.
        """
        target = await self._storage.get(name)
        async with container.lock:
            self._check(container, name)
            container.is_moving = True
            try:
                return await self._move(container, target)
            finally:
                container.is_moving = False

    @staticmethod
    def _check(container: Container, name: str) -> None:
        what = f"migrate container {container.record.name}"
        if container.is_running or container.status is Status.RESTARTING:
            raise Conflict(f"{what}: it is {container.status}", remedy="stop it first")
        if container.status in (Status.REMOVING, Status.DEAD) or container.when_removed().done():
            raise Conflict(f"{what}: it is being removed")
        if container.record.storage_driver == name:
            raise NotModified(f"{what}: it is on storage driver {name} already")

    async def _move(self, container: Container, target: Storage) -> Migrated:
        record, key = container.record, container.id
        source = await self._storage.get(record.storage_driver)
        image = self._images.find(record.image_id)
        if image is None:
            raise Conflict(
                f"migrate container {record.name}: its image {record.image_id} is gone, and with it what its files build on",
                remedy="export the container, and import that as an image",
            )
        with self._storage.changing(source.name, key), self._storage.changing(target.name, key):
            try:
                await self._prepare(container, image, target)
                written = await self._copy(container, source, target)
                await self._compare(container, source, target)
                await self._flush(container, target)
            except Exception:
                await self._discard(target, key)
                raise
            await self._switch(container, target)
            await self._remove_old(container, source)
        await asyncio.to_thread(container.trace.save)
        sockets = sum(count for why, count, _ in written.left_out if why == SOCKET)
        more = {"from": source.name, "to": target.name}
        self._events.emit("container", "migrate", key, attributes(container.record) | more)
        return Migrated(source.name, target.name, written.size, sockets)

    async def _prepare(self, container: Container, image: ImageRecord, target: Storage) -> None:
        """Make the new snapshot, on the same image. What an attempt before left in its place is no one's, and goes."""
        with container.trace.span("migrate", "image.unpack", target.name):
            parent = await self._unpacked.ensure(image, target.name)
        with container.trace.span("migrate", "storage.prepare", target.name):
            await self._storage.remove(target.name, container.id)
            options = snapshot_options(container.record.host.storage_opt)
            await target.call(target.driver.prepare, container.id, parent, options)

    async def _copy(self, container: Container, source: Storage, target: Storage) -> WrittenLayer:
        """Send what the container changed over. Raises `Unsupported` if it has what no layer can carry."""
        with container.trace.span("migrate", "storage.apply", target.name):
            written = await target.call_for_long(_copy, source.driver, target.driver, container.id)
        for why, count, names in written.left_out:
            if why != SOCKET:
                raise Unsupported(
                    f"migrate container {container.record.name}: {count} of its files can't be moved ({why}): {', '.join(names)}",
                    remedy="remove them first",
                )
        return written

    async def _compare(self, container: Container, source: Storage, target: Storage) -> None:
        with container.trace.span("migrate", "storage.diff", target.name):
            await target.call_for_long(_compare, source.driver, target.driver, container.id)

    async def _flush(self, container: Container, target: Storage) -> None:
        """Have the disk hold the driver's own records as well: the files are there since they were copied."""
        with container.trace.span("migrate", "storage.sync", target.name), host_errors(f"sync storage {target.name}"):
            await target.call_for_long(syncfs, target.driver.context.root)

    async def _switch(self, container: Container, target: Storage) -> None:
        """Enter the new driver in record and ledger, at once. Only what the store says counts: if it fails, nothing is removed."""
        record = container.record
        options = dict(record.host.storage_opt)
        if "driver" in options:
            options["driver"] = target.name
        host = record.host.model_copy(update={"storage_opt": options})
        moved = record.model_copy(update={"storage_driver": target.name, "host": host})

        def change(tx: Transaction) -> None:
            self._metadata.containers.update(tx, moved)
            snapshots.remove(tx, _owner(record.storage_driver, record.id))
            snapshots.add(tx, _owner(target.name, record.id))

        with container.trace.span("migrate", "store.update"):
            await self._metadata.database.write(change)
        container.record = moved

    async def _remove_old(self, container: Container, source: Storage) -> None:
        with container.trace.span("migrate", "storage.remove", source.name):
            await self._discard(source, container.id)

    async def _discard(self, storage: Storage, key: str) -> None:
        """Remove a snapshot that no record names. One that can't be removed is an orphan for `check`, and for the next start."""
        try:
            await self._storage.remove(storage.name, key)
        except SampanError as error:
            log.warning("migrate container %s: files stay in storage driver %s: %s", key[:12], storage.name, error)


def _owner(driver: str, container_id: str) -> SnapshotOwner:
    return SnapshotOwner(driver, container_id, "container", container_id)


def _copy(source: StorageDriver, target: StorageDriver, key: str) -> WrittenLayer:
    with rootfs.opened(source.look(key)) as root:
        layer = TreeLayer(root, source.diff(key))
        with closing(layer):
            target.apply(key, layer)
    if layer.written is None:
        raise System(f"storage driver {target.name} did not read the layer to its end")
    return layer.written


def _compare(source: StorageDriver, target: StorageDriver, key: str) -> None:
    """Compare what both drivers say that the container changed, and each of these files, contents and links too.

    Raises `System` that names the first difference.
    """
    with host_errors(f"compare snapshot {key!r} in {source.name} and {target.name}"), ExitStack() as stack:
        old_root = stack.enter_context(open_root(source.look(key)))
        new_root = stack.enter_context(open_root(target.look(key)))
        old, new = _Place(stack.enter_context(Cursor(old_root))), _Place(stack.enter_context(Cursor(new_root)))
        links: dict[Inode, tuple[Inode, Inode]] = {}
        for was, now in zip_longest(_carried(_without_sockets(source.diff(key), old)), _carried(target.diff(key))):
            if was != now or not _is_same(was, old, new, links):
                path = (was or now).path.decode("utf-8", "backslashreplace")
                raise System(f"snapshot {key!r}: /{path} is not the same in {target.name} as in {source.name}")


def _carried(changes: Iterator[Change]) -> Iterator[Change]:
    """Give changes with what a layer has beside them: the root, and the directories that lead there.

    Their times may be those of the image's unpacking, other ones in each driver, and then only the driver that they came to tells them.
    """
    for number, change in enumerate(with_ancestors(changes)):
        if number == 0:
            yield Change(b"", ChangeKind.MODIFIED)
        if change.path:
            yield change


def _without_sockets(changes: Iterator[Change], tree: _Place) -> Iterator[Change]:
    for change in changes:
        status = tree.stat(change.path) if change.kind is ChangeKind.ADDED else None
        if status is None or not stat.S_ISSOCK(status.st_mode):
            yield change


def _is_same(change: Change, old: _Place, new: _Place, links: dict[Inode, tuple[Inode, Inode]]) -> bool:
    """Tell whether what a change names is the same in both; `links`: which inodes belong together."""
    before, after = old.stat(change.path), new.stat(change.path)
    if before is None or after is None:
        return change.kind is ChangeKind.DELETED and before is after
    if not stat.S_ISDIR(before.st_mode) and max(before.st_nlink, after.st_nlink) > 1:
        pair = inode(before), inode(after)
        if links.setdefault(pair[0], pair) != pair or links.setdefault(pair[1], pair) != pair:
            return False
    name = change.path.rpartition(b"/")[2] or b"."
    return same(old.fd, name, new.fd, name)


class _Place:
    """A cursor that goes by paths."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._at: list[bytes] = []

    @property
    def fd(self) -> int:
        """Give the directory of the path asked for last."""
        return self._cursor.fd

    def stat(self, path: bytes) -> os.stat_result | None:
        """Go to the directory of a path, and give the status of its last name; None if it isn't there."""
        *above, name = path.split(b"/")
        common = len(os.path.commonprefix([above, self._at]))
        while len(self._at) > common:
            self._at.pop()
            self._cursor.up()
        for part in above[common:]:
            self._at.append(part)
            self._cursor.down(part)
        return self._cursor.stat(name or b".")
