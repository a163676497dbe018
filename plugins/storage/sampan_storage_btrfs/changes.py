"""What a snapshot's subvolume holds that its parent's does not, from the file system's own tree.

Every inode item carries the transaction that last changed it, and a snapshot knows the transaction it was
made in. The kernel skips the tree's unchanged leaves, so the cost goes by the changes and not by the size of
the tree.

Source: `include/uapi/linux/btrfs.h` (BTRFS_IOC_TREE_SEARCH_V2) and `btrfs_tree.h` (struct btrfs_inode_item).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

BTRFS_IOC_TREE_SEARCH_V2 = 0xC0709411
BTRFS_INODE_ITEM_KEY = 1
BTRFS_FIRST_FREE_OBJECTID = 256
BTRFS_LAST_FREE_OBJECTID = (1 << 64) - 256

_KEY = struct.Struct("=7Q4I4Q")  # struct btrfs_ioctl_search_key
_SIZE = struct.Struct("=Q")
_HEADER = struct.Struct("=3Q2I")  # struct btrfs_ioctl_search_header
_INODE = struct.Struct("<4Q")  # generation, transid, size, nbytes
_BUFFER = 256 * 1024
_U64 = (1 << 64) - 1
_BLOCK = 4096


def measure_changes(subvolume: Path) -> tuple[int, int]:
    """Give allocated bytes and number of the inodes changed since the snapshot `subvolume` was made.

    Raises `OSError`.
    """
    import btrfsutil

    fd = os.open(subvolume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        btrfsutil.sync(fd)  # delayed inodes are not in the tree before
        made = btrfsutil.subvolume_info(fd).otransid
        sizes = [nbytes for transid, nbytes in _inodes(fd, made + 1) if transid > made]
    finally:
        os.close(fd)
    return sum(-(-size // _BLOCK) * _BLOCK for size in sizes), len(sizes)


def _inodes(fd: int, since: int) -> Iterator[tuple[int, int]]:
    """Give transaction and allocated bytes of the inodes in leaves written in transaction `since` or
    later.
    """
    objectid, kind, offset = BTRFS_FIRST_FREE_OBJECTID, BTRFS_INODE_ITEM_KEY, 0
    while True:
        request = bytearray(_KEY.size + _SIZE.size + _BUFFER)
        _KEY.pack_into(
            request, 0,
            0, objectid, BTRFS_LAST_FREE_OBJECTID, offset, _U64, since, _U64,
            kind, 0xFF, 0xFFFFFFFF, 0, 0, 0, 0, 0,
        )  # fmt: skip
        _SIZE.pack_into(request, _KEY.size, _BUFFER)
        fcntl.ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, request)
        found = _KEY.unpack_from(request)[9]
        if found == 0:
            return
        position = _KEY.size + _SIZE.size
        for _ in range(found):
            _, objectid, offset, kind, length = _HEADER.unpack_from(request, position)
            position += _HEADER.size
            if kind == BTRFS_INODE_ITEM_KEY:
                _, transid, _, nbytes = _INODE.unpack_from(request, position)
                yield transid, nbytes
            position += length
        objectid, kind, offset = _after(objectid, kind, offset)


def _after(objectid: int, kind: int, offset: int) -> tuple[int, int, int]:
    """Give the key that follows: a key is one number of 136 bits."""
    if offset < _U64:
        return objectid, kind, offset + 1
    if kind < 0xFF:
        return objectid, kind + 1, 0
    return objectid + 1, 0, 0
