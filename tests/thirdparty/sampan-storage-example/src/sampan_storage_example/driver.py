"""The driver: a directory for each snapshot, and cp(1) to make one from its parent."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.errors import System
from sampan.api.snapshots import SnapshotIndex, host_errors, make_root, refuse_size
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


class ExampleDriver(StorageDriver):
    """Snapshots as directories, views too."""

    name = "example"

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments."""
        super().__init__(context, config)
        self._index = SnapshotIndex(context.root / "index.db")
        self._snapshots = context.root / "snapshots"

    @classmethod
    def config_model(cls) -> type[DriverConfig]:
        """Give the model of the settings."""
        from sampan_storage_example.config import ExampleConfig

        return ExampleConfig

    @classmethod
    def probe(cls, root: Path) -> Probe:
        """Say whether there is a cp."""
        if shutil.which("cp") is None:
            return Probe(supported=False, reason="there is no program cp: install coreutils")
        return Probe(supported=True)

    def open(self) -> None:
        """Open the index and delete what no snapshot owns."""
        with host_errors(f"open example storage {self.context.root}"):
            self._snapshots.mkdir(exist_ok=True)
            self._index.open()
            for orphan in self._index.reconcile([entry.name for entry in self._snapshots.iterdir()]):
                trees.remove(self._snapshots / orphan)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Copy the parent."""
        self._make(key, parent, SnapshotKind.ACTIVE, options)

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Copy the parent; the mount is read-only."""
        self._make(key, parent, SnapshotKind.VIEW, options)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give one bind mount."""
        snapshot = self._index.get_mountable(key)
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return (Mount("bind", str(self._directory(snapshot.number)), ("bind", access)),)

    def layer_target(self, key: str) -> LayerTarget:
        """Give the whole tree."""
        return LayerTarget(self._directory(self._index.get_active(key).number), Whiteouts.DELETE)

    def commit(self, name: str, key: str) -> None:
        """Have the disk hold the tree, then the name."""
        snapshot = self._index.check_commit(name, key)
        with host_errors(f"commit snapshot {key!r}"):
            trees.syncfs(self._directory(snapshot.number))
        self._index.commit(name, key)

    def remove(self, key: str) -> None:
        """Forget first, delete after."""
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
        """Measure the copy."""
        snapshot = self._index.get(key)
        with host_errors(f"measure snapshot {key!r}"):
            return Usage(*trees.measure(self._directory(snapshot.number)))

    def _directory(self, number: int) -> Path:
        return self._snapshots / str(number)

    def _make(self, key: str, parent: str | None, kind: SnapshotKind, options: SnapshotOptions) -> None:
        refuse_size(self.name, options)
        with self._index.adding(key, parent, kind, options) as snapshot, host_errors(f"make snapshot {key!r}"):
            tree = self._directory(snapshot.number)
            if snapshot.parent is None:
                make_root(tree)
                return
            try:
                self._copy(key, self._directory(snapshot.parent), tree)
            except BaseException:
                trees.remove(tree)
                raise

    def _copy(self, key: str, source: Path, target: Path) -> None:
        reflink = getattr(self.config, "reflink", "auto")
        command = ["cp", "-aT", f"--reflink={reflink}", str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise System(f"make snapshot {key!r}: {done.stderr.strip()}", remedy="free space, or set reflink to auto")
