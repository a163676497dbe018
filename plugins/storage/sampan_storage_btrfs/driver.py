"""btrfs: each snapshot is a subvolume; a child is a writable snapshot of its parent's.

Under `context.root`, which must lie on btrfs:

    index.db            which snapshots there are (`sampan.api.snapshots`)
    snapshots/<n>/      the subvolume of snapshot number n; read-only once it is committed

The file system makes and deletes a subvolume in one step, so there are no half-made ones. A subvolume is
recorded after it is made and forgotten before it is deleted; `open` deletes those that the index does not
know.

The work is done by btrfs-progs' library through its Python module `btrfsutil`, which is imported only when
needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.snapshots import Snapshot, SnapshotIndex, host_errors, refuse_size
from sampan.api.storage import (
    LayerTarget,
    Mount,
    SnapshotInfo,
    SnapshotKind,
    SnapshotOptions,
    StorageCapability,
    StorageContext,
    StorageDriver,
    Usage,
    Whiteouts,
)
from sampan.linux import trees
from sampan_storage_btrfs.changes import measure_changes
from sampan_storage_btrfs.probing import why_unsupported


class BtrfsDriver(StorageDriver):
    """Snapshots as subvolumes."""

    name = "btrfs"

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; `open` is the first to touch anything."""
        super().__init__(context, config)
        self._index = SnapshotIndex(context.root / "index.db")
        self._snapshots = context.root / "snapshots"

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of the settings."""
        from sampan_storage_btrfs.config import BtrfsConfig

        return BtrfsConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Look at the file system and the library, then make and delete a subvolume under `root`."""
        if reason := why_unsupported(root):
            return Probe(supported=False, reason=reason)
        return Probe(supported=True, capabilities=frozenset({StorageCapability.SHARES_BLOCKS}))

    def open(self) -> None:
        """Open the index, delete subvolumes without an owner, and make those writable whose commit was cut
        off.
        """
        import btrfsutil

        with host_errors(f"open btrfs storage {self.context.root}"):
            self._snapshots.mkdir(exist_ok=True)
            self._index.open()
            for orphan in self._index.reconcile([entry.name for entry in self._snapshots.iterdir()]):
                _delete(self._snapshots / orphan)
            for snapshot in self._index.walk():
                if snapshot.info.kind is SnapshotKind.ACTIVE:
                    path = self._subvolume(snapshot.number)
                    if btrfsutil.get_subvolume_read_only(path):
                        btrfsutil.set_subvolume_read_only(path, False)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Snapshot the parent's subvolume, or make an empty one."""
        import btrfsutil

        refuse_size(self.name, options)
        with (
            self._index.adding(key, parent, SnapshotKind.ACTIVE, options) as snapshot,
            host_errors(f"prepare snapshot {key!r}"),
        ):
            path = self._subvolume(snapshot.number)
            if snapshot.parent is None:
                _make_empty(path)
            else:
                btrfsutil.create_snapshot(self._subvolume(snapshot.parent), path)

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty subvolume. The view of a parent shows the parent's own: it never changes."""
        refuse_size(self.name, options)
        with (
            self._index.adding(key, parent, SnapshotKind.VIEW, options) as snapshot,
            host_errors(f"make view {key!r}"),
        ):
            _make_empty(self._subvolume(snapshot.number))

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give one bind mount."""
        snapshot = self._index.get_mountable(key)
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return (Mount("bind", str(self._shown(snapshot)), ("bind", access)),)

    def layer_target(self, key: str) -> LayerTarget:
        """Give the subvolume: a deletion in a layer deletes there."""
        return LayerTarget(self._subvolume(self._index.get_active(key).number), Whiteouts.DELETE)

    def commit(self, name: str, key: str) -> None:
        """Make the subvolume read-only, have the disk hold it, then the new name."""
        import btrfsutil

        snapshot = self._index.check_commit(name, key)
        path = self._subvolume(snapshot.number)
        with host_errors(f"commit snapshot {key!r}"):
            btrfsutil.set_subvolume_read_only(path, True)
            try:
                btrfsutil.sync(path)
                self._index.commit(name, key)
            except BaseException:
                btrfsutil.set_subvolume_read_only(path, False)
                raise

    def remove(self, key: str) -> None:
        """Forget the snapshot, then delete its subvolume, and those that were made in it."""
        snapshot = self._index.forget(key)
        with host_errors(f"remove snapshot {key!r}"):
            _delete(self._subvolume(snapshot.number))

    def stat(self, key: str) -> SnapshotInfo:
        """Look it up."""
        return self._index.get(key).info

    def walk(self) -> Iterator[SnapshotInfo]:
        """Give all in the order they were made."""
        return iter([snapshot.info for snapshot in self._index.walk()])

    def usage(self, key: str) -> Usage:
        """Measure the files that differ from the parent's: each counts whole, also if only a part was
        rewritten.
        """
        snapshot = self._index.get(key)
        path = self._subvolume(snapshot.number)
        with host_errors(f"measure snapshot {key!r}"):
            if snapshot.parent is None or snapshot.info.kind is SnapshotKind.VIEW:
                return Usage(*trees.measure(path))
            return Usage(*measure_changes(path))

    def _subvolume(self, number: int) -> Path:
        return self._snapshots / str(number)

    def _shown(self, snapshot: Snapshot) -> Path:
        """Give the subvolume that holds the snapshot's files."""
        if snapshot.info.kind is SnapshotKind.VIEW and snapshot.parent is not None:
            return self._subvolume(snapshot.parent)
        return self._subvolume(snapshot.number)


def _make_empty(path: Path) -> None:
    import btrfsutil

    btrfsutil.create_subvolume(path)
    path.chmod(0o755)


def _delete(path: Path) -> None:
    """Delete a subvolume and those nested in it, or what is not one."""
    import btrfsutil

    if not os.path.lexists(path):
        return
    if btrfsutil.is_subvolume(path):
        btrfsutil.delete_subvolume(path, recursive=True)
    else:
        trees.remove(path)
