"""The inodes of a subvolume, from its tree: which changed since when, what they are called, what directories hold.

Every inode item carries the transaction that last changed it, and a snapshot knows the transaction it was made in.

Source: `include/uapi/linux/btrfs_tree.h` (struct btrfs_inode_item, btrfs_inode_ref, btrfs_inode_extref, btrfs_dir_item).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sampan_storage_btrfs.tree_search import MAX, OWN_TREE, search

ROOT_DIRECTORY = 256
"""BTRFS_FIRST_FREE_OBJECTID: the inode of every subvolume's root."""

_LAST = (1 << 64) - 256
_INODE_ITEM = 1
_INODE_REF = 12
_INODE_EXTREF = 13
_DIR_INDEX = 96

_INODE = struct.Struct("<5Q4I68x12s24x")
"""Generation, transid, size, allocated bytes, block group; links, owner, group, mode; the time of its last change (ctime)."""

_REF = struct.Struct("<QH")  # index, length of the name
_EXTREF = struct.Struct("<2QH")  # directory, index, length of the name
_ENTRY = struct.Struct("<QBQQ2HB")  # key of the inode, transid, lengths of data and name, type


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode. `allocated` are bytes; `changed` is its ctime, which nobody can set."""

    number: int
    allocated: int
    links: int
    mode: int
    changed: bytes

    @property
    def is_directory(self) -> bool:
        """Tell whether it is one."""
        return stat.S_ISDIR(self.mode)


Name = tuple[int, bytes]
"""A directory's inode number, and a name in it."""


def changed_since(subvolume: int, transaction: int) -> Iterator[Inode]:
    """Give the inodes that were changed after `transaction` in the subvolume, a descriptor, if only in when they were read.
    Raises `OSError`.
    """
    first, last = (ROOT_DIRECTORY, _INODE_ITEM, 0), (_LAST, 0xFF, MAX)
    for item in search(subvolume, OWN_TREE, first, last, transaction + 1):
        if item.type == _INODE_ITEM and _INODE.unpack_from(item.data)[1] > transaction:
            yield _inode(item.object, item.data)


def look_up(subvolume: int, number: int) -> Inode | None:
    """Give an inode by its number. Raises `OSError`."""
    for item in search(subvolume, OWN_TREE, (number, _INODE_ITEM, 0), (number, _INODE_ITEM, MAX)):
        return _inode(number, item.data)
    return None


def names_of(subvolume: int, number: int) -> set[Name]:
    """Give all names of an inode; none if it is not there, or was deleted and is still open. Raises `OSError`."""
    found: set[Name] = set()
    for item in search(subvolume, OWN_TREE, (number, _INODE_REF, 0), (number, _INODE_EXTREF, MAX)):
        position = 0
        while position < len(item.data):
            if item.type == _INODE_REF:
                directory, (_, length), size = item.offset, _REF.unpack_from(item.data, position), _REF.size
            else:
                directory, _, length = _EXTREF.unpack_from(item.data, position)
                size = _EXTREF.size
            position += size
            found.add((directory, item.data[position : position + length]))
            position += length
    return found


def inodes_in(subvolume: int, directory: int) -> Iterator[int]:
    """Give the numbers of the inodes that have a name in a directory; not those of nested subvolumes. Raises `OSError`."""
    for item in search(subvolume, OWN_TREE, (directory, _DIR_INDEX, 0), (directory, _DIR_INDEX, MAX)):
        number, kind, *_ = _ENTRY.unpack_from(item.data)
        if kind == _INODE_ITEM:
            yield number


def _inode(number: int, data: bytes) -> Inode:
    _, _, _, allocated, _, links, _, _, mode, changed = _INODE.unpack_from(data)
    return Inode(number, allocated, links, mode, changed)
