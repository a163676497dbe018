"""Items of the file system's own trees.

The kernel skips nodes that are older than asked for, so a search for what is new costs by what is new.

Source: `include/uapi/linux/btrfs.h` (BTRFS_IOC_TREE_SEARCH_V2) and `btrfs_tree.h`.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterator
from dataclasses import dataclass

BTRFS_IOC_TREE_SEARCH_V2 = 0xC0709411

ROOT_TREE = 1
QUOTA_TREE = 8
OWN_TREE = 0
"""The tree of the subvolume that the descriptor is in."""

Key = tuple[int, int, int]
"""Object, type, offset."""

MAX = (1 << 64) - 1

_KEY = struct.Struct("=7Q4I4Q")  # struct btrfs_ioctl_search_key
_SIZE = struct.Struct("=Q")
_HEADER = struct.Struct("=3Q2I")  # struct btrfs_ioctl_search_header
_BUFFER = 128 * 1024  # an item is at most 64 KB


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its key and its data."""

    object: int
    type: int
    offset: int
    data: bytes


def search(fd: int, tree: int, first: Key, last: Key, since: int = 0) -> Iterator[Item]:
    """Give the items from key `first` to `last` that are in nodes written in transaction `since` or later; others beside
    them may come too. Raises `OSError`: ENOENT without such a tree, EPERM without CAP_SYS_ADMIN.
    """
    while True:
        request = bytearray(_KEY.size + _SIZE.size + _BUFFER)
        _KEY.pack_into(
            request, 0,
            tree, first[0], last[0], first[2], last[2], since, MAX,
            first[1], last[1], 0xFFFFFFFF, 0, 0, 0, 0, 0,
        )  # fmt: skip
        _SIZE.pack_into(request, _KEY.size, _BUFFER)
        fcntl.ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, request)
        found = _KEY.unpack_from(request)[9]
        if found == 0:
            return
        position = _KEY.size + _SIZE.size
        for _ in range(found):
            _, number, offset, kind, length = _HEADER.unpack_from(request, position)
            position += _HEADER.size
            yield Item(number, kind, offset, bytes(request[position : position + length]))
            position += length
        if (number, kind, offset) >= last:
            return
        first = _after(number, kind, offset)


def _after(number: int, kind: int, offset: int) -> Key:
    """Give the key that follows: a key is one number of 136 bits."""
    if offset < MAX:
        return number, kind, offset + 1
    if kind < 0xFF:
        return number, kind + 1, 0
    return number + 1, 0, 0
