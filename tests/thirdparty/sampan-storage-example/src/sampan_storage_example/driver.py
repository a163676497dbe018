"""The driver: a directory for each snapshot, and cp(1) to make one from its parent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sampan.api.config import DriverConfig
from sampan.api.driver import Probe
from sampan.api.errors import System
from sampan.api.snapshots import DirectoryDriver, host_errors, make_root, refuse_size
from sampan.api.storage import Mount, SnapshotKind, SnapshotOptions
from sampan.linux import trees


class ExampleDriver(DirectoryDriver):
    """Snapshots as directories, views too."""

    name = "example"

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

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Copy the parent."""
        self._make(key, parent, SnapshotKind.ACTIVE, options)

    def view(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        """Copy the parent; the mount is read-only."""
        self._make(key, parent, SnapshotKind.VIEW, options)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Give one bind mount."""
        snapshot = self.index.get_mountable(key)
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return (Mount("bind", str(self.directory(snapshot.number)), ("bind", access)),)

    def look(self, key: str) -> tuple[Mount, ...]:
        """Give one read-only bind mount."""
        return (Mount("bind", str(self.directory(self.index.get(key).number)), ("bind", "ro")),)

    def _make(self, key: str, parent: str | None, kind: SnapshotKind, options: SnapshotOptions) -> None:
        refuse_size(self.name, options)
        with self.index.adding(key, parent, kind, options) as snapshot, host_errors(f"make snapshot {key!r}"):
            tree = self.directory(snapshot.number)
            if snapshot.parent is None:
                make_root(tree)
                return
            try:
                self._copy(key, self.directory(snapshot.parent), tree)
            except BaseException:
                trees.remove(tree)
                raise

    def _copy(self, key: str, source: Path, target: Path) -> None:
        reflink = getattr(self.config, "reflink", "auto")
        command = ["cp", "-aT", f"--reflink={reflink}", str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise System(f"make snapshot {key!r}: {done.stderr.strip()}", remedy="free space, or set reflink to auto")
