"""vfs: every snapshot is a whole copy of its parent. Slow without reflinks, but it works on every file
system.

This is the driver to read first if you write one (docs/how-to/write-a-storage-driver.md). Its base class keeps the index
and one directory for each snapshot; here the directory is the whole tree, and all that is left to say is how a tree is
made and shown.
"""

from __future__ import annotations

from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.snapshots import DirectoryDriver, Snapshot, host_errors, make_root, refuse_size
from sampan.api.storage import Layer, Mount, SnapshotKind, SnapshotOptions, StorageCapability, Whiteouts
from sampan.linux import idmap, trees
from sampan.linux.copying import copy_tree, shares_blocks_below
from sampan.linux.files import nearest_directory, opened_directory


class VfsDriver(DirectoryDriver):
    """Snapshots as plain directories and their copies."""

    name = "vfs"

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of the settings."""
        from sampan_storage_vfs.config import VfsConfig

        return VfsConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Say yes: there is nothing that a host could lack. What the file system can do beyond that is tried."""
        place = nearest_directory(root)
        tried = {
            StorageCapability.SHARES_BLOCKS: shares_blocks_below(place),
            StorageCapability.IDMAP: idmap.works_below(place),
        }
        return Probe(supported=True, capabilities=frozenset(part for part, works in tried.items() if works))

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Copy the parent's tree, or make an empty one."""
        refuse_size(self.name, options)
        with self.index.adding(key, parent, SnapshotKind.ACTIVE, options) as snapshot:
            tree = self.directory(snapshot.number)
            with host_errors(f"prepare snapshot {key!r}"):
                try:
                    if snapshot.parent is None:
                        make_root(tree)
                    else:
                        copy_tree(self.directory(snapshot.parent), tree)
                except BaseException:
                    trees.remove(tree)
                    raise

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty directory. The view of a parent shows the parent's own tree: it never changes."""
        refuse_size(self.name, options)
        with (
            self.index.adding(key, parent, SnapshotKind.VIEW, options) as snapshot,
            host_errors(f"make view {key!r}"),
        ):
            make_root(self.directory(snapshot.number))

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give one bind mount."""
        snapshot = self.index.get_mountable(key)
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return (Mount("bind", str(self._tree(snapshot)), ("bind", access)),)

    def look(self, key: str) -> tuple[Mount, ...]:
        """Give one read-only bind mount."""
        return (Mount("bind", str(self._tree(self.index.get(key))), ("bind", "ro")),)

    def apply(self, key: str, layer: Layer) -> None:
        """Unpack into the tree itself."""
        tree = self.directory(self.index.get_active(key).number)
        with host_errors(f"open snapshot {key!r}"), opened_directory(tree) as directory:
            layer.unpack(directory, Whiteouts.DELETE)

    def _tree(self, snapshot: Snapshot) -> Path:
        """Give the directory that holds the snapshot's files."""
        if snapshot.info.kind is SnapshotKind.VIEW and snapshot.parent is not None:
            return self.directory(snapshot.parent)
        return self.directory(snapshot.number)
