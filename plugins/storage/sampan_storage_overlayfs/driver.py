"""overlayfs: each snapshot is a directory of changes; the kernel stacks them.

Under `context.root`:

    index.db                which snapshots there are (`sampan.api.snapshots`)
    snapshots/<n>/fs/       what snapshot n adds to its parent, in overlay's own form of deletions
    snapshots/<n>/work/     the kernel's scratch directory for an active one
    disks/                  file systems of snapshots with a size, where that is set (`disks`)

A snapshot is recorded after its directories are there and forgotten before they are deleted; `open` deletes
those that the index does not know. Why the mount options are what they are: docs/adr/0061-overlay-options.md.

The kernel lets one upper directory be mounted twice without a word, and the result is undefined. So the mount of an active snapshot
has a lock: its `work` directory, which whoever makes the mount holds (`Mount.lock`, docs/adr/0064-locks-of-mounts.md).

Source: the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.snapshots import DirectoryDriver, Snapshot, host_errors, make_root
from sampan.api.storage import (
    Change,
    Damage,
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
from sampan.linux.mounts import locked, open_root
from sampan_storage_overlayfs.changes import compare_upper
from sampan_storage_overlayfs.probing import try_overlay
from sampan_storage_overlayfs.quota import PROJECT_IDS, Quota

MAX_LAYERS = 500
"""The kernel's OVL_MAX_STACK, fs/overlayfs/params.h."""

FS = "fs"
"""The directory of changes in a snapshot's own."""

BASE_OPTIONS = ("index=off", "metacopy=off", "redirect_dir=nofollow")

EXTRAS = ("metacopy", "redirect_dir")
"""Settings by which layers get a form that only mounts with the same setting can read."""


class OverlayfsDriver(DirectoryDriver):
    """Snapshots as overlay layers."""

    name = "overlayfs"

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; `open` is the first to touch anything."""
        super().__init__(context, config)
        self._volatile: bool = getattr(config, "volatile", False)
        self._extras = tuple(name for name in EXTRAS if getattr(config, name, False))
        self._options = tuple(_with(self._extras, option) for option in BASE_OPTIONS)
        by_loop, project_ids = getattr(config, "quota", "project") == "loop", getattr(config, "project_ids", PROJECT_IDS)
        self._quota = Quota(context.root, self.directories, by_loop=by_loop, project_ids=project_ids)

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of the settings."""
        from sampan_storage_overlayfs.config import OverlayfsConfig

        return OverlayfsConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Make a small overlay under `root`, attached nowhere, and delete a file through it."""
        found = try_overlay(root, BASE_OPTIONS)
        if found.reason:
            return Probe(supported=False, reason=found.reason)
        idmap = {StorageCapability.IDMAP} if found.shifts_owners else set()
        return Probe(supported=True, capabilities=frozenset({StorageCapability.SHARES_BLOCKS, StorageCapability.NATIVE_DIFF} | idmap))

    def capabilities(self, probed: frozenset[str]) -> frozenset[str]:
        """Add QUOTA, where snapshots can be limited in the way that is set."""
        return probed if self._quota.why_unsupported() else probed | {StorageCapability.QUOTA}

    def open(self) -> None:
        """Settle what a crash left, commits of limited snapshots too.

        `InvalidArgument` where layers have been made with `metacopy` or `redirect_dir` and the setting is now off.
        """
        super().open()
        self._keep_to_extras()
        with host_errors(f"open {self.name} storage {self.context.root}"):
            self._quota.open(self.index.walk())

    def close(self) -> None:
        """Close the index, and let go of what limited snapshots have mounted."""
        super().close()
        with host_errors(f"close {self.name} storage {self.context.root}"):
            self._quota.close()

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make the two directories. Also `Unsupported` on top of more than 500 layers, the kernel's limit."""
        self._add(key, parent, SnapshotKind.ACTIVE, options)

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Make an empty layer, which only the view of nothing shows. `Unsupported` as for `prepare`."""
        self._add(key, parent, SnapshotKind.VIEW, options)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give an overlay of all layers, or a bind mount where there is only one."""
        snapshot = self._reached(self.index.get_mountable(key))
        number = snapshot.number
        lower = [str(self._fs(ancestor)) for ancestor in self.index.ancestors(number)[1:]]
        if snapshot.info.kind is SnapshotKind.VIEW:
            if len(lower) < 2:
                return (Mount("bind", lower[0] if lower else str(self._fs(number)), ("bind", "ro")),)
            return (Mount("overlay", "overlay", ("ro", *_stacked(lower), *self._options)),)
        with host_errors(f"make room in snapshot {key!r}"):
            self._quota.make_room(self.directory(number))
        if not lower:
            if not self._quota.is_by_project(self.directory(number)):
                return (Mount("bind", str(self._fs(number)), ("bind", "rw"), lock=str(self._work(number))),)
            lower = [str(self._make_empty_layer(number))]
        directories = (f"upperdir={self._fs(number)}", f"workdir={self._work(number)}")
        options = (*_stacked(lower), *directories, *self._options)
        if snapshot.volatile:
            options = (*options, "volatile")
            self._allow_another_mount(snapshot)
        return (Mount("overlay", "overlay", options, lock=str(self._work(number))),)

    def look(self, key: str) -> tuple[Mount, ...]:
        """Give a read-only overlay in which the snapshot's own changes are the uppermost of the lower layers."""
        snapshot = self._reached(self.index.get(key))
        layers = [str(self._fs(number)) for number in self.index.ancestors(snapshot.number)]
        if len(layers) < 2:
            return (Mount("bind", layers[0], ("bind", "ro")),)
        return (Mount("overlay", "overlay", ("ro", *_stacked(layers), *self._options)),)

    def apply(self, key: str, layer: Layer) -> None:
        """Unpack into the directory of changes; the lowest layer has nothing under it to hide, so there deletions
        delete. `System` while it is mounted.
        """
        snapshot = self._reached(self.index.get_active(key))
        whiteouts = Whiteouts.DELETE if snapshot.parent is None else Whiteouts.OVERLAY
        with (
            host_errors(f"write a layer into snapshot {key!r}"),
            locked(self.mounts(key)),
            opened_directory(self._fs(snapshot.number)) as directory,
        ):
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
        """Measure the directory of changes; the kernel's scratch directory does not count. A file system of its own counts as a whole."""
        return Usage(*self._quota.measure(self.directory(self._reached(snapshot).number), FS))

    def commit(self, name: str, key: str) -> None:
        """Have the disk hold the files, then the new name. What is on a file system of its own is copied out of it."""
        directory = self.directory(self._reached(self.index.check_commit(name, key)).number)
        with host_errors(f"commit snapshot {key!r}"), self._quota.committing(directory, FS):
            self.index.commit(name, key)

    def check(self) -> Iterator[Damage]:
        """Look at the directories, and at what limits snapshots."""
        yield from super().check()
        with host_errors(f"check {self.name} storage {self.context.root}"):
            yield from self._quota.check()

    def mend(self, damage: Damage) -> None:
        """Do what the remedy says."""
        with host_errors(f"mend {damage.subject}"):
            mended = self._quota.mend(damage)
        if not mended:
            super().mend(damage)

    def delete(self, path: Path) -> None:
        """Delete a snapshot's directory, and what limits it. Raises `OSError`."""
        self._quota.release(path)
        super().delete(path)

    def _add(self, key: str, parent: str | None, kind: SnapshotKind, options: SnapshotOptions) -> None:
        if options.size is not None and (reason := self._quota.why_unsupported()):
            raise Unsupported(f"limit snapshot {key!r} to {options.size} bytes: {reason}")
        if self._volatile and kind is SnapshotKind.ACTIVE:
            options = dataclasses.replace(options, volatile=True)
        with (
            self.index.adding(key, parent, kind, options) as snapshot,
            host_errors(f"make snapshot {key!r}"),
        ):
            if snapshot.parent is not None:
                self._refuse_tall_stack(key, snapshot.parent)
            try:
                self._make_directories(snapshot, options.size)
            except BaseException:
                self.delete(self.directory(snapshot.number))
                raise

    def _make_directories(self, snapshot: Snapshot, size: int | None) -> None:
        fs = self._fs(snapshot.number)
        self.directory(snapshot.number).mkdir()
        if size is not None and snapshot.info.kind is SnapshotKind.ACTIVE:
            self._quota.limit(self.directory(snapshot.number), size)
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

    def _keep_to_extras(self) -> None:
        """Note what layers may have from now on, and refuse to read wrongly what they have already."""
        for name in EXTRAS:
            mark = self.context.root / f"uses-{name}"
            if name in self._extras:
                with host_errors(f"open {self.name} storage {self.context.root}"):
                    mark.touch()
            elif mark.exists():
                if not self.index.walk():
                    mark.unlink()
                    continue
                self.close()
                raise InvalidArgument(
                    f"open {self.name} storage {self.context.root}: there are layers made with {name}, and it is off",
                    remedy=f"set {name} = true in [storage.overlayfs] again",
                )

    def _allow_another_mount(self, snapshot: Snapshot) -> None:
        """Take away the kernel's mark that a volatile mount was here: it refuses a second mount while it is
        there.

        The mark warns of contents torn by a crash, and such contents are what the caller agreed to.
        """
        with host_errors(f"mount snapshot {snapshot.info.key!r} again"):
            trees.remove(self._work(snapshot.number) / "work" / "incompat")

    def _reached(self, snapshot: Snapshot) -> Snapshot:
        """Have the snapshot's files at its directory: one with a file system of its own may not be mounted here yet."""
        with host_errors(f"mount the file system of snapshot {snapshot.info.key!r}"):
            self._quota.reach(self.directory(snapshot.number))
        return snapshot

    def _make_empty_layer(self, number: int) -> Path:
        """Give something to lay a first snapshot over: overlay is under every quota, a process with CAP_SYS_RESOURCE is not."""
        empty = self.directory(number) / "empty"
        with host_errors(f"make an empty layer under snapshot {number}"):
            empty.mkdir(exist_ok=True)
        return empty

    def _fs(self, number: int) -> Path:
        return self.directory(number) / FS

    def _work(self, number: int) -> Path:
        return self.directory(number) / "work"


def _with(extras: Collection[str], option: str) -> str:
    name = option.partition("=")[0]
    return f"{name}=on" if name in extras else option


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
