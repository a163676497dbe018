"""What the deletions in a layer (`.wh.NAME`, `.wh..wh..opq`) do to the directory it is unpacked into: one class for each
of `sampan.api.storage.Whiteouts`.

A deletion counts for what lower layers hold, wherever it stands in the tar: what the layer itself has written stays.
Sources: image-spec layer.md, Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Protocol

from sampan.linux import trees
from sampan.linux.files import OPEN_DIRECTORY

_OVERLAY_OPAQUE = "trusted.overlay.opaque"


class Deletions(Protocol):
    """Told of all that is written, asked to hide what is below. Directories come as descriptors. Raises `OSError`."""

    def wrote(self, path: bytes) -> None:
        """Take `path` and the directories above it for this layer's."""

    def hide(self, parent: int, name: bytes, path: bytes) -> None:
        """Delete one name, whose path is `path`; one that is not there is no error."""

    def hide_all(self, directory: int, path: bytes) -> None:
        """Delete all names in a directory."""

    def replaced(self, directory: int, path: bytes) -> None:
        """Let nothing below show through a new directory, which took the place of something else."""

    def settle(self, find: Callable[[bytes], int]) -> None:
        """Tidy up when all is written. `find` opens a directory by its path."""


class DeleteBelow(Deletions):
    """Deletions where the target holds the whole tree: what an earlier layer left is deleted."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._written: set[bytes] = set()

    def wrote(self, path: bytes) -> None:
        """Remember them."""
        while path and path not in self._written:
            self._written.add(path)
            path = path.rpartition(b"/")[0]

    def hide(self, parent: int, name: bytes, path: bytes) -> None:
        """Delete what an earlier layer left there."""
        if path not in self._written:
            remove(parent, name)
        elif _is_directory(parent, name):
            directory = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
            try:
                self.hide_all(directory, path)
            finally:
                os.close(directory)

    def hide_all(self, directory: int, path: bytes) -> None:
        """Delete what earlier layers left there."""
        for name in os.listdir(directory):
            encoded = os.fsencode(name)
            DeleteBelow.hide(self, directory, encoded, path + b"/" + encoded if path else encoded)

    def replaced(self, directory: int, path: bytes) -> None:
        """Nothing is below."""

    def settle(self, find: Callable[[bytes], int]) -> None:
        """Nothing is left to do."""


class OverlayMarks(DeleteBelow):
    """Deletions as marks in an overlay's upper directory: all that it holds is this layer's, and of that only what was
    made for marks is deleted."""

    def __init__(self) -> None:
        """Begin with nothing opaque."""
        super().__init__()
        self._opaque: set[bytes] = set()

    def hide(self, parent: int, name: bytes, path: bytes) -> None:
        """Put a mark there; what this layer has written hides what is below, a directory when it is opaque."""
        super().hide(parent, name, path)
        if path not in self._written:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)

    def hide_all(self, directory: int, path: bytes) -> None:
        """Make it opaque."""
        super().hide_all(directory, path)
        os.setxattr(directory, _OVERLAY_OPAQUE, b"y")
        self._opaque.add(path)

    def replaced(self, directory: int, path: bytes) -> None:
        """Make it opaque."""
        self.hide_all(directory, path)

    def settle(self, find: Callable[[bytes], int]) -> None:
        """Take away the marks that have nothing to hide: overlayfs lists them where it does not merge directories."""
        for path in self._opaque:
            try:
                directory = find(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # A later member took its place.
            if _OVERLAY_OPAQUE in os.listxattr(directory):
                for _, _, names, below in os.fwalk(".", dir_fd=directory):
                    for name in map(os.fsencode, names):
                        if is_mark(below, name):
                            os.unlink(name, dir_fd=below)


def is_mark(parent: int, name: bytes) -> bool:
    """Tell whether a name is a deletion as overlay marks it: a 0/0 character device. Raises `OSError`."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def remove(parent: int, name: bytes) -> None:
    """Delete a name and all below it, following nothing; one that is not there is no error. Raises `OSError`."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    directory = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    try:
        trees.empty(directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _is_directory(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:  # What it was in has been replaced.
        return False
