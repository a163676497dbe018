"""Two directory trees compared: what was added, modified and deleted between them.

Trees are read by descriptor; no symlink is followed and no path is built, so that a tree which changes meanwhile can't
lead out of itself.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 18


class ChangeKind(enum.StrEnum):
    """What became of a name."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """One name that differs. `path` is relative, without a leading slash; b"" is the root."""

    path: bytes
    kind: ChangeKind


def compare(old: int | None, new: int) -> Iterator[Change]:
    """Give the changes that lead from the tree of the directory descriptor `old` to that of `new`, sorted as a walk.

    Without `old` everything in `new` is added; the root itself is then not told. Raises `OSError`.
    """
    if old is None:
        yield from _added(new, b"")
        return
    if _attributes_differ(os.fstat(old), os.fstat(new)) or _xattrs(old) != _xattrs(new):
        yield Change(b"", ChangeKind.MODIFIED)
    yield from _compare(old, new, b"")


def same(old: int, old_name: bytes, new: int, new_name: bytes) -> bool:
    """Tell whether a name in the directory `old` and one in `new` are the same in all that a layer carries.

    For directories: in themselves, whatever is in them. Raises `OSError`.
    """
    before = os.stat(old_name, dir_fd=old, follow_symlinks=False)
    after = os.stat(new_name, dir_fd=new, follow_symlinks=False)
    if _attributes_differ(before, after):
        return False
    if (before.st_dev, before.st_ino, before.st_ctime_ns) == (after.st_dev, after.st_ino, after.st_ctime_ns):
        return True
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(old_name, dir_fd=old) == os.readlink(new_name, dir_fd=new)
    if stat.S_ISREG(after.st_mode):
        return _same_files(old, old_name, new, new_name)
    if stat.S_ISDIR(after.st_mode):
        return _same_directories(old, old_name, new, new_name)
    return True


def _compare(old: int, new: int, above: bytes) -> Iterator[Change]:
    before, after = _names(old), _names(new)
    for name in sorted(before | after):
        path = above + b"/" + name if above else name
        if name not in after:
            yield Change(path, ChangeKind.DELETED)
            continue
        kind = os.stat(name, dir_fd=new, follow_symlinks=False).st_mode
        if name not in before:
            yield Change(path, ChangeKind.ADDED)
        elif not same(old, name, new, name):
            yield Change(path, ChangeKind.MODIFIED)
        if stat.S_ISDIR(kind):
            inside = os.open(name, _OPEN_DIRECTORY, dir_fd=new)
            try:
                if name in before and stat.S_ISDIR(os.stat(name, dir_fd=old, follow_symlinks=False).st_mode):
                    was = os.open(name, _OPEN_DIRECTORY, dir_fd=old)
                    try:
                        yield from _compare(was, inside, path)
                    finally:
                        os.close(was)
                else:
                    yield from _added(inside, path)
            finally:
                os.close(inside)


def _added(new: int, above: bytes) -> Iterator[Change]:
    for name in sorted(_names(new)):
        path = above + b"/" + name if above else name
        yield Change(path, ChangeKind.ADDED)
        if stat.S_ISDIR(os.stat(name, dir_fd=new, follow_symlinks=False).st_mode):
            inside = os.open(name, _OPEN_DIRECTORY, dir_fd=new)
            try:
                yield from _added(inside, path)
            finally:
                os.close(inside)


def _names(directory: int) -> set[bytes]:
    return {os.fsencode(name) for name in os.listdir(directory)}


def _attributes_differ(before: os.stat_result, after: os.stat_result) -> bool:
    if (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid):
        return True
    if before.st_mtime_ns != after.st_mtime_ns:
        return True
    if stat.S_ISREG(after.st_mode):
        return before.st_size != after.st_size
    return (stat.S_ISCHR(after.st_mode) or stat.S_ISBLK(after.st_mode)) and before.st_rdev != after.st_rdev


def _xattrs(fd: int) -> dict[str, bytes]:
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}


def _same_directories(old: int, old_name: bytes, new: int, new_name: bytes) -> bool:
    before = os.open(old_name, _OPEN_DIRECTORY, dir_fd=old)
    try:
        after = os.open(new_name, _OPEN_DIRECTORY, dir_fd=new)
        try:
            return _xattrs(before) == _xattrs(after)
        finally:
            os.close(after)
    finally:
        os.close(before)


def _same_files(old: int, old_name: bytes, new: int, new_name: bytes) -> bool:
    before = os.open(old_name, _OPEN_FILE, dir_fd=old)
    try:
        after = os.open(new_name, _OPEN_FILE, dir_fd=new)
        try:
            if _xattrs(before) != _xattrs(after):
                return False
            while piece := os.read(before, _PIECE):
                if piece != os.read(after, _PIECE):
                    return False
            return not os.read(after, 1)
        finally:
            os.close(after)
    finally:
        os.close(before)
