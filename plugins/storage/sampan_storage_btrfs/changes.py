"""What a snapshot's subvolume holds that its parent's does not: the cost goes by the changes, not by the size of the tree.

A snapshot starts as its parent, inode for inode. So the names that may differ are those of the inodes that were changed
since, and in a changed directory those that now stand for another inode, or for none. What has become of each is then
asked of both trees, as everywhere (`sampan.linux.comparing`).

A directory that is not the same inode in both trees came from elsewhere, and all below it may differ. That can also make
links of files that nothing was done to: those with names in a directory that was moved.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sampan.linux.comparing import Change, compare
from sampan.linux.cursor import Cursor
from sampan.linux.files import opened_directory
from sampan_storage_btrfs.inodes import ROOT_DIRECTORY, Inode, changed_since, inodes_in, look_up, names_of

_BLOCK = 4096


def measure_changes(parent: Path, snapshot: Path) -> tuple[int, int]:
    """Give allocated bytes and number of the inodes in a snapshot that are not as in its parent. Raises `OSError`."""
    with opened_directory(parent) as old, opened_directory(snapshot) as new:
        sizes = [inode.allocated for inode in _changed(old, new)]
    return sum(-(-size // _BLOCK) * _BLOCK for size in sizes), len(sizes)


def has_nested(subvolume: Path) -> bool:
    """Tell whether there are subvolumes in it: what changed in those, its own tree does not know. Raises `OSError`."""
    import btrfsutil

    return next(iter(btrfsutil.SubvolumeIterator(subvolume)), None) is not None


def compare_snapshot(parent: int, snapshot: int) -> Iterator[Change]:
    """Give what leads from a subvolume to its snapshot, both descriptors of roots. Neither may have subvolumes in it. Raises
    `OSError`.
    """
    names = _Names(parent, snapshot)
    return compare(parent, snapshot, lambda: names)


def _changed(old: int, new: int) -> Iterator[Inode]:
    """Give the inodes of the snapshot `new` that are not as in its parent, times of access aside."""
    import btrfsutil

    btrfsutil.sync(new)  # delayed inodes are not in the tree before
    for inode in changed_since(new, btrfsutil.subvolume_info(new).otransid):
        before = look_up(old, inode.number)
        if before is None or before.changed != inode.changed:
            yield inode


class _Names:
    """The names that may differ, by the inode of their directory; a `sampan.linux.comparing.Record`."""

    def __init__(self, old: int, new: int) -> None:
        self._new = new
        self._names: defaultdict[int, set[bytes]] = defaultdict(set)
        self._directories: set[int] = set()
        for inode in _changed(old, new):
            self._add(inode.number)
            if inode.is_directory:
                self._directories.add(inode.number)
                before = names_of(old, inode.number)
                if before and before != names_of(new, inode.number):
                    self._add_linked_below(inode.number)

    def __enter__(self) -> _Names:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def down(self, name: bytes) -> None:
        """Nothing to do: a directory is known by its inode."""

    def up(self) -> None:
        """Nothing to do."""

    def differing(self, old: Cursor, new: Cursor) -> set[bytes] | None:
        """Give the names here that may differ, unless the directory is not the one that was here before."""
        if not old.is_somewhere:
            return None
        number = os.fstat(new.fd).st_ino
        if os.fstat(old.fd).st_ino != number:
            return None
        names = self._names.get(number, set())
        if number in self._directories:
            names = names | {name for name, _ in _entries(old) ^ _entries(new)}
        return names

    def _add(self, number: int) -> None:
        """Add all names of an inode, and those of the directories that lead there."""
        climbing = [number]
        while climbing:
            number = climbing.pop()
            if number == ROOT_DIRECTORY:
                continue
            for directory, name in names_of(self._new, number):
                if name not in self._names[directory]:
                    self._names[directory].add(name)
                    climbing.append(directory)

    def _add_linked_below(self, directory: int) -> None:
        """Add the files in a directory, however deep, that have more names."""
        going = [directory]
        while going:
            for number in inodes_in(self._new, going.pop()):
                inode = look_up(self._new, number)
                if inode and inode.is_directory:
                    going.append(number)
                elif inode and inode.links > 1:
                    self._add(number)


def _entries(place: Cursor) -> set[tuple[bytes, int]]:
    """Give the names in a directory, with their inodes' numbers."""
    try:
        with os.scandir(place.fd) as entries:
            return {(os.fsencode(entry.name), entry.inode()) for entry in entries}
    except FileNotFoundError:  # it was deleted
        return set()
