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
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.snapshots import DirectoryDriver, Snapshot, host_errors, refuse_size
from sampan.api.storage import (
    Layer,
    Mount,
    SnapshotKind,
    SnapshotOptions,
    StorageCapability,
    Usage,
    Whiteouts,
)
from sampan.linux import trees
from sampan.linux.files import opened_directory
from sampan_storage_btrfs.changes import measure_changes
from sampan_storage_btrfs.probing import why_unsupported


class BtrfsDriver(DirectoryDriver):
    """Snapshots as subvolumes."""

    name = "btrfs"

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
        """Settle what a crash left, and make those subvolumes writable whose commit was cut off."""
        import btrfsutil

        super().open()
        with host_errors(f"open btrfs storage {self.context.root}"):
            for snapshot in self.index.walk():
                if snapshot.info.kind is SnapshotKind.ACTIVE:
                    path = self.directory(snapshot.number)
                    if btrfsutil.get_subvolume_read_only(path):
                        btrfsutil.set_subvolume_read_only(path, False)

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Snapshot the parent's subvolume, or make an empty one."""
        import btrfsutil

        refuse_size(self.name, options)
        with (
            self.index.adding(key, parent, SnapshotKind.ACTIVE, options) as snapshot,
            host_errors(f"prepare snapshot {key!r}"),
        ):
            path = self.directory(snapshot.number)
            if snapshot.parent is None:
                _make_empty(path)
            else:
                btrfsutil.create_snapshot(self.directory(snapshot.parent), path)

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty subvolume. The view of a parent shows the parent's own: it never changes."""
        refuse_size(self.name, options)
        with (
            self.index.adding(key, parent, SnapshotKind.VIEW, options) as snapshot,
            host_errors(f"make view {key!r}"),
        ):
            _make_empty(self.directory(snapshot.number))

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give one bind mount."""
        snapshot = self.index.get_mountable(key)
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return (Mount("bind", str(self._shown(snapshot)), ("bind", access)),)

    def look(self, key: str) -> tuple[Mount, ...]:
        """Give one read-only bind mount."""
        return (Mount("bind", str(self._shown(self.index.get(key))), ("bind", "ro")),)

    def apply(self, key: str, layer: Layer) -> None:
        """Unpack into the subvolume: a deletion in a layer deletes there."""
        path = self.directory(self.index.get_active(key).number)
        with host_errors(f"open snapshot {key!r}"), opened_directory(path) as directory:
            layer.unpack(directory, Whiteouts.DELETE)

    def commit(self, name: str, key: str) -> None:
        """Make the subvolume read-only, have the disk hold it, then the new name."""
        import btrfsutil

        snapshot = self.index.check_commit(name, key)
        path = self.directory(snapshot.number)
        with host_errors(f"commit snapshot {key!r}"):
            btrfsutil.set_subvolume_read_only(path, True)
            try:
                btrfsutil.sync(path)
                self.index.commit(name, key)
            except BaseException:
                btrfsutil.set_subvolume_read_only(path, False)
                raise

    def measure(self, snapshot: Snapshot) -> Usage:
        """Measure the files that differ from the parent's: each counts whole, also if only a part was
        rewritten.
        """
        path = self.directory(snapshot.number)
        if snapshot.parent is None or snapshot.info.kind is SnapshotKind.VIEW:
            return Usage(*trees.measure(path))
        return Usage(*measure_changes(path))

    def delete(self, path: Path) -> None:
        """Delete a subvolume and those that were made in it."""
        _delete(path)

    def _shown(self, snapshot: Snapshot) -> Path:
        """Give the subvolume that holds the snapshot's files."""
        if snapshot.info.kind is SnapshotKind.VIEW and snapshot.parent is not None:
            return self.directory(snapshot.parent)
        return self.directory(snapshot.number)


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
