"""Files by directory descriptor, safely: `openat2`, atomic replacement, sharing of blocks.

Sources: `openat2(2)`, `include/uapi/linux/openat2.h`, `ioctl_ficlone(2)`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.linux.syscalls import AT_FDCWD, libc, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a directory to read it, and nothing else: a symlink is refused."""

NULL_DEVICE = os.makedev(1, 3)
"""The number of /dev/null (the kernel's `admin-guide/devices.txt`)."""

FICLONE = 0x40049409
_EAGAIN_TRIES = 64
_SYNC_FILE_RANGE_WRITE = 2

_open_how = struct.Struct("=QQQ")
"""`struct open_how`: flags, mode, resolve."""


def is_null_device(found: os.stat_result) -> bool:
    """Say whether this is the null device, wherever its node lies."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == NULL_DEVICE


def openat2(dirfd: int, path: str | bytes | Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below the directory `dirfd` with the kernel's `RESOLVE_*` rules; the descriptor is
    close-on-exec.

    With `RESOLVE_IN_ROOT` or `RESOLVE_BENEATH` the kernel answers EAGAIN while something in the path is being
    renamed; that is tried again. Raises `OSError` (EXDEV or ELOOP: the path leads where it may not) with
    `filename` set.
    """
    how = _open_how.pack(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_EAGAIN_TRIES):
        try:
            return syscall("openat2", dirfd, path, how, len(how))
        except BlockingIOError:
            if attempt == _EAGAIN_TRIES - 1:
                raise
        except OSError as error:
            error.filename = os.fsdecode(path)
            raise
    raise AssertionError("unreachable")


def write_atomic(path: Path, data: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Make `path` hold `data` by writing beside it and renaming: readers see the old content or the new.

    `durable` waits until the disk has it; after a crash without it the file may be the old one, or empty.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            written = 0
            while written < len(data):
                written += os.write(fd, data[written:])
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Have the disk know the names in a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def ficlone(dst: int, src: int) -> None:
    """Let the file `dst` share all blocks of `src`. Raises `OSError`: EOPNOTSUPP or EXDEV where that can't
    be."""
    fcntl.ioctl(dst, FICLONE, src)


def open_directory(path: str | Path, dirfd: int = AT_FDCWD) -> int:
    """Give an `O_PATH` descriptor of a directory, for use as `dirfd`; a symlink at the end is refused."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=None if dirfd == AT_FDCWD else dirfd)


PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1


def filesystem_type(fd: int) -> int:
    """Give the magic number of the file system that `fd` is on (`*_SUPER_MAGIC`); also for an `O_PATH`
    descriptor."""
    buffer = (ctypes.c_long * 32)()
    if libc.fstatfs(fd, ctypes.byref(buffer)):
        error = ctypes.get_errno()
        raise OSError(error, f"fstatfs: {os.strerror(error)}")
    return buffer[0]


@contextmanager
def opened_directory(path: str | Path) -> Iterator[int]:
    """Give a descriptor of the directory `path`, which must not be a symlink, and close it afterwards."""
    fd = os.open(path, OPEN_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def nearest_directory(path: Path) -> Path:
    """Give `path`, or what will be above it as long as it is not there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write these bytes of a file to the disk, so that a later sync has less to wait for.

    A hint: what it can't begin now is left to that sync. See `sync_file_range(2)`.
    """
    libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
