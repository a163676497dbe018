"""overlayfs: each snapshot is a directory of changes; the kernel stacks them.

Under `context.root`:

    index.db                which snapshots there are (`sampan.api.snapshots`)
    snapshots/<n>/fs/       what snapshot n adds to its parent, in overlay's own form of deletions
    snapshots/<n>/work/     the kernel's scratch directory for an active one

A snapshot is recorded after its directories are there and forgotten before they are deleted; `open` deletes
those that the index does not know. Why the mount options are what they are: docs/adr/0061-overlay-options.md.

The kernel lets one upper directory be mounted twice without a word, and the result is undefined. The engine
runs one operation at a time for a container and mounts its snapshot once; this driver makes no mount and
takes no lock.

Source: the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.errors import Unsupported
from sampan.api.snapshots import DirectoryDriver, Snapshot, host_errors, make_root, refuse_size
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
from sampan.linux import trees
from sampan.linux.files import opened_directory
from sampan.linux.mounts import open_root
from sampan_storage_overlayfs.changes import compare_upper
from sampan_storage_overlayfs.probing import why_unsupported

MAX_LAYERS = 500
"""The kernel's OVL_MAX_STACK, fs/overlayfs/params.h."""

BASE_OPTIONS = ("index=off", "metacopy=off", "redirect_dir=nofollow")


class OverlayfsDriver(DirectoryDriver):
    """Snapshots as overlay layers."""

    name = "overlayfs"

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; `open` is the first to touch anything."""
        super().__init__(context, config)
        self._volatile: bool = getattr(config, "volatile", False)

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of the settings."""
        from sampan_storage_overlayfs.config import OverlayfsConfig

        return OverlayfsConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Make a small overlay under `root`, attached nowhere, and delete a file through it."""
        if reason := why_unsupported(root, BASE_OPTIONS):
            return Probe(supported=False, reason=reason)
        return Probe(supported=True, capabilities=frozenset({StorageCapability.SHARES_BLOCKS, StorageCapability.NATIVE_DIFF}))

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make the two directories. Also `Unsupported` on top of more than 500 layers, the kernel's limit."""
        self._add(key, parent, SnapshotKind.ACTIVE, options)

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty layer, which only the view of nothing shows. `Unsupported` as for `prepare`."""
        self._add(key, parent, SnapshotKind.VIEW, options)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give an overlay of all layers, or a bind mount where there is only one."""
        snapshot = self.index.get_mountable(key)
        number = snapshot.number
        lower = [str(self._fs(ancestor)) for ancestor in self.index.ancestors(number)[1:]]
        if snapshot.info.kind is SnapshotKind.VIEW:
            if len(lower) < 2:
                return (Mount("bind", lower[0] if lower else str(self._fs(number)), ("bind", "ro")),)
            return (Mount("overlay", "overlay", ("ro", *_stacked(lower), *BASE_OPTIONS)),)
        if not lower:
            return (Mount("bind", str(self._fs(number)), ("bind", "rw")),)
        directories = (f"upperdir={self._fs(number)}", f"workdir={self._work(number)}")
        options = (*_stacked(lower), *directories, *BASE_OPTIONS)
        if snapshot.volatile:
            options = (*options, "volatile")
            self._allow_another_mount(snapshot)
        return (Mount("overlay", "overlay", options),)

    def look(self, key: str) -> tuple[Mount, ...]:
        """Give a read-only overlay in which the snapshot's own changes are the uppermost of the lower layers."""
        snapshot = self.index.get(key)
        layers = [str(self._fs(number)) for number in self.index.ancestors(snapshot.number)]
        if len(layers) < 2:
            return (Mount("bind", layers[0], ("bind", "ro")),)
        return (Mount("overlay", "overlay", ("ro", *_stacked(layers), *BASE_OPTIONS)),)

    def apply(self, key: str, layer: Layer) -> None:
        """Unpack into the directory of changes; the lowest layer has nothing under it to hide, so there deletions
        delete.
        """
        snapshot = self.index.get_active(key)
        whiteouts = Whiteouts.DELETE if snapshot.parent is None else Whiteouts.OVERLAY
        with host_errors(f"open snapshot {key!r}"), opened_directory(self._fs(snapshot.number)) as directory:
            layer.unpack(directory, whiteouts)

    def diff(self, key: str) -> Iterator[Change]:
        """Walk the directory of changes alone; a first layer adds all that is in it."""
        parent = self.stat(key).parent
        if parent is None:
            yield from super().diff(key)
            return
        upper = self._fs(self.index.get(key).number)
        with (
            host_errors(f"compare snapshot {key!r} with its parent"),
            open_root(self.look(parent)) as old,
            open_root(self.look(key)) as new,
            opened_directory(upper) as record,
        ):
            yield from compare_upper(old, new, record)

    def measure(self, snapshot: Snapshot) -> Usage:
        """Measure the directory of changes; the kernel's scratch directory does not count."""
        return Usage(*trees.measure(self._fs(snapshot.number)))

    def _add(self, key: str, parent: str | None, kind: SnapshotKind, options: SnapshotOptions) -> None:
        refuse_size(self.name, options)
        if self._volatile and kind is SnapshotKind.ACTIVE:
            options = SnapshotOptions(volatile=True, labels=options.labels)
        with (
            self.index.adding(key, parent, kind, options) as snapshot,
            host_errors(f"make snapshot {key!r}"),
        ):
            if snapshot.parent is not None:
                self._refuse_tall_stack(key, snapshot.parent)
            try:
                self._make_directories(snapshot)
            except BaseException:
                trees.remove(self.directory(snapshot.number))
                raise

    def _make_directories(self, snapshot: Snapshot) -> None:
        fs = self._fs(snapshot.number)
        self.directory(snapshot.number).mkdir()
        make_root(fs)
        if snapshot.info.kind is SnapshotKind.ACTIVE:
            self._work(snapshot.number).mkdir()
        if snapshot.parent is not None:
            _copy_root_metadata(self._fs(snapshot.parent), fs)

    def _refuse_tall_stack(self, key: str, parent: int) -> None:
        height = len(self.index.ancestors(parent))
        if height > MAX_LAYERS:
            raise Unsupported(
                f"make snapshot {key!r} on {height} layers: overlay stacks at most {MAX_LAYERS}",
                remedy="squash the image, or use the storage driver btrfs or vfs",
            )

    def _allow_another_mount(self, snapshot: Snapshot) -> None:
        """Take away the kernel's mark that a volatile mount was here: it refuses a second mount while it is
        there.

        The mark warns of contents torn by a crash, and such contents are what the caller agreed to.
        """
        with host_errors(f"mount snapshot {snapshot.info.key!r} again"):
            trees.remove(self._work(snapshot.number) / "work" / "incompat")

    def _fs(self, number: int) -> Path:
        return self.directory(number) / "fs"

    def _work(self, number: int) -> Path:
        return self.directory(number) / "work"


def _stacked(lower: list[str]) -> list[str]:
    """Give the layers as mount options, topmost first: one option each, so that no path is too long or needs
    quoting.
    """
    return [f"lowerdir+={path}" for path in lower]


def _copy_root_metadata(source: Path, target: Path) -> None:
    """Give a new upper directory what its parent's root has: overlay shows the upper's, not the lower's."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    for attribute in os.listxattr(source):
        if not attribute.startswith("trusted.overlay."):
            os.setxattr(target, attribute, os.getxattr(source, attribute))
    target.chmod(status.st_mode & 0o7777)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
