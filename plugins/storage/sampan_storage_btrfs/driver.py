"""btrfs: each snapshot is a subvolume; a child is a writable snapshot of its parent's.

Under `context.root`, which must lie on btrfs:

    index.db            which snapshots there are (`sampan.api.snapshots`)
    snapshots/<n>/      the subvolume of snapshot number n; read-only once it is committed
    qgroups/            which quota groups are ours, where snapshots are limited (`quotas`)

The file system makes and deletes a subvolume in one step, so there are no half-made ones. A subvolume is
recorded after it is made and forgotten before it is deleted; `open` deletes those that the index does not
know.

What a container makes in its subvolume may be subvolumes too. They are deleted with it, but a child has an empty directory
in their place: btrfs' snapshots end where another subvolume begins.

The work is done by btrfs-progs' library through its Python module `btrfsutil`, which is imported only when
needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.errors import Unsupported
from sampan.api.snapshots import DirectoryDriver, Snapshot, host_errors
from sampan.api.storage import (
    Change,
    Layer,
    Mount,
    SnapshotKind,
    SnapshotOptions,
    StorageCapability,
    StorageContext,
    Usage,
    Whiteouts,
)
from sampan.linux import idmap, trees
from sampan.linux.files import nearest_directory, opened_directory
from sampan.linux.mounts import open_root
from sampan_storage_btrfs.changes import compare_snapshot, has_nested, measure_changes
from sampan_storage_btrfs.probing import why_unsupported
from sampan_storage_btrfs.quotas import Quotas


class BtrfsDriver(DirectoryDriver):
    """Snapshots as subvolumes."""

    name = "btrfs"

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; `open` is the first to touch anything."""
        super().__init__(context, config)
        self._quotas = Quotas(context.root, may_enable=getattr(config, "quotas", False))

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
        shifted = {StorageCapability.IDMAP} if idmap.works_below(nearest_directory(root)) else set()
        found = frozenset({StorageCapability.SHARES_BLOCKS, StorageCapability.NATIVE_DIFF, *shifted})
        return Probe(supported=True, capabilities=found)

    def capabilities(self, probed: frozenset[str]) -> frozenset[str]:
        """Add QUOTA, where the file system's simple quotas are on or may be turned on."""
        return probed if self._quotas.why_unsupported() else probed | {StorageCapability.QUOTA}

    def open(self) -> None:
        """Settle what a crash left, and make those subvolumes writable whose commit was cut off."""
        import btrfsutil

        super().open()
        with host_errors(f"open btrfs storage {self.context.root}"):
            self._quotas.open()
            for snapshot in self.index.walk():
                if snapshot.info.kind is SnapshotKind.ACTIVE:
                    path = self.directory(snapshot.number)
                    if btrfsutil.get_subvolume_read_only(path):
                        btrfsutil.set_subvolume_read_only(path, False)

    def close(self) -> None:
        """Close the index."""
        super().close()
        with host_errors(f"close btrfs storage {self.context.root}"):
            self._quotas.close()

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Snapshot the parent's subvolume, or make an empty one."""
        import btrfsutil

        self._refuse_size(key, options)
        with (
            self.index.adding(key, parent, SnapshotKind.ACTIVE, options) as snapshot,
            host_errors(f"prepare snapshot {key!r}"),
        ):
            path = self.directory(snapshot.number)
            if snapshot.parent is None:
                _make_empty(path)
            else:
                btrfsutil.create_snapshot(self.directory(snapshot.parent), path)
            if options.size is not None:
                try:
                    self._quotas.limit(path, options.size)
                except BaseException:
                    self.delete(path)
                    raise

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty subvolume. The view of a parent shows the parent's own: it never changes."""
        self._refuse_size(key, options)
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

    def diff(self, key: str) -> Iterator[Change]:
        """Look only at what the file system's tree has as changed; at everything in a first layer, and where a container made
        subvolumes.
        """
        snapshot = self.index.get(key)
        if snapshot.parent is None or self._has_nested(snapshot):
            yield from super().diff(key)
        elif snapshot.info.kind is not SnapshotKind.VIEW:  # a view shows its parent
            assert snapshot.info.parent is not None
            with (
                host_errors(f"compare snapshot {key!r} with its parent"),
                open_root(self.look(snapshot.info.parent)) as old,
                open_root(self.look(key)) as new,
            ):
                yield from compare_snapshot(old, new)

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
        return Usage(*measure_changes(self.directory(snapshot.parent), path))

    def delete(self, path: Path) -> None:
        """Delete a subvolume and those that were made in it, or what is not one. Their quota groups go later."""
        import btrfsutil

        if not os.path.lexists(path):
            return
        if not btrfsutil.is_subvolume(path):
            trees.remove(path)
            return
        subvolumes = {path: btrfsutil.subvolume_id(path)}
        for below, number in btrfsutil.SubvolumeIterator(path):
            subvolumes[path / below] = number
        self._quotas.releasing(subvolumes.values())
        for subvolume in subvolumes:
            if btrfsutil.get_subvolume_read_only(subvolume):  # none could be deleted in it
                btrfsutil.set_subvolume_read_only(subvolume, False)
        btrfsutil.delete_subvolume(path, recursive=True)

    def _refuse_size(self, key: str, options: SnapshotOptions) -> None:
        if options.size is not None and (reason := self._quotas.why_unsupported()):
            raise Unsupported(f"limit snapshot {key!r} to {options.size} bytes: {reason}")

    def _has_nested(self, snapshot: Snapshot) -> bool:
        assert snapshot.parent is not None
        with host_errors(f"look for subvolumes in snapshot {snapshot.info.key!r}"):
            return any(has_nested(self.directory(number)) for number in (snapshot.number, snapshot.parent))

    def _shown(self, snapshot: Snapshot) -> Path:
        """Give the subvolume that holds the snapshot's files."""
        if snapshot.info.kind is SnapshotKind.VIEW and snapshot.parent is not None:
            return self.directory(snapshot.parent)
        return self.directory(snapshot.number)


def _make_empty(path: Path) -> None:
    import btrfsutil

    btrfsutil.create_subvolume(path)
    path.chmod(0o755)
