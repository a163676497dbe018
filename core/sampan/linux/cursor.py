"""A place in a directory tree that others may change meanwhile.

One descriptor, moved down by name and up by `..`; no symlink is followed and no path is built, so that neither the
depth of the tree nor what is done to it leads out of it or takes more than a small record for each level.
"""

from __future__ import annotations

import os
from types import TracebackType

from sampan.linux.files import OPEN_DIRECTORY

Inode = tuple[int, int]
"""Device and number of an inode."""


def inode(status: os.stat_result) -> Inode:
    """Tell which inode a status is of."""
    return status.st_dev, status.st_ino


class Cursor:
    """A directory in the tree below another. It may also be *nowhere*: below a name that is no directory, or is gone.

    Nowhere is empty. Methods raise `OSError` only for what is neither "not there" nor "not a directory".
    """

    def __init__(self, top: int | None) -> None:
        """Start at the directory `top`, a descriptor that stays the caller's; None starts nowhere."""
        self._top = top
        self._fd = -1 if top is None else os.open(".", OPEN_DIRECTORY, dir_fd=top)
        self._levels: list[tuple[bytes, Inode]] = []
        if top is not None:
            self._levels.append((b"", inode(os.fstat(self._fd))))
        self._nowhere = 0 if top is not None else 1

    def __enter__(self) -> Cursor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def is_somewhere(self) -> bool:
        """Tell whether there is a directory here."""
        return not self._nowhere

    @property
    def fd(self) -> int:
        """Give the directory's descriptor, good until the next move. Only for somewhere."""
        assert not self._nowhere
        return self._fd

    def names(self) -> list[bytes]:
        """Give what is in the directory, in no order."""
        if self._nowhere:
            return []
        try:
            return [os.fsencode(name) for name in os.listdir(self._fd)]
        except FileNotFoundError:  # it was deleted
            return []

    def stat(self, name: bytes) -> os.stat_result | None:
        """Give the status of a name in the directory; None if it is not there."""
        if self._nowhere:
            return None
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def down(self, name: bytes) -> None:
        """Go into the directory `name`, or nowhere if there is none."""
        if self._nowhere:
            self._nowhere += 1
            return
        child = _open(name, self._fd)
        if child is None:
            self._nowhere += 1
        else:
            self._move(child)
            self._levels.append((name, inode(os.fstat(child))))

    def up(self) -> None:
        """Go back to where `down` came from; nowhere if that was taken out of the tree meanwhile."""
        if self._nowhere:
            self._nowhere -= 1
            return
        self._levels.pop()
        parent = _open(b"..", self._fd)
        if parent is not None:
            self._move(parent)
        if parent is None or inode(os.fstat(parent)) != self._levels[-1][1]:
            self._find_again()

    def _find_again(self) -> None:
        """The directory was moved and `..` led elsewhere: go down again from the top, as far as all is where it was."""
        assert self._top is not None
        self._move(os.open(".", OPEN_DIRECTORY, dir_fd=self._top))
        wanted, self._levels = self._levels, self._levels[:1]
        for name, identity in wanted[1:]:
            child = _open(name, self._fd)
            if child is None or inode(os.fstat(child)) != identity:
                if child is not None:
                    os.close(child)
                break
            self._move(child)
            self._levels.append((name, identity))
        self._nowhere = len(wanted) - len(self._levels)

    def _move(self, fd: int) -> None:
        os.close(self._fd)
        self._fd = fd


def _open(name: bytes, directory: int) -> int | None:
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):  # a symlink is "not a directory" too
        return None
