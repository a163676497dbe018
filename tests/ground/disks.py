"""Small disks of a test's own: a file system in a loop file, mounted where an engine keeps its root."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "--mixed"),  # data and metadata fill up at once
}


@dataclass(frozen=True)
class Disk:
    """A file system on the loop device `device`, whose backing file is `file`, mounted at `place`."""

    file: Path
    device: str
    place: Path

    def fill(self, leave: int, *, told: bool = True) -> None:
        """Take all space but `leave` bytes, until `free`; unless `told`, btrfs still says that it is there."""
        free = self.space()
        with (self.place / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free - leave)
            if told:
                os.fsync(ballast.fileno())

    def space(self) -> int:
        """Give the free bytes, when all is written that was to be."""
        subprocess.run(["sync", "-f", self.place], check=True)
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.place / "ballast").unlink()

    def fail(self) -> None:
        """Have every read and write of the device fail from now on: it is cut to nothing."""
        os.truncate(self.file, 0)
        subprocess.run(["losetup", "--set-capacity", self.device], check=True)

    def copy(self, file: Path) -> None:
        """Copy the device as it is, without what was written to the file system and not yet to the device."""
        subprocess.run(["cp", "--sparse=always", self.file, file], check=True)


@contextmanager
def mounted(file: Path, place: Path, *options: str) -> Iterator[Disk]:
    """Attach and mount a file with a file system, as it is; undone afterwards."""
    place.mkdir(exist_ok=True)
    device = subprocess.run(["losetup", "-f", "--show", file], check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", *options, device, place], check=True)
        try:
            yield Disk(file, device, place)
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def new_disk(place: Path, kind: str, size: int, *options: str) -> Iterator[Disk]:
    """Make a file system of `size` bytes and mount it; all is gone afterwards. `options` are mkfs's.

    Its file is in memory: it has nobody else's flushes to wait for.
    """
    file = new_file()
    try:
        os.truncate(file, size)
        subprocess.run([*MAKERS[kind], *options, file], check=True, capture_output=True)
        with mounted(file, place) as disk:
            yield disk
    finally:
        file.unlink()


def new_file() -> Path:
    """Make an empty file in memory."""
    descriptor, name = tempfile.mkstemp(prefix="sp-", suffix=".img", dir="/dev/shm")
    os.close(descriptor)
    return Path(name)
