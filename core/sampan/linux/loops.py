"""Loop devices: a file as a block device, by ioctl.

Every device made here is one with *autoclear*: the kernel lets go of the file when the last user (a mount, a descriptor)
does. So nothing needs to be undone after a crash, and a device that is still there is still in use.

Two devices on one file would be two file systems that do not know of each other; `open_device` gives the one that is
there, to all processes.

Sources: `loop(4)`, `include/uapi/linux/loop.h`, `drivers/block/loop.c`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOP_GET_STATUS64: Final = 0x4C05
LOOP_CONFIGURE: Final = 0x4C0A
LOOP_CTL_GET_FREE: Final = 0x4C82
LO_FLAGS_AUTOCLEAR: Final = 4
LO_FLAGS_DIRECT_IO: Final = 16

_status = struct.Struct("=5Q4I64s64s32s2Q")
"""`struct loop_info64`: device, inode, rdevice, offset, size limit; number, two of encryption, flags; names."""
_config = struct.Struct(f"=2I{_status.size}s64x")
"""`struct loop_config`: descriptor, block size, status, reserved."""

_BLOCKS: Final = Path("/sys/block")
_CONTROL: Final = "/dev/loop-control"


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A loop device that has a file: the device's path, and the file's as the kernel shows it (` (deleted)` at its end)."""

    path: str
    file: str


def devices() -> Iterator[LoopDevice]:
    """Give the loop devices that have a file."""
    for block in _BLOCKS.glob("loop*"):
        try:
            file = (block / "loop/backing_file").read_bytes()
        except OSError:  # it has none, or not any more
            continue
        yield LoopDevice(f"/dev/{block.name}", os.fsdecode(file.removesuffix(b"\n")))


@contextmanager
def open_device(file: Path) -> Iterator[str]:
    """Give the path of the device of `file`, found or made. It is there at least until the block ends. Raises `OSError`."""
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    lock = os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # not `backing`: the device keeps that, and its lock with it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path, device = _find(file) or _make(backing)
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            yield path
        finally:
            os.close(device)
    finally:
        os.close(lock)
        os.close(backing)


def _find(file: Path) -> tuple[str, int] | None:
    """Give the device that has `file`, and a descriptor that keeps it. Another mount namespace may have another path for
    the file, so that the inode decides, and of the path only the name.
    """
    status = file.stat()
    for device in devices():
        if os.path.basename(device.file) != file.name:
            continue
        try:
            fd = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        if _inode(fd) == (status.st_dev, status.st_ino):
            return device.path, fd
        os.close(fd)
    return None


def _inode(device: int) -> tuple[int, int] | None:
    """Give device and inode of the file that an open loop device has, None if it has none (any more)."""
    try:
        answer = fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(_status.size))
    except OSError:
        return None
    values = _status.unpack(answer)
    return values[0], values[1]


def _make(backing: int) -> tuple[str, int]:
    """Take a free device for the open file `backing`; somebody else may be quicker, and then another one is taken."""
    info = _status.pack(0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO, b"", b"", b"", 0, 0)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, _config.pack(backing, 0, info))
                return path, device
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
    finally:
        os.close(control)
