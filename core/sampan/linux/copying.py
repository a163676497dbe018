"""Copy a directory tree with all that a file system can hold.

Kept are owner, mode, times in nanoseconds, extended attributes (ACLs and capabilities are among them), hard
links, symlinks, devices, fifos, sockets and holes. File contents are shared by reflink where the file system
can (`ioctl_ficlone(2)`), else copied in the kernel (`copy_file_range(2)`).

The source is at rest; the target need not be: a container may write to a volume while it is filled. So everything
goes by directory descriptors, one pair for each level that is open, and no symbolic link in the target is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from sampan.linux.files import OPEN_DIRECTORY, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, ficlone, openat2

_CANNOT_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY})
_CHUNK = 1 << 30
_BUFFER = 1 << 20


def copy_tree(source: Path, target: Path) -> None:
    """Make the new directory `target` a copy of the directory `source`. Raises `OSError`; then a part may be
    there.
    """
    target.mkdir()
    level = _Level(os.open(source, OPEN_DIRECTORY), os.open(target, OPEN_DIRECTORY))
    _Copy(root=level).run()


def copy_contents(source: int, target: int) -> None:
    """Copy what is in the directory `source` into the empty directory `target`, both open descriptors, and the directory's own
    owner, mode and attributes. Raises `OSError`; then a part may be there.
    """
    level = _Level(os.open(".", OPEN_DIRECTORY, dir_fd=source), os.open(".", OPEN_DIRECTORY, dir_fd=target))
    _Copy(root=level).run()


def shares_blocks_below(directory: Path) -> bool:
    """Try whether copies below `directory` share blocks with what they are copied from. Leaves nothing behind; never raises."""
    try:
        with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as target:
            source.write(b"x")
            source.flush()
            ficlone(target.fileno(), source.fileno())
    except OSError:
        return False
    return True


@dataclass(slots=True)
class _Level:
    """A pair of open directories, and the names in it of the directories that are still to be copied."""

    source: int
    target: int
    name: str = ""
    pending: list[str] = field(default_factory=list)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


@dataclass(slots=True)
class _Copy:
    """One run: where the first copy of each inode with many links is, and whether reflinks are worth a
    try.
    """

    root: _Level
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    reflink: bool = True

    def run(self) -> None:
        """Copy depth first. A directory gets its metadata last: filling it changes its times."""
        open_levels = [self.root]
        try:
            self._fill(self.root, "")
            while open_levels:
                level = open_levels[-1]
                if level.pending:
                    name = level.pending.pop()
                    os.mkdir(name, dir_fd=level.target)
                    child = _Level(
                        os.open(name, OPEN_DIRECTORY, dir_fd=level.source),
                        os.open(name, OPEN_DIRECTORY, dir_fd=level.target),
                        name,
                    )
                    open_levels.append(child)
                    self._fill(child, "".join(f"{above.name}/" for above in open_levels[1:]))
                else:
                    _copy_metadata(level.source, level.target, ".")
                    open_levels.pop().close()
        finally:
            for level in open_levels:
                level.close()

    def _fill(self, level: _Level, path: str) -> None:
        """Copy what is in one directory but for its directories; `path` is the way to it from the root."""
        with os.scandir(level.source) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    level.pending.append(entry.name)
                    continue
                if status.st_nlink > 1:
                    identity = (status.st_dev, status.st_ino)
                    if first := self.links.get(identity):
                        self._link(first, level, entry.name)
                        continue
                    self.links[identity] = path + entry.name
                self._copy_inode(level, entry.name, status)
                _copy_metadata(level.source, level.target, entry.name)

    def _link(self, first: str, level: _Level, name: str) -> None:
        """Give the file at the path `first` from the root one more name."""
        above, _, last = first.rpartition("/")
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        directory = openat2(self.root.target, above or ".", os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        try:
            os.link(last, name, src_dir_fd=directory, dst_dir_fd=level.target, follow_symlinks=False)
        finally:
            os.close(directory)

    def _copy_inode(self, level: _Level, name: str, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=level.source)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                target = os.open(name, flags, 0o600, dir_fd=level.target)
                try:
                    self._copy_content(source, target, status.st_size)
                finally:
                    os.close(target)
            finally:
                os.close(source)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=level.source), name, dir_fd=level.target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=level.target)

    def _copy_content(self, source: int, target: int, size: int) -> None:
        if self.reflink and size:
            try:
                ficlone(target, source)
                return
            except OSError as error:
                if error.errno not in _CANNOT_CLONE:
                    raise
                self.reflink = False
        _copy_data(source, target, size)


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy the data between the holes; see `lseek(2)` on SEEK_DATA."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        offset = os.lseek(source, start, os.SEEK_HOLE)
        while start < offset:
            copied = _copy_range(source, target, min(offset - start, _CHUNK), start)
            if copied == 0:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            start += copied
    os.ftruncate(target, size)


def _copy_range(source: int, target: int, count: int, offset: int) -> int:
    """Copy in the kernel; between file systems that can't (`copy_file_range(2)`, EXDEV) through memory."""
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    data = os.pread(source, min(count, _BUFFER), offset)
    return os.pwrite(target, data, offset)


def _copy_metadata(source: int, target: int, name: str) -> None:
    """Copy owner, attributes, mode and times of `name`, in that order: a new owner clears capabilities and
    setuid.

    The attribute calls take no directory descriptor; the way through /proc is the same thing
    (`proc_pid_fd(5)`).
    """
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    from_path, to_path = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    for attribute in os.listxattr(from_path, follow_symlinks=False):
        value = os.getxattr(from_path, attribute, follow_symlinks=False)
        os.setxattr(to_path, attribute, value, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        _chmod(name, stat.S_IMODE(status.st_mode), target)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _chmod(name: str, mode: int, directory: int) -> None:
    """Set a mode without following a symbolic link that took the place of `name`: fchmodat(2) has no flag for that."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
