"""Two directory trees compared: what was added, modified and deleted between them.

Either may be of any depth, and may be changed while it is read: what vanishes is gone, and nothing leads out of the
trees (`sampan.linux.cursor`). Fifos and devices are never opened.

Two files are the same if all that a layer carries is the same: type, permissions, owner, mtime in nanoseconds, extended
attributes (but overlay's own, `trusted.overlay.*`), device numbers, target of a symlink, contents. Contents are read
only where all else leaves doubt: a file that has kept its inode number and its ctime, which nobody can set, is the same
file, be it in a snapshot on a device of its own.

A layer can carry a hard link only between names that are in it. So a file that nothing was done to is told as *linked* if
it is linked with a name that is told, or was not linked before with all names that it is linked with now.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from sampan.linux.cursor import Cursor, Inode, inode

_OVERLAYS_OWN = "trusted.overlay."
_PIECE = 1 << 18


class ChangeKind(enum.StrEnum):
    """What became of a name."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    LINKED = "linked"
    """Unchanged in itself, but made a hard link of other names that are told."""


@dataclass(frozen=True, slots=True)
class Change:
    """One name that differs. `path` is relative, without a leading slash; b"" is the root."""

    path: bytes
    kind: ChangeKind


class Record(Protocol):
    """Knows which names may differ. It is led through the trees beside the two places that are compared, from the top."""

    def __enter__(self) -> object:
        """Stand at the top."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what it holds."""
        ...

    def differing(self, old: Cursor, new: Cursor) -> Iterable[bytes] | None:
        """Give the names here that may differ, or hold what may; None if it can't tell, neither here nor below."""
        ...

    def down(self, name: bytes) -> None:
        """Go where `name` leads, if anywhere."""
        ...

    def up(self) -> None:
        """Go back."""
        ...


def compare(old: int | None, new: int, record: Callable[[], Record] | None = None) -> Iterator[Change]:
    """Give the changes that lead from the tree of the directory descriptor `old` to that of `new`, sorted as a walk.

    Without `old` everything in `new` is added; the root itself is then not told. `record` makes one, and then only names
    that it gives are looked at; a name of a file with many must come with all others. Raises `OSError` for what is neither
    gone nor replaced: a disk that fails.
    """
    if old is not None and not _same_root(old, new):
        yield Change(b"", ChangeKind.MODIFIED)
    joined: frozenset[Inode] | None = None
    for pair in _walk(old, new, record):
        kind = pair.kind()
        if kind is None and (linked := pair.linked):
            joined = _joined(old, new, record) if joined is None else joined
            kind = ChangeKind.LINKED if linked in joined else None
        if kind is not None:
            yield Change(pair.above + pair.name, kind)


def same(old: int, old_name: bytes, new: int, new_name: bytes) -> bool:
    """Tell whether a name in the directory `old` and one in `new` are the same in all that a layer carries.

    For directories: in themselves, whatever is in them. Raises `OSError`.
    """
    before = os.stat(old_name, dir_fd=old, follow_symlinks=False)
    after = os.stat(new_name, dir_fd=new, follow_symlinks=False)
    return _same(old, old_name, before, new, new_name, after)


def same_but_mtime(old: int, new: int, name: bytes) -> bool:
    """Tell whether the directory `name` of both directories is the same in itself, but for its mtime. Raises `OSError`."""
    before = os.stat(name, dir_fd=old, follow_symlinks=False)
    after = os.stat(name, dir_fd=new, follow_symlinks=False)
    return _permissions(before) == _permissions(after) and _xattrs(old, name) == _xattrs(new, name)


@dataclass(slots=True)
class _Pair:
    """One name in both trees' directories, or in one. `above` is the path of the directory, with a slash at its end."""

    above: bytes
    name: bytes
    old: Cursor
    new: Cursor
    before: os.stat_result | None
    after: os.stat_result | None

    @property
    def linked(self) -> Inode | None:
        """Give the inode of a file that has more names than this."""
        after = self.after
        return inode(after) if after and after.st_nlink > 1 and not stat.S_ISDIR(after.st_mode) else None

    def kind(self) -> ChangeKind | None:
        """Tell what became of the name, in itself."""
        if self.after is None:
            return None if self.before is None else ChangeKind.DELETED
        if self.before is None:
            return ChangeKind.ADDED
        try:
            unchanged = _same(self.old.fd, self.name, self.before, self.new.fd, self.name, self.after)
        except FileNotFoundError:
            return ChangeKind.DELETED
        return None if unchanged else ChangeKind.MODIFIED


def _walk(old_top: int | None, new_top: int, record: Callable[[], Record] | None) -> Iterator[_Pair]:
    """Give every name in either tree that may differ. A pair is good until the next is asked for."""
    with Cursor(old_top) as old, Cursor(new_top) as new, ExitStack() as stack:
        guide = None if record is None else record()
        if guide is not None:
            stack.enter_context(guide)
        places = (old, new) if guide is None else (old, new, guide)
        above = b""

        def level(whole: bool) -> tuple[list[bytes], bool]:
            told = None if whole or guide is None else guide.differing(old, new)
            names = {*old.names(), *new.names()} if told is None else told
            return sorted(names, reverse=True), told is None

        levels = [level(whole=False)]
        while True:
            names, whole = levels[-1]
            if names:
                name = names.pop()
                pair = _Pair(above, name, old, new, old.stat(name), new.stat(name))
                yield pair
                if pair.after is None or not stat.S_ISDIR(pair.after.st_mode):
                    continue
                above += name + b"/"
                for place in places:
                    place.down(name)
                levels.append(level(whole) if new.is_somewhere else ([], whole))  # else it went after it was told
            elif above:
                levels.pop()
                above = above[: above.rfind(b"/", 0, -1) + 1]
                for place in places:
                    place.up()
            else:
                return


def _joined(old: int | None, new: int, record: Callable[[], Record] | None) -> frozenset[Inode]:
    """Find the files of `new` with names that were not linked with each other before, of which one at least was there."""
    sources: defaultdict[Inode, set[Inode | None]] = defaultdict(set)
    for pair in _walk(old, new, record):
        if linked := pair.linked:
            unchanged = pair.before is not None and pair.kind() is None
            sources[linked].add(inode(pair.before) if pair.before and unchanged else None)
    return frozenset(file for file, names in sources.items() if len(names) > 1)


def _same_root(old: int, new: int) -> bool:
    return not _attributes_differ(os.fstat(old), os.fstat(new)) and _xattrs(old, b".") == _xattrs(new, b".")


def _same(
    old: int, old_name: bytes, before: os.stat_result, new: int, new_name: bytes, after: os.stat_result
) -> bool:  # fmt: skip
    if _attributes_differ(before, after):
        return False
    if before.st_ino == after.st_ino and before.st_ctime_ns == after.st_ctime_ns:
        return True
    if _xattrs(old, old_name) != _xattrs(new, new_name):
        return False
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(old_name, dir_fd=old) == os.readlink(new_name, dir_fd=new)
    if stat.S_ISREG(after.st_mode) and after.st_size:
        return _same_contents(old, old_name, new, new_name, after.st_size)
    return True


def _attributes_differ(before: os.stat_result, after: os.stat_result) -> bool:
    if _permissions(before) != _permissions(after) or before.st_mtime_ns != after.st_mtime_ns:
        return True
    if stat.S_ISREG(after.st_mode):
        return before.st_size != after.st_size
    return (stat.S_ISCHR(after.st_mode) or stat.S_ISBLK(after.st_mode)) and before.st_rdev != after.st_rdev


def _permissions(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _xattrs(directory: int, name: bytes) -> dict[str, bytes]:
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    found: dict[str, bytes] = {}
    try:
        for attribute in os.listxattr(path, follow_symlinks=False):
            if not attribute.startswith(_OVERLAYS_OWN):
                found[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):  # taken away meanwhile; none on this file system
            raise
    return found


def _same_contents(old: int, old_name: bytes, new: int, new_name: bytes, size: int) -> bool:
    before = _open_file(old, old_name)
    try:
        after = _open_file(new, new_name)
        try:
            return _same_bytes(before, after, size)
        finally:
            os.close(after)
    finally:
        os.close(before)


def _same_bytes(before: int, after: int, size: int) -> bool:
    position = 0
    while position < size:
        if size > _PIECE:
            position = min(_next_data(before, position, size), _next_data(after, position, size))
        wanted = min(_PIECE, size - position)
        piece = os.pread(before, wanted, position)
        if piece != os.pread(after, wanted, position):
            return False
        if len(piece) < wanted:  # both were cut short meanwhile
            return True
        position += wanted
    return True


def _next_data(file: int, position: int, size: int) -> int:
    """Skip a hole; lseek(2), SEEK_DATA."""
    try:
        return os.lseek(file, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def _open_file(directory: int, name: bytes) -> int:
    """Open a regular file for reading; what has become of it meanwhile, a device above all, must not be opened.

    Raises `FileNotFoundError` for anything else.
    """
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no file any more", os.fsdecode(name))
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)
