"""Whole directory trees, by descriptor: measure, delete, make durable.

A container may make a tree of any depth and with any names in it, and may make it while we look. So no path
is ever built, no symlink is followed, and neither the stack nor the number of descriptors grows with the
depth.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sampan.linux.files import OPEN_DIRECTORY
from sampan.linux.syscalls import libc

_MOVED_TRIES = 9


def measure(top: Path) -> tuple[int, int]:
    """Give the allocated bytes (`st_blocks * 512`) and the inodes of the tree, `top` included, each inode
    once.

    What vanishes meanwhile does not count. Raises `OSError`; EAGAIN if directories are moved under our feet
    again and again.
    """
    return Meter().tree(top)


class Meter:
    """Measures several trees as one, as `du` does: an inode that they share counts where it was met first.

    Its methods give the bytes and inodes that were added, and raise as `measure`.
    """

    def __init__(self) -> None:
        """Begin at nothing."""
        self._linked: set[tuple[int, int]] = set()

    def tree(self, top: Path) -> tuple[int, int]:
        """Measure a directory and all in it."""
        for _ in range(_MOVED_TRIES):
            with suppress(BlockingIOError):
                return self._sum(_statuses(top))
        return self._sum(_statuses(top))

    def any(self, path: Path) -> tuple[int, int]:
        """Measure whatever is there, a tree or a file; nothing adds nothing."""
        try:
            status = path.lstat()
            return self.tree(path) if stat.S_ISDIR(status.st_mode) else self._sum([status])
        except FileNotFoundError:
            return 0, 0

    def alone(self, path: Path) -> tuple[int, int]:
        """Measure a directory without what is in it; nothing adds nothing."""
        try:
            return self._sum([path.lstat()])
        except FileNotFoundError:
            return 0, 0

    def _sum(self, statuses: Iterable[os.stat_result]) -> tuple[int, int]:
        blocks = inodes = 0
        linked = set()
        for status in statuses:
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                if identity in linked or identity in self._linked:
                    continue
                linked.add(identity)
            blocks += status.st_blocks
            inodes += 1
        self._linked |= linked
        return blocks * 512, inodes


def remove(top: Path) -> None:
    """Delete the directory `top` and all in it; nothing there is no error. Raises `OSError`.

    It is renamed to `top.removed` first: after a power cut it is whole under its name, or not there under
    its name.
    """
    doomed = top if top.name.endswith(".removed") else top.with_name(f"{top.name}.removed")
    try:
        if doomed != top:
            top.rename(doomed)
        fd = os.open(doomed, OPEN_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        empty(fd)
    finally:
        os.close(fd)
    doomed.rmdir()


def empty(fd: int) -> None:
    """Delete all in the directory `fd`. Raises `OSError`.

    Directories deeper than one level are moved up to the top and emptied there, so that depth does not matter.
    """
    moved = 0
    while names := _unlink_files(fd):
        for name in names:
            child = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            try:
                for grandchild in _unlink_files(child):
                    moved = _move_up(child, grandchild, fd, moved + 1)
            except OSError as error:
                if error.errno != errno.EXDEV:  # overlayfs does not move directories of its lower layers
                    raise
                empty(child)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)


def syncfs(place: Path | int) -> None:
    """Have the disk hold all that was written to the file system of a path or descriptor; see syncfs(2). Raises
    `OSError`.
    """
    if isinstance(place, int):
        if libc.syncfs(place) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"syncfs: {os.strerror(error)}")
        return
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    except OSError as error:
        error.filename = str(place)
        raise
    finally:
        os.close(fd)


def _statuses(top: Path) -> Iterator[os.stat_result]:
    """Walk a tree with one descriptor: down by name, up by `..`, which must lead where we came from."""
    fd = os.open(top, OPEN_DIRECTORY)
    try:
        here = os.fstat(fd)
        yield here
        above: list[tuple[os.stat_result, list[str]]] = []
        names: list[str] = []
        yield from _scan(fd, names)
        while True:
            if names:
                try:
                    child = os.open(names.pop(), OPEN_DIRECTORY, dir_fd=fd)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                above.append((here, names))
                os.close(fd)
                fd, here, names = child, os.fstat(child), []
                yield from _scan(fd, names)
            elif above:
                parent = os.open("..", OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = parent
                here, names = above.pop()
                if not os.path.samestat(here, os.fstat(fd)):
                    raise BlockingIOError(errno.EAGAIN, "a directory was moved while it was read", str(top))
            else:
                return
    finally:
        os.close(fd)


def _scan(fd: int, directories: list[str]) -> Iterator[os.stat_result]:
    """Give the status of each entry; put the names of the directories in `directories`."""
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                directories.append(entry.name)
            yield status


def _unlink_files(fd: int) -> list[str]:
    """Unlink all but the directories in `fd` and give the names of these."""
    os.lseek(fd, 0, os.SEEK_SET)  # btrfs lists only what was there at the last open or rewind
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
    return [name for name, is_directory in found if is_directory]


def _move_up(source: int, name: str, top: int, number: int) -> int:
    """Rename the directory `name` of `source` to a free name in `top`; give the number that was used."""
    while True:
        try:
            os.rename(name, f".removed-{number}", src_dir_fd=source, dst_dir_fd=top)
            return number
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            number += 1
