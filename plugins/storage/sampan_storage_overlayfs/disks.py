"""Snapshots of a limited size as small file systems of their own: an ext4 on a loop file, mounted at the snapshot's directory.

    disks/<n>.ext4      the file, sparse, of the size asked for
    disks/<n>.plain/    while n is being committed: the copy that will be its directory
    snapshots/<n>/      where it is mounted; what the driver keeps in there has the same paths as in any snapshot
    snapshots/<n>/room/ in it: what is kept back for the next mount of a full one

Nothing is recorded but the file itself: where it is, the snapshot is limited. The mount is made when it is needed
(`mount`), so that a reboot, a `close` or another mount namespace change nothing. All mounts of a file go
by one loop device and so show one file system, whoever made them (`sampan.linux.loops`); the kernel lets go of the device
with the last of them, so a container that runs on while the daemon is away keeps what it needs and nothing more.

Why, and what it costs: docs/adr/0066-limited-snapshots-on-loop-files.md.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.api.errors import System, Unsupported
from sampan.linux import copying, loops, trees
from sampan.linux.mounts import MNT_DETACH, UMOUNT_NOFOLLOW, Mount, attach, open_mount, umount

MINIMUM = 1 << 20
"""Bytes: the smallest file that holds an ext4 which is still of use."""

_ROOM_FILES = 8
_ROOM_FILE = 8 << 10  # bytes
"""What a mount of overlay, and the marks of the first deletions, may need of blocks and inodes."""

_MKFS_SECONDS = 60
_PATIENCE = 1.0  # seconds
_FORMAT = (
    "-q", "-F", "-m", "0", "-O", "ea_inode,^resize_inode", "-e", "remount-ro",
    "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
)  # fmt: skip
"""No blocks kept for root, attributes as large as any, and nothing written that a sparse file has already: zeros."""

_OPTIONS = ("noatime", "discard", "noinit_itable")
"""`discard`: what is deleted inside is given back to the host."""


class Disks:
    """The loop files of one driver. Its methods may be called from any thread, for different snapshots at once."""

    def __init__(self, root: Path, directories: Path) -> None:
        """`root` will hold the files; `directories` holds the snapshots' directories."""
        self._root = root
        self._directories = directories
        self._lock = threading.Lock()

    def open(self, committed: Collection[str]) -> None:
        """Make `root`; finish what `becoming_plain` was in when a crash came, for directories of these names, undo it for others.
        Raises `OSError`.
        """
        self._root.mkdir(mode=0o700, exist_ok=True)
        for path in self._files(".plain*"):
            name, _, state = path.name.partition(".")
            if state == "plain" and name in committed:
                self._settle(self._directories / name)
            else:
                trees.remove(path)

    def make(self, directory: Path, size: int) -> None:
        """Put a new file system of `size` bytes at an empty directory. Raises `OSError`, `Unsupported` (too small), `System`."""
        if size < MINIMUM:
            raise Unsupported(f"a limit of {size} bytes: an ext4 on a loop file has at least {MINIMUM}", remedy="ask for more")
        _make_filesystem(self._file(directory), size)
        self.mount(directory)
        _keep_room(directory / "room")

    def has(self, directory: Path) -> bool:
        """Tell whether the snapshot at `directory` is limited by a loop file."""
        return self._file(directory).exists()

    def mount(self, directory: Path) -> None:
        """Have the snapshot's file system at its directory, if it has one. Raises `OSError`."""
        if not self.has(directory) or _is_mounted(directory):
            return
        with self._lock:
            if _is_mounted(directory):
                return
            with loops.open_device(self._file(directory)) as device:
                fd = open_mount(Mount("ext4", device, _OPTIONS))
                try:
                    attach(fd, directory)
                finally:
                    os.close(fd)

    def make_room(self, directory: Path) -> None:
        """Give up what is kept back in a full file system, keep it back again in one that has space. Raises `OSError`.

        Without it the next mount would fail, or be read-only, and nothing could be deleted.
        """
        if not self.has(directory):
            return
        room, found = directory / "room", os.statvfs(directory)
        kept = list(room.glob("*"))
        if found.f_bavail * found.f_frsize < 2 * _ROOM_FILES * _ROOM_FILE or found.f_favail < 2 * _ROOM_FILES:
            for file in kept:
                file.unlink()
        elif len(kept) < _ROOM_FILES:
            _keep_room(room)

    def allocated(self, directory: Path) -> int:
        """Give the bytes that the file occupies on the host, with all that was written so far. Raises `OSError`."""
        trees.syncfs(directory)
        return self._file(directory).stat().st_blocks * 512

    def delete(self, directory: Path) -> None:
        """Give up the file system at `directory`, which stays, empty. Nothing there is no error. Raises `OSError`."""
        if self.has(directory):
            _unmount(directory)
            self._file(directory).unlink(missing_ok=True)
        trees.remove(self._plain(directory))

    @contextmanager
    def becoming_plain(self, directory: Path, name: str) -> Iterator[None]:
        """Copy `directory`/`name` to an ordinary file system, durably, before the block, and have the copy take the directory's place
        after it; if the block raises, the copy is dropped. After a crash `open` does one or the other. Raises `OSError`.
        """
        plain = self._plain(directory)
        trees.remove(plain)
        plain.mkdir(mode=0o700)
        try:
            copying.copy_tree(directory / name, plain / name)
            trees.syncfs(plain)
            yield
        except BaseException:
            trees.remove(plain)
            raise
        self._settle(directory)

    def orphans(self) -> list[Path]:
        """Give the files for whose snapshot there is no directory. Raises `OSError`."""
        return [path for path in self._files(".ext4") if not (self._directories / path.stem).is_dir()]

    def outlived(self) -> list[str]:
        """Give the loop devices whose file was deleted while somebody else holds a mount of it. The kernel takes a moment to let go of
        one that nobody holds any more: it is waited for.
        """
        deadline = time.monotonic() + _PATIENCE
        while (found := self._devices_of_deleted()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    def close(self) -> None:
        """Take all mounts off their places; running containers keep theirs. Raises `OSError`."""
        for path in self._files(".ext4"):
            _unmount(self._directories / path.stem)

    def _settle(self, directory: Path) -> None:
        """The file goes first, then the copy takes the place of the empty directory in one step: a crash between leaves the copy."""
        _unmount(directory)
        self._file(directory).unlink(missing_ok=True)
        self._plain(directory).rename(directory)

    def _devices_of_deleted(self) -> list[str]:
        start, end = f"{self._root}/", " (deleted)"
        return [one.path for one in loops.devices() if one.file.startswith(start) and one.file.endswith(end)]

    def _files(self, suffix: str) -> list[Path]:
        return sorted(self._root.glob(f"*{suffix}"))

    def _file(self, directory: Path) -> Path:
        return self._root / f"{directory.name}.ext4"

    def _plain(self, directory: Path) -> Path:
        return self._root / f"{directory.name}.plain"


def why_unsupported() -> str:
    """Give what is missing for file systems on loop files, with the remedy; "" if nothing is."""
    if _mkfs() is None:
        return "mkfs.ext4 is not on this host: install e2fsprogs"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices (/dev/loop-control): load the kernel module loop (modprobe loop)"
    return ""


def _mkfs() -> str | None:
    return shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _make_filesystem(file: Path, size: int) -> None:
    program = _mkfs()
    if program is None:
        raise Unsupported(f"make a file system: {why_unsupported()}")
    with file.open("xb") as new:
        new.truncate(size)
    done = subprocess.run(
        [program, *_FORMAT, str(file)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_MKFS_SECONDS
    )
    if done.returncode != 0:
        raise System(f"make a file system of {size} bytes: mkfs.ext4: {done.stderr.strip()}")


def _keep_room(room: Path) -> None:
    room.mkdir(mode=0o700, exist_ok=True)
    for number in range(_ROOM_FILES):
        with (room / str(number)).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM_FILE)


def _is_mounted(directory: Path) -> bool:
    return directory.stat().st_dev != directory.parent.stat().st_dev


def _unmount(directory: Path) -> None:
    try:
        umount(directory, MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted, not there
            raise
