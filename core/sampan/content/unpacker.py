"""The child that turns a layer's tar into files, confined so that a hostile tar can harm only its own
directory.

It starts with two descriptors, the blob and the target directory, and locks itself into the target (`confinement`)
before it reads a byte of the blob. Beyond that, every path is looked up with `openat2(RESOLVE_IN_ROOT)` from a
directory descriptor and every last component is used without following it, so `..`, absolute names and symbolic links
stay inside by two walls.

Three threads share the work, and leave the interpreter's lock to each other while they are in C or in the kernel: one
decompresses and one hashes (`Plain`), one writes the data of large files (`Behind`). The main one does the rest, in the
tar's order.

Sources: image-spec layer.md, openat2(2), acl(5).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import queue
import resource
import stat
import sys
import threading
from typing import Any

from sampan.api.errors import InvalidArgument, SampanError, System
from sampan.content import compression, tarstream
from sampan.content.behind import Behind
from sampan.content.confinement import confine
from sampan.content.deletions import DeleteBelow, Deletions, OverlayMarks, is_mark, remove
from sampan.content.space import Space
from sampan.content.tarstream import Member, TarReader
from sampan.content.xattrs import ACL_DEFAULT, OVERLAYS_OWN, is_carried
from sampan.linux.files import OPEN_DIRECTORY, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2, start_writeback

_PIECE = 1 << 19
_PIECES_AHEAD = 16
_OPEN_DIRECTORIES = 256
_OPEN_FILES = 4096
_DEPTH = 20_000
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_SPACE_CHECK_ENTRIES = 4096

# What the host, not the layer, is at fault for.
_HOST_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "ENOMEM", "EROFS", "EMFILE", "ENFILE", "EPERM", "EACCES")
)

_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP",
    "CAP_SYS_ADMIN",  # for trusted.*
)  # fmt: skip
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Plain:
    """The plain bytes of the layer, decompressed by one thread and hashed by another while the main one writes files."""

    def __init__(self, blob: io.FileIO, most: int) -> None:
        """Start reading `blob`, of at most `most` plain bytes."""
        self._source = compression.Decompressed(blob)
        self._most = most
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES_AHEAD)
        self._to_hash: queue.Queue[bytes] = queue.Queue(_PIECES_AHEAD)
        self._hash = hashlib.sha256()
        self._hasher = threading.Thread(target=self._hash_all, daemon=True)
        self._ended = False
        self._hasher.start()
        threading.Thread(target=self._read_all, daemon=True).start()

    def _read_all(self) -> None:
        total = 0
        try:
            while piece := self._source.read(_PIECE):
                total += len(piece)
                if total > self._most:
                    raise InvalidArgument(f"the layer is larger than {self._most} bytes")
                self._to_hash.put(piece)
                self._pieces.put(piece)
            self._to_hash.put(b"")
            self._pieces.put(b"")
        except BaseException as error:
            self._pieces.put(error)

    def _hash_all(self) -> None:
        while piece := self._to_hash.get():
            self._hash.update(piece)

    def next(self) -> bytes:
        """Give the next piece, b"" at the end."""
        if self._ended:
            return b""
        piece = self._pieces.get()
        if isinstance(piece, BaseException):
            raise piece
        self._ended = not piece
        return piece

    def diff_id(self) -> str:
        """Read to the end and give the digest of all."""
        while self.next():
            pass
        self._hasher.join()
        return f"sha256:{self._hash.hexdigest()}"


class _Directory:
    """An open directory. `hands_down`: what is made in it gets another group than ours, or ACLs."""

    __slots__ = ("fd", "hands_down")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.hands_down = os.fstat(fd).st_gid != os.getegid() or _has_default_acl(fd)


class Unpacker:
    """Writes members below the directory `root`."""

    def __init__(self, tar: TarReader, root: int, deletions: Deletions) -> None:
        """Touch nothing yet."""
        self._tar = tar
        self._root = _Directory(root)
        self._deletions = deletions
        self._space = Space(root, "unpack a layer")
        self._behind = Behind()
        self._owner = os.geteuid(), os.getegid()
        self._open: dict[bytes, _Directory] = {}
        self._directories: dict[bytes, tuple[int, bytes | None]] = {}
        self._entries = 0

    def run(self) -> None:
        """Write all members, then what writing into directories would have changed, or been changed by: their times and
        default ACLs."""
        for member in self._tar:
            path = _normal(member.name)
            try:
                self._one(path, member)
            except OSError as error:
                raise _translated(path, member, error) from error
        self._behind.wait()
        self._deletions.settle(lambda path: self._find(path).fd)
        for path, (mtime, acl) in self._directories.items():
            self._finish_directory(path, mtime, acl)
        self._forget_open()

    def _one(self, path: bytes, member: Member) -> None:
        self._entries += 1
        if self._entries % _SPACE_CHECK_ENTRIES == 0:
            self._space.check()
        above, _, name = path.rpartition(b"/")
        if _WHITEOUT in path and self._whiteout(above, name):
            return
        if not path:
            if member.kind == tarstream.DIRECTORY:
                self._set_directory(self._root.fd, path, member)
                self._root = _Directory(self._root.fd)
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
            self._deletions.hide_all(self._directory(above).fd, above)
        elif name.startswith(_AUFS):
            return True
        elif name.startswith(_WHITEOUT):
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise InvalidArgument(f"the layer has a whiteout of {os.fsdecode(hidden)!r}")
            self._deletions.hide(self._directory(above).fd, hidden, above + b"/" + hidden if above else hidden)
        else:
            return False
        self._forget_open()
        return True

    def _directory(self, path: bytes) -> _Directory:
        """Open a directory, made with mode 0755 where it is missing, as are those above it."""
        try:
            return self._find(path)
        except (FileNotFoundError, NotADirectoryError):
            os.close(self._make_directories(path))
            return self._find(path)

    def _find(self, path: bytes) -> _Directory:
        if not path:
            return self._root
        directory = self._open.get(path)
        if directory is None:
            if len(self._open) >= _OPEN_DIRECTORIES:
                self._forget_open()
            directory = self._open[path] = _Directory(self._look_up(path))
        return directory

    def _look_up(self, path: bytes) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY
        return openat2(self._root.fd, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

    def _make_directories(self, path: bytes) -> int:
        fd = -1
        end = 0
        while end < len(path):
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            try:
                found = self._look_up(path[:end])
            except (FileNotFoundError, NotADirectoryError):
                found = self._make_directory(fd if fd >= 0 else self._root.fd, path[:end])
            if fd >= 0:
                os.close(fd)
            fd = found
        return fd

    def _make_directory(self, parent: int, path: bytes) -> int:
        name = path.rpartition(b"/")[2]
        replaces = False
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:  # A symbolic link that leads nowhere, a file; only a deletion makes room.
            if not is_mark(parent, name):
                raise
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            replaces = True
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
        if replaces:
            self._deletions.replaced(fd, path)
        return fd

    def _forget_open(self) -> None:
        for directory in self._open.values():
            os.close(directory.fd)
        self._open.clear()

    def _clear(self, parent: _Directory, name: bytes, path: bytes) -> _Directory:
        """Take away what is in a member's place. Descriptors that may lead through it are forgotten, so the directory
        is given anew."""
        if stat.S_ISREG(os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent.fd)
            return parent
        keep = os.dup(parent.fd)
        self._forget_open()
        try:
            remove(keep, name)
        finally:
            os.close(keep)
        return self._directory(path.rpartition(b"/")[0])

    # One writer for each kind of member.

    def _write_regular(self, parent: _Directory, name: bytes, path: bytes, member: Member) -> None:
        # What is made with its mode and our ids needs no more calls to get them, unless the directory interferes.
        mode = 0o600 if parent.hands_down else member.mode & 0o777
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        except FileExistsError:
            parent = self._clear(parent, name, path)
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        finish = functools.partial(self._finish_file, fd, member, parent.hands_down)
        if member.extents is not None:
            self._copy_sparse(fd, member)
            finish()
        elif member.size >= _PIECE:
            for data in self._tar.data(_PIECE):
                self._space.take(len(data))
                self._behind.do(functools.partial(_write_behind, fd, data, path, member))
            self._behind.do(functools.partial(start_writeback, fd, 0, member.size))
            self._behind.do(finish)
        else:
            self._space.take(member.size)
            for data in self._tar.data(_PIECE):
                _write(fd, data)
            finish()

    def _copy_sparse(self, fd: int, member: Member) -> None:
        for offset, length in member.extents or ():
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                data = self._tar.read(min(length, _PIECE))
                length -= len(data)
                self._space.take(len(data))
                _write(fd, data)
        os.ftruncate(fd, member.size)

    def _finish_file(self, fd: int, member: Member, hands_down: bool) -> None:
        try:
            if hands_down or (member.uid, member.gid) != self._owner:
                os.fchown(fd, member.uid, member.gid)
            if hands_down:
                _drop_xattrs(fd)
            if hands_down or member.mode > 0o777:
                os.fchmod(fd, member.mode)
            if member.xattrs:
                _set_xattrs(fd, member)
            os.utime(fd, ns=(member.mtime, member.mtime))
        except OSError as error:
            raise _translated(_normal(member.name), member, error) from error
        finally:
            os.close(fd)

    def _write_directory(self, parent: _Directory, name: bytes, path: bytes, member: Member) -> None:
        stays = replaces = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            stays = stat.S_ISDIR(os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode)
            if not stays:
                parent, replaces = self._clear(parent, name, path), True
                os.mkdir(name, 0o700, dir_fd=parent.fd)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent.fd)
        try:
            if stays:
                self._forget_open()  # By whatever path it is open: what it hands down changes.
            if replaces:
                self._deletions.replaced(fd, path)
            self._set_directory(fd, path, member)
        finally:
            os.close(fd)

    def _set_directory(self, fd: int, path: bytes, member: Member) -> None:
        os.fchown(fd, member.uid, member.gid)
        _drop_xattrs(fd)
        os.fchmod(fd, member.mode)
        acl = member.xattrs.pop(ACL_DEFAULT, None)
        _set_xattrs(fd, member)
        self._directories[path] = member.mtime, acl

    def _finish_directory(self, path: bytes, mtime: int, acl: bytes | None) -> None:
        above, _, name = path.rpartition(b"/")
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=self._find(above).fd) if path else os.dup(self._root.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # A later member took its place.
            raise
        try:
            if acl is not None:
                os.setxattr(fd, ACL_DEFAULT, acl)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def _write_symlink(self, parent: _Directory, name: bytes, path: bytes, member: Member) -> None:
        try:
            os.symlink(member.link, name, dir_fd=parent.fd)
        except FileExistsError:
            parent = self._clear(parent, name, path)
            os.symlink(member.link, name, dir_fd=parent.fd)
        self._finish(parent, name, member)

    def _write_hard_link(self, parent: _Directory, name: bytes, path: bytes, member: Member) -> None:
        source = _normal(member.link)
        if source == path:
            raise InvalidArgument(f"the layer has a hard link to itself: {os.fsdecode(path)!r}")
        if not source:
            raise InvalidArgument(f"the layer has a hard link to its root: {os.fsdecode(path)!r}")
        try:
            self._link(source, path)
        except FileExistsError:
            self._clear(parent, name, path)
            self._link(source, path)

    def _link(self, source: bytes, path: bytes) -> None:
        source_above, _, source_name = source.rpartition(b"/")
        above, _, name = path.rpartition(b"/")
        there = os.dup(self._find(source_above).fd)  # Opening the other directory may close this one.
        try:
            if is_mark(there, source_name):
                raise InvalidArgument(f"the layer has a hard link to {os.fsdecode(source)!r}, which it deletes")
            here = self._directory(above).fd
            os.link(source_name, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(there)

    def _write_node(self, parent: _Directory, name: bytes, path: bytes, member: Member) -> None:
        if member.kind == tarstream.CHARACTER and member.major == member.minor == 0:
            where = os.fsdecode(path)
            raise InvalidArgument(f"the layer has a 0/0 character device, overlay's own mark: {where!r}")
        mode = _NODES[member.kind] | 0o600
        device = os.makedev(member.major, member.minor)
        try:
            os.mknod(name, mode, device, dir_fd=parent.fd)
        except FileExistsError:
            parent = self._clear(parent, name, path)
            os.mknod(name, mode, device, dir_fd=parent.fd)
        self._finish(parent, name, member)

    def _finish(self, parent: _Directory, name: bytes, member: Member) -> None:
        """Set owner, mode, attributes and times of what can't be opened, the owner before the mode."""
        os.chown(name, member.uid, member.gid, dir_fd=parent.fd, follow_symlinks=False)
        if parent.hands_down or member.xattrs:
            os.fchdir(parent.fd)  # There are no calls for attributes from a directory's descriptor.
        if parent.hands_down:
            _drop_xattrs(name)
        if member.kind != tarstream.SYMLINK:
            os.chmod(name, member.mode, dir_fd=parent.fd)
        if member.xattrs:
            _set_xattrs(name, member)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent.fd, follow_symlinks=False)


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
    if name[:2] == b"./":
        name = name[2:]
    if name[:1] not in b"./" and name[-1:] != b"/" and b"//" not in name and b"/." not in name:
        return name
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _write(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def _write_behind(fd: int, data: bytes, path: bytes, member: Member) -> None:
    try:
        _write(fd, data)
    except OSError as error:
        raise _translated(path, member, error) from error


def _set_xattrs(target: int | bytes, member: Member) -> None:
    for name, value in member.xattrs.items():
        if name.startswith(OVERLAYS_OWN):
            where = os.fsdecode(member.name)
            raise InvalidArgument(f"the layer has the attribute {name} on {where!r}, which only the host sets")
        if is_carried(name):
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                raise _attribute_error(name, member, error) from error


def _drop_xattrs(target: int | bytes) -> None:
    """Take away what a directory handed down, or had before it became this layer's."""
    if isinstance(target, int):
        for name in filter(is_carried, os.listxattr(target)):
            os.removexattr(target, name)
    else:
        for name in filter(is_carried, os.listxattr(target, follow_symlinks=False)):
            os.removexattr(target, name, follow_symlinks=False)


def _has_default_acl(fd: int) -> bool:
    try:
        return bool(os.getxattr(fd, ACL_DEFAULT))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def _attribute_error(name: str, member: Member, error: OSError) -> SampanError:
    what = f"attribute {name!r} of {os.fsdecode(member.name)!r}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EOPNOTSUPP:
        return System(f"set {what}", remedy="use a file system with extended attributes and ACLs")
    if error.errno in (errno.EIO, errno.EDQUOT, errno.EROFS, errno.ENOMEM):
        return System(f"set {what}", remedy="look at the host's disk and mounts")
    if error.errno == errno.ENOSPC:  # of the disk, or of the inode: ext4 has a block for each
        return System(f"set {what}", remedy="free some space, or use a file system with room for large attributes")
    return InvalidArgument(f"the layer has an attribute that can't be set: {what}")


def _translated(path: bytes, member: Member, error: OSError) -> SampanError:
    where, cause = os.fsdecode(path or b"/"), os.strerror(error.errno or 0)
    linked = member.kind == tarstream.HARD_LINK and error.errno == errno.EPERM  # A directory can't be linked.
    if error.errno in _HOST_ERRORS and not linked:
        remedy = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "look at the host's disk and mounts"
        )
        return System(f"write {where!r} of the layer: {cause}", remedy=remedy)
    link = f" -> {os.fsdecode(member.link)!r}" if member.link else ""
    return InvalidArgument(f"the layer has an entry that can't be made: {where!r}{link}: {cause}")


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the parent asked: see `layers.unpack_stream`."""
    compression.preload()
    root = confine(
        request["target"],
        _CAPABILITIES,
        limits={
            resource.RLIMIT_FSIZE: request["file_bytes"],
            resource.RLIMIT_AS: request["memory_bytes"],
            resource.RLIMIT_NOFILE: _OPEN_FILES,
        },
    )
    sys.setrecursionlimit(_DEPTH)
    with io.FileIO(request["blob"]) as blob:
        plain = Plain(blob, request["stream_bytes"])
        tar = TarReader(tarstream.Blocks(plain.next), request["entries"])
        Unpacker(tar, root, OverlayMarks() if request["whiteouts"] == "overlay" else DeleteBelow()).run()
        found = plain.diff_id()
    if request["diff_id"] not in ("", found):
        raise InvalidArgument(f"the layer's content is {found}, not {request['diff_id']} as its image says")
    return {"diff_id": found}
