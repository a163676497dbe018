"""Mounts with shifted owners: does a file system have them?

A user namespace's map says how: what is 0 inside belongs to 0 on disk, and who looks from outside sees the id that 0 is mapped
to. Source: `mount_setattr(2)`, "ID-mapped mounts"; which file systems can is in its notes, with the kernel's version.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sampan.linux import trees
from sampan.linux.mounts import Mount, open_mount
from sampan.linux.namespaces import IdRange, new_userns

_SHIFTED = 0x5A000000
"""What a trial maps 0 to."""


def works_below(directory: Path) -> bool:
    """Try a bind mount with shifted owners on the file system of `directory`. Leaves nothing behind; never raises."""
    try:
        place = Path(tempfile.mkdtemp(prefix=".idmap-", dir=directory))
    except OSError:
        return False
    try:
        (place / "file").touch()
        return shifts_owners(Mount("bind", str(place), ("bind",)), place / "file")
    except OSError:
        return False
    finally:
        trees.remove(place)


def shifts_owners(mount: Mount, file: Path) -> bool:
    """Show a root with shifted owners and change through it the owner of a file at its top, one of root's, which is then `file`
    on disk. False also where the kernel or the file system has no such mounts.
    """
    shifted = (IdRange(0, _SHIFTED, 1 << 16),)
    try:
        userns = new_userns(shifted, shifted)
        try:
            root = open_mount(mount, userns)
        finally:
            os.close(userns)
        try:
            if os.stat(file.name, dir_fd=root).st_uid != _SHIFTED:
                return False
            os.chown(file.name, _SHIFTED + 5, _SHIFTED + 6, dir_fd=root)
        finally:
            os.close(root)
        status = file.lstat()
    except OSError:
        return False
    return (status.st_uid, status.st_gid) == (5, 6)
