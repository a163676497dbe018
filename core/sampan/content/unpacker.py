"""The child that turns a layer's tar into files, confined so that a hostile tar can harm only its own
directory.

It starts with two descriptors, the blob and the target directory, and locks itself into the target (`confinement`)
before it reads a byte of the blob. Beyond that, every path is looked up with `openat2(RESOLVE_IN_ROOT)` from a
directory descriptor and every last component is used without following it, so `..`, absolute names and symbolic links
stay inside by two walls.

Sources: image-spec layer.md (whiteouts), Documentation/filesystems/overlayfs.rst, openat2(2).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import queue
import resource
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any

from sampan.api.errors import InvalidArgument, SampanError, System
from sampan.content import compression, tarstream
from sampan.content.confinement import confine
from sampan.content.tarstream import Member, TarReader
from sampan.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_PIECE = 1 << 18
_PIECES_AHEAD = 16
_OPEN_DIRECTORIES = 256
_DEPTH = 20_000
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_OVERLAY_OPAQUE = "trusted.overlay.opaque"
_SPACE_CHECK_BYTES = 64 << 20
_SPACE_CHECK_ENTRIES = 4096
_SPACE_RESERVE = 256 << 20

# What the host, not the layer, is at fault for.
_HOST_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "ENOMEM", "EROFS", "EMFILE", "ENFILE", "EPERM", "EACCES")
)

_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP",
    "CAP_SYS_ADMIN",  # for trusted.*
)  # fmt: skip
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Pieces:
    """The plain bytes of the layer, decompressed and hashed by a thread while the main one writes files."""

    def __init__(self, blob: io.FileIO, most: int) -> None:
        """Start reading `blob`, of at most `most` plain bytes."""
        self._source = compression.Decompressed(blob)
        self._most = most
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES_AHEAD)
        self._hash = hashlib.sha256()
        self._ended = False
        threading.Thread(target=self._produce, daemon=True).start()

    def _produce(self) -> None:
        total = 0
        try:
            while piece := self._source.read(_PIECE):
                total += len(piece)
                if total > self._most:
                    raise InvalidArgument(f"the layer is larger than {self._most} bytes")
                self._hash.update(piece)
                self._queue.put(piece)
            self._queue.put(b"")
        except BaseException as error:
            self._queue.put(error)

    def next(self) -> bytes:
        """Give the next piece, b"" at the end."""
        if self._ended:
            return b""
        piece = self._queue.get()
        if isinstance(piece, BaseException):
            raise piece
        self._ended = not piece
        return piece

    def diff_id(self) -> str:
        """Read to the end and give the digest of all."""
        while self.next():
            pass
        return f"sha256:{self._hash.hexdigest()}"


class DeleteBelow:
    """Deletions where the target holds the whole tree: what an earlier layer left is deleted, what this one
    wrote is kept."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._written: set[bytes] = set()

    def wrote(self, path: bytes) -> None:
        """Remember `path` and the directories above it as this layer's."""
        while path and path not in self._written:
            self._written.add(path)
            path = path.rpartition(b"/")[0]

    def hide(self, parent: int, name: bytes, path: bytes) -> None:
        """Delete one name."""
        if path not in self._written:
            _remove(parent, name)
        elif stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            self._hide_below(parent, name, path)

    def hide_all(self, directory: int, path: bytes) -> None:
        """Delete all names in a directory."""
        for name in os.listdir(directory):
            encoded = os.fsencode(name)
            self.hide(directory, encoded, path + b"/" + encoded if path else encoded)

    def _hide_below(self, parent: int, name: bytes, path: bytes) -> None:
        directory = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        try:
            self.hide_all(directory, path)
        finally:
            os.close(directory)

    def made_over_whiteout(self, directory: int) -> None:
        """Nothing is left of what was deleted."""


class OverlayMarks:
    """Deletions as marks in an overlay's upper directory."""

    def wrote(self, path: bytes) -> None:
        """The upper directory holds nothing but this layer: no need to remember."""

    def hide(self, parent: int, name: bytes, path: bytes) -> None:
        """Put a 0/0 character device; what this layer itself put there stays and hides what is below."""
        try:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                directory = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
                try:
                    self.hide_all(directory, path)
                finally:
                    os.close(directory)

    def hide_all(self, directory: int, path: bytes) -> None:
        """Mark a directory opaque."""
        os.setxattr(directory, _OVERLAY_OPAQUE, b"y")

    def made_over_whiteout(self, directory: int) -> None:
        """A directory that takes the place of a whiteout must go on hiding what the whiteout hid."""
        self.hide_all(directory, b"")


class Unpacker:
    """Writes members below the directory `root`."""

    def __init__(self, tar: TarReader, root: int, deletions: DeleteBelow | OverlayMarks) -> None:
        """Touch nothing yet."""
        self._tar = tar
        self._root = root
        self._deletions = deletions
        self._open: dict[bytes, int] = {}
        self._directory_times: dict[bytes, int] = {}
        self._until_space_check = 0
        self._entries = 0

    def run(self) -> None:
        """Write all members, then the times of directories, which writing into them had changed."""
        for member in self._tar:
            path = _normal(member.name)
            try:
                self._one(path, member)
            except OSError as error:
                raise _translated(path, member, error) from error
        for path, mtime in self._directory_times.items():
            self._set_directory_time(path, mtime)
        self._forget_open()

    def _one(self, path: bytes, member: Member) -> None:
        self._entries += 1
        if self._entries % _SPACE_CHECK_ENTRIES == 0:
            self._check_space()
        above, _, name = path.rpartition(b"/")
        if _WHITEOUT in path and self._whiteout(above, name):
            return
        if not path:
            if member.kind == tarstream.DIRECTORY:
                self._finish_directory(self._root, path, member)
            return
        parent = self._directory(above)
        self._deletions.wrote(path)
        _WRITERS[member.kind](self, parent, name, path, member)

    def _whiteout(self, above: bytes, name: bytes) -> bool:
        if any(part.startswith(_AUFS) for part in above.split(b"/")):
            return True  # The inside of .wh..wh.plnk and the like: aufs' own, of no meaning.
        if any(part.startswith(_WHITEOUT) for part in above.split(b"/")):
            raise InvalidArgument(f"the layer has an entry below a whiteout: {os.fsdecode(above)!r}")
        if name == _OPAQUE:
            self._deletions.hide_all(self._directory(above), above)
        elif name.startswith(_AUFS):
            return True
        elif name.startswith(_WHITEOUT):
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise InvalidArgument(f"the layer has a whiteout of {os.fsdecode(hidden)!r}")
            self._deletions.hide(self._directory(above), hidden, above + b"/" + hidden if above else hidden)
        else:
            return False
        self._forget_open()
        return True

    def _directory(self, path: bytes) -> int:
        """Give a descriptor of a directory, made with mode 0755 where it is missing, as are those above
        it."""
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if len(self._open) >= _OPEN_DIRECTORIES:
            self._forget_open()
        try:
            fd = self._look_up(path)
        except FileNotFoundError:
            fd = self._make_directories(path)
        self._open[path] = fd
        return fd

    def _look_up(self, path: bytes) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY
        return openat2(self._root, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

    def _make_directories(self, path: bytes) -> int:
        fd = -1
        end = 0
        while end < len(path):
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            above, _, name = path[:end].rpartition(b"/")
            try:
                found = self._look_up(path[:end])
            except FileNotFoundError:
                parent = fd if fd >= 0 else self._root
                os.mkdir(name, 0o755, dir_fd=parent)  # EEXIST: a symbolic link that leads nowhere
                self._deletions.wrote(path[:end])
                found = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
            if fd >= 0:
                os.close(fd)
            fd = found
        return fd

    def _forget_open(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _clear(self, parent: int, name: bytes, path: bytes) -> None:
        """Take away what is in a member's place. Descriptors that may lead through it are forgotten."""
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            keep = os.dup(parent)
            self._forget_open()
            try:
                _remove(keep, name)
            finally:
                os.close(keep)
        else:
            os.unlink(name, dir_fd=parent)

    def _check_space(self) -> None:
        space = os.fstatvfs(self._root)
        reserve = min(_SPACE_RESERVE, space.f_blocks * space.f_frsize // 100)
        if space.f_bavail * space.f_frsize < reserve:
            raise System("unpack a layer: the disk is all but full", remedy="free some space")

    # One writer for each kind of member.

    def _write_regular(self, parent: int, name: bytes, path: bytes, member: Member) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear(parent, name, path)
            parent = self._directory(path.rpartition(b"/")[0])
            fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            if member.extents is None:
                self._copy(fd, member.size)
            else:
                self._copy_sparse(fd, member)
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            if member.xattrs:
                _set_xattrs(fd, member)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int) -> None:
        read, write = self._tar.read, os.write
        while size:
            data = read(_PIECE)
            size -= len(data)
            self._until_space_check -= len(data)
            if self._until_space_check < 0:
                self._check_space()
                self._until_space_check = _SPACE_CHECK_BYTES
            done = write(fd, data)
            while done < len(data):
                done += write(fd, data[done:])

    def _copy_sparse(self, fd: int, member: Member) -> None:
        for offset, length in member.extents or ():
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                data = self._tar.read(min(length, _PIECE))
                length -= len(data)
                done = 0
                while done < len(data):
                    done += os.write(fd, data[done:])
        os.ftruncate(fd, member.size)

    def _write_directory(self, parent: int, name: bytes, path: bytes, member: Member) -> None:
        over_whiteout = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                over_whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
                self._clear(parent, name, path)
                parent = self._directory(path.rpartition(b"/")[0])
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        try:
            if over_whiteout:
                self._deletions.made_over_whiteout(fd)
            self._finish_directory(fd, path, member)
        finally:
            os.close(fd)

    def _finish_directory(self, fd: int, path: bytes, member: Member) -> None:
        os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode)
        _set_xattrs(fd, member)
        self._directory_times[path] = member.mtime

    def _set_directory_time(self, path: bytes, mtime: int) -> None:
        above, _, name = path.rpartition(b"/")
        try:
            if not path:
                os.utime(self._root, ns=(mtime, mtime))
                return
            parent = self._open.get(above) or (self._look_up(above) if above else self._root)
            if above and above not in self._open:
                if len(self._open) >= _OPEN_DIRECTORIES:
                    self._forget_open()
                self._open[above] = parent
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            pass  # A later member took its place.

    def _write_symlink(self, parent: int, name: bytes, path: bytes, member: Member) -> None:
        self._in_free_place(lambda at: os.symlink(member.link, name, dir_fd=at), parent, name, path)
        self._finish(path, name, member)

    def _write_hard_link(self, parent: int, name: bytes, path: bytes, member: Member) -> None:
        source = _normal(member.link)
        if source == path:
            raise InvalidArgument(f"the layer has a hard link to itself: {os.fsdecode(path)!r}")
        above, _, source_name = source.rpartition(b"/")

        def link(at: int) -> None:
            # The source's directory first: opening it may close the descriptor of the other.
            there = os.dup(self._directory(above))
            try:
                os.link(
                    source_name,
                    name,
                    src_dir_fd=there,
                    dst_dir_fd=self._directory(path.rpartition(b"/")[0]),
                    follow_symlinks=False,
                )
            finally:
                os.close(there)

        if not source_name:
            raise InvalidArgument(f"the layer has a hard link to its root: {os.fsdecode(path)!r}")
        self._in_free_place(link, parent, name, path)

    def _write_node(self, parent: int, name: bytes, path: bytes, member: Member) -> None:
        if member.kind == tarstream.CHARACTER and member.major == member.minor == 0:
            where = os.fsdecode(path)
            raise InvalidArgument(f"the layer has a 0/0 character device, overlay's own mark: {where!r}")
        mode = _NODES[member.kind] | 0o600
        device = os.makedev(member.major, member.minor)
        self._in_free_place(lambda at: os.mknod(name, mode, device, dir_fd=at), parent, name, path)
        self._finish(path, name, member)

    def _in_free_place(self, make: Callable[[int], None], parent: int, name: bytes, path: bytes) -> None:
        try:
            make(parent)
        except FileExistsError:
            self._clear(parent, name, path)
            make(self._directory(path.rpartition(b"/")[0]))

    def _finish(self, path: bytes, name: bytes, member: Member) -> None:
        """Set owner, attributes and times of what can't be opened. A new node's owner is set before its
        mode."""
        parent = self._directory(path.rpartition(b"/")[0])
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.kind != tarstream.SYMLINK:
            os.chmod(name, member.mode, dir_fd=parent)
        if member.xattrs:
            os.fchdir(parent)
            _set_xattrs(name, member)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)


_NODES = {
    tarstream.CHARACTER: stat.S_IFCHR,
    tarstream.BLOCK_DEVICE: stat.S_IFBLK,
    tarstream.FIFO: stat.S_IFIFO,
}
_WRITERS = {
    tarstream.REGULAR: Unpacker._write_regular,
    tarstream.DIRECTORY: Unpacker._write_directory,
    tarstream.SYMLINK: Unpacker._write_symlink,
    tarstream.HARD_LINK: Unpacker._write_hard_link,
    tarstream.CHARACTER: Unpacker._write_node,
    tarstream.BLOCK_DEVICE: Unpacker._write_node,
    tarstream.FIFO: Unpacker._write_node,
}


def _normal(name: bytes) -> bytes:
    """Give a member's path from the root, without `.` and doubled slashes. An absolute one counts from the
    root as well."""
    if b".." in name and b".." in name.split(b"/"):
        raise InvalidArgument(f"the layer has a name that leads out of it: {os.fsdecode(name)!r}")
    if name[:1] not in b"./" and b"//" not in name and b"/." not in name and name[-1:] != b"/":
        return name
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _set_xattrs(target: int | bytes, member: Member) -> None:
    """Set what a layer may carry: `user.*`, `trusted.*`, file capabilities and ACLs.

    Labels of security modules belong to the host and are left out; `trusted.overlay.*` would command overlayfs and is
    refused.
    """
    for name, value in member.xattrs.items():
        if name.startswith("trusted.overlay."):
            where = os.fsdecode(member.name)
            raise InvalidArgument(f"the layer has the attribute {name} on {where!r}, which only the host sets")
        if name.startswith(("user.", "trusted.", "system.posix_acl_")) or name == "security.capability":
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)


def _remove(parent: int, name: bytes) -> None:
    """Delete a name and all below it, following nothing; one that is not there is no error."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    directory = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    try:
        for child in os.listdir(directory):
            _remove(directory, os.fsencode(child))
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _translated(path: bytes, member: Member, error: OSError) -> SampanError:
    where, cause = os.fsdecode(path or b"/"), os.strerror(error.errno or 0)
    linked = member.kind == tarstream.HARD_LINK and error.errno == errno.EPERM  # A directory can't be linked.
    if error.errno in _HOST_ERRORS and not linked:
        return System(f"write {where!r} of the layer: {cause}", remedy="look at the host's disk and mounts")
    link = f" -> {os.fsdecode(member.link)!r}" if member.link else ""
    return InvalidArgument(f"the layer has an entry that can't be made: {where!r}{link}: {cause}")


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the parent asked: see `layers.StoredLayer.unpack`."""
    compression.preload()
    limits = {resource.RLIMIT_FSIZE: request["file_bytes"], resource.RLIMIT_AS: request["memory_bytes"]}
    root = confine(request["target"], _CAPABILITIES, limits=limits)
    sys.setrecursionlimit(_DEPTH)
    with io.FileIO(request["blob"]) as blob:
        pieces = Pieces(blob, request["stream_bytes"])
        tar = TarReader(tarstream.Blocks(pieces.next), request["entries"])
        deletions = OverlayMarks() if request["whiteouts"] == "overlay" else DeleteBelow()
        Unpacker(tar, root, deletions).run()
        found = pieces.diff_id()
    if found != request["diff_id"]:
        raise InvalidArgument(f"the layer's content is {found}, not {request['diff_id']} as its image says")
    return {}
