"""What limits the size of a snapshot: a project quota, or a file system of its own on a loop file.

Which one new snapshots get is a setting. Those that are there keep theirs, whatever the setting says now: what a snapshot has
can be seen on disk. Neither takes the place of the other silently: a loop file costs a mount and a file
system, and project quotas are there only where an administrator turned them on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.api.errors import Unsupported
from sampan.api.snapshots import Snapshot
from sampan.api.storage import Damage, SnapshotKind
from sampan.linux import trees
from sampan_storage_overlayfs import disks, projects
from sampan_storage_overlayfs.disks import Disks
from sampan_storage_overlayfs.projects import Projects

PROJECT_IDS = (0x53000000, 0x53FFFFFF)
"""The numbers that projects get by default: 16 million, far from those that people give by hand."""


class Quota:
    """The limits of one driver's snapshots, each of which has a directory in `directories`. `OSError`s are the caller's."""

    def __init__(self, root: Path, directories: Path, *, by_loop: bool, project_ids: tuple[int, int]) -> None:
        """Keep the arguments. `root` is the driver's."""
        self._root, self._directories, self._files = root, directories, root / "disks"
        self._by_loop = by_loop
        self._disks = Disks(self._files, directories)
        self._projects = Projects(*project_ids)

    def why_unsupported(self) -> str:
        """Give why new snapshots can't be limited in the way that is set, and the remedies; "" if they can."""
        if self._by_loop:
            return disks.why_unsupported()
        reason = projects.why_unsupported(self._root)
        return reason and f'{reason}: turn them on there, or set quota = "loop" in [storage.overlayfs]'

    def limit(self, directory: Path, size: int) -> None:
        """Limit a snapshot to `size` bytes. Its directory is new and empty; what is made in it then counts. `Unsupported`."""
        if reason := self.why_unsupported():
            raise Unsupported(f"limit a snapshot to {size} bytes: {reason}")
        if self._by_loop:
            self._disks.make(directory, size)
        else:
            self._projects.limit(directory, size)

    def is_by_project(self, directory: Path) -> bool:
        """Tell whether a snapshot is limited by a project quota."""
        return projects.is_limited(directory)

    def reach(self, directory: Path) -> None:
        """Have what the snapshot holds at its directory, also after a reboot or a `close`."""
        self._disks.mount(directory)

    def make_room(self, directory: Path) -> None:
        """Have a full snapshot mountable once more."""
        self._disks.make_room(directory)
        self._projects.make_room(directory)

    def measure(self, directory: Path, name: str) -> tuple[int, int]:
        """Measure `directory`/`name`: bytes on the host, for a loop file all that it occupies, and inodes."""
        size, inodes = trees.measure(directory / name)
        return (self._disks.allocated(directory) if self._disks.has(directory) else size), inodes

    @contextmanager
    def committing(self, directory: Path, name: str) -> Iterator[None]:
        """Have the disk hold `directory`/`name` before the block, which commits. A loop file does not become a layer, under which a
        mount would have to be for as long as any container uses it: it is copied out, and its copy takes its place after the block.
        """
        if self._disks.has(directory):
            with self._disks.becoming_plain(directory, name):
                yield
        else:
            trees.syncfs(directory)
            yield

    def release(self, directory: Path) -> None:
        """Give up what limits a snapshot, before its directory is deleted; nothing there is no error."""
        self._disks.delete(directory)
        self._projects.unlimit(directory)

    def open(self, snapshots: Iterable[Snapshot]) -> None:
        """Finish or undo what a crash broke off while it was committed: the index says which."""
        self._disks.open({str(one.number) for one in snapshots if one.info.kind is SnapshotKind.COMMITTED})

    def check(self) -> Iterator[Damage]:
        """Name loop files that no snapshot owns (a repair deletes them), and loop devices that outlived their file."""
        for path in self._disks.orphans():
            yield Damage(str(path), "no snapshot owns it", "delete it", repairable=True)
        for device in self._disks.outlived():
            remedy = "end the processes that still use it: then its space is free"
            yield Damage(device, "it holds the file of a snapshot that was removed", remedy, repairable=False)

    def mend(self, damage: Damage) -> bool:
        """Delete the loop file that a damage is about; tell whether it is about one."""
        file = Path(damage.subject)
        if file.parent != self._files:
            return False
        self._disks.delete(self._directories / file.stem)
        return True

    def close(self) -> None:
        """Let go of all mounts; running containers keep theirs."""
        self._disks.close()
