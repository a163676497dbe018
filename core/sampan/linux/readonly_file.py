"""A file through a read-only mount of its own. Apart from `mounts`, for a program that begins with it imports nothing else.

Sources: `open_tree(2)`, `mount_setattr(2)`, `include/uapi/linux/mount.h`.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from sampan.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, syscall

if TYPE_CHECKING:
    from pathlib import Path

_OPEN_TREE_CLONE = 1
_MOUNT_ATTR_RDONLY = 1


def open_readonly_file(path: str | Path) -> int:
    """Open a file through a read-only mount of its own, attached nowhere.

    A program started from it (`/proc/self/fd/N`) has a `/proc/PID/exe` that nobody can open for writing, root
    of a container that it enters included (CVE-2019-5736). Raises `OSError`.
    """
    mount = syscall("open_tree", AT_FDCWD, os.fspath(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
        syscall("mount_setattr", mount, b"", AT_EMPTY_PATH, attributes, len(attributes))
        return os.open(f"/proc/self/fd/{mount}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(mount)
