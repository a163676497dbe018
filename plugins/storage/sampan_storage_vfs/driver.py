"""vfs: every snapshot is a whole copy of its parent. Slow without reflinks, but it works on every file
system.

This is the driver to read first if you write one (docs/how-to/write-a-storage-driver.md). Under
`context.root`:

    index.db            which snapshots there are (`sampan.api.snapshots`)
    snapshots/<n>/      the tree of snapshot number n

A snapshot is recorded after its tree is whole and forgotten before its tree is deleted. So after a crash a
tree that the index does not know is a half-made or half-deleted one, and `open` deletes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.snapshots import Snapshot, SnapshotIndex, host_errors, make_root, refuse_size
from sampan.api.storage import (
    LayerTarget,
    Mount,
    SnapshotInfo,
    SnapshotKind,
    SnapshotOptions,
    StorageContext,
    StorageDriver,
    Usage,
    Whiteouts,
)
from sampan.linux import trees
from sampan.linux.copying import copy_tree


class VfsDriver(StorageDriver):
    """Snapshots as plain directories and their copies."""

    name = "vfs"

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; `open` is the first to touch anything."""
        super().__init__(context, config)
        self._index = SnapshotIndex(context.root / "index.db")
        self._snapshots = context.root / "snapshots"

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of the settings."""
        from sampan_storage_vfs.config import VfsConfig

        return VfsConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Say yes: there is nothing that a host could lack."""
        return Probe(supported=True)

    def open(self) -> None:
        """Open the index and delete the trees that no snapshot owns."""
        with host_errors(f"open vfs storage {self.context.root}"):
            self._snapshots.mkdir(exist_ok=True)
            self._index.open()
            for orphan in self._index.reconcile([entry.name for entry in self._snapshots.iterdir()]):
                trees.remove(self._snapshots / orphan)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Copy the parent's tree, or make an empty one."""
        refuse_size(self.name, options)
        with self._index.adding(key, parent, SnapshotKind.ACTIVE, options) as snapshot:
            tree = self._directory(snapshot.number)
            with host_errors(f"prepare snapshot {key!r}"):
                try:
                    if snapshot.parent is None:
                        make_root(tree)
                    else:
                        copy_tree(self._directory(snapshot.parent), tree)
                except BaseException:
                    trees.remove(tree)
                    raise

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty directory. The view of a parent shows the parent's own tree: it never changes."""
        refuse_size(self.name, options)
        with (
            self._index.adding(key, parent, SnapshotKind.VIEW, options) as snapshot,
            host_errors(f"make view {key!r}"),
        ):
            make_root(self._directory(snapshot.number))

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give one bind mount."""
        snapshot = self._index.get_mountable(key)
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return (Mount("bind", str(self._tree(snapshot)), ("bind", access)),)

    def layer_target(self, key: str) -> LayerTarget:
        """Give the tree itself: a deletion in a layer deletes there."""
        return LayerTarget(self._tree(self._index.get_active(key)), Whiteouts.DELETE)

    def commit(self, name: str, key: str) -> None:
        """Have the disk hold the tree, then the new name."""
        snapshot = self._index.check_commit(name, key)
        with host_errors(f"commit snapshot {key!r}"):
            trees.syncfs(self._tree(snapshot))
        self._index.commit(name, key)

    def remove(self, key: str) -> None:
        """Forget the snapshot, then delete its tree."""
        snapshot = self._index.forget(key)
        with host_errors(f"remove snapshot {key!r}"):
            trees.remove(self._directory(snapshot.number))

    def stat(self, key: str) -> SnapshotInfo:
        """Look it up."""
        return self._index.get(key).info

    def walk(self) -> Iterator[SnapshotInfo]:
        """Give all in the order they were made."""
        return iter([snapshot.info for snapshot in self._index.walk()])

    def usage(self, key: str) -> Usage:
        """Measure the snapshot's own directory. Blocks shared by reflink count in each copy, as du(1) has
        it.
        """
        snapshot = self._index.get(key)
        with host_errors(f"measure snapshot {key!r}"):
            return Usage(*trees.measure(self._directory(snapshot.number)))

    def _directory(self, number: int) -> Path:
        return self._snapshots / str(number)

    def _tree(self, snapshot: Snapshot) -> Path:
        """Give the directory that holds the snapshot's files."""
        if snapshot.info.kind is SnapshotKind.VIEW and snapshot.parent is not None:
            return self._directory(snapshot.parent)
        return self._directory(snapshot.number)
