"""Say whether btrfs subvolumes can be had under a directory."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

from sampan.linux.syscalls import libc

BTRFS_SUPER_MAGIC = 0x9123683E
"""`statfs(2)`, include/uapi/linux/magic.h."""


def why_unsupported(root: Path) -> str:
    """Give the reason why btrfs can't be used under `root`, with a remedy; "" if it can. Leaves nothing
    behind.
    """
    place = _nearest_directory(root)
    try:
        if _file_system_type(place) != BTRFS_SUPER_MAGIC:
            return f"{place} is not on btrfs: put the root on a btrfs file system (mkfs.btrfs, mount)"
        import btrfsutil
    except ImportError as error:
        return (
            f"the Python module btrfsutil does not import ({error}): "
            'apt-get install libbtrfsutil-dev gcc, then pip install "sampan[btrfs]"'
        )
    except OSError as error:
        return f"cannot look at {place}: {error}"
    trial = Path(tempfile.mktemp(prefix=".probe-", dir=place))  # create_subvolume fails if the name is taken
    try:
        btrfsutil.create_subvolume(trial)
        btrfsutil.delete_subvolume(trial)
    except OSError as error:
        return f"cannot make and delete a subvolume in {place}: {error}: run as root with CAP_SYS_ADMIN"
    return ""


def _file_system_type(path: Path) -> int:
    """Give `f_type`, the first field of struct statfs on every 64-bit Linux; Python's `os.statvfs` lacks
    it.
    """
    buffer = (ctypes.c_long * 64)()
    if libc.statfs(os.fsencode(path), buffer) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    return int(buffer[0]) & 0xFFFFFFFF


def _nearest_directory(path: Path) -> Path:
    """Give `path`, or what will be above it as long as it is not there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path
