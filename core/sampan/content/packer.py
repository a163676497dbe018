"""The child that turns a tree, or what changed in it, into a tar: the same tree gives the same bytes.

The tree belongs to a container that may be hostile and may be running. The child locks itself into it, read-only
(`confinement`), and moves by descriptors (`sampan.linux.cursor`). Fifos, sockets and devices are never opened. A file that
shrinks or grows while it is read is filled with zeros or cut at the size that its header told; a name that vanishes is
left out. What a layer can't carry is left out and counted.

The form is in docs/adr/0068-reproducible-layers.md. Sources: image-spec layer.md, lseek(2) (SEEK_DATA).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import resource
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.content import compression, tarwriter
from sampan.content.behind import Behind
from sampan.content.compression import Compression, Compressor
from sampan.content.confinement import READ_ONLY, confine
from sampan.content.space import Space
from sampan.content.tarstream import CHARACTER, DIRECTORY, HARD_LINK, PATH_MAX, REGULAR, SYMLINK, Member
from sampan.content.xattrs import is_carried
from sampan.linux.comparing import Change, ChangeKind, compare
from sampan.linux.cursor import Cursor, Inode, inode

_CAPABILITIES = ("CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")  # the latter shows trusted.*
_GRAIN = 4096
_EXTENTS = 40_000  # Go and `tarstream` take a map of 1 MB.
_ZEROS_MAX = 64 << 30
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_BATCH = 1 << 18
_WHITEOUT = b".wh."
_NAMED = 10
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Output:
    """Where the tar goes: a thread hashes, compresses and writes while the main one reads files."""

    def __init__(self, fd: int, compressor: Compressor | None, most: int) -> None:
        """Write to `fd` at most `most` bytes of tar, compressed."""
        self._fd = fd
        self._space = Space(fd, "store it")  # a pipe has no bounds
        self._compressor = compressor
        self._left = most
        self._most = most
        self._written = hashlib.sha256()
        self._plain = self._written if self._compressor is None else hashlib.sha256()
        self._size = 0
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._behind = Behind()

    def write(self, data: bytes) -> None:
        """Add bytes. Raises what went wrong with earlier ones."""
        self._left -= len(data)
        if self._left < 0:
            raise InvalidArgument(f"its tar is larger than {self._most} bytes")
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _BATCH:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """Write what is left; give the digests and the size of what was written."""
        self._flush()
        self._behind.do(self._end)
        self._behind.wait()
        digests = {"diff_id": f"sha256:{self._plain.hexdigest()}", "digest": f"sha256:{self._written.hexdigest()}"}
        return {**digests, "size": self._size}

    def _flush(self) -> None:
        if self._pending:
            data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending.clear()
            self._pending_size = 0
            self._behind.do(functools.partial(self._take, data))

    def _take(self, data: bytes) -> None:
        if self._compressor is None:
            self._put(data)
        else:
            self._plain.update(data)
            self._put(self._compressor.compress(data))

    def _end(self) -> None:
        if self._compressor is not None:
            self._put(self._compressor.flush())

    def _put(self, data: bytes) -> None:
        self._written.update(data)
        self._size += len(data)
        self._space.take(len(data))
        done = 0
        while done < len(data):
            done += os.write(self._fd, memoryview(data)[done:])


class Packer:
    """Writes members for changes in the tree `root`."""

    def __init__(self, root: int, output: Output, *, is_layer: bool, sparse_min: int) -> None:
        """In a layer names that begin with `.wh.` have a meaning of their own, and the root has an entry, for its times."""
        self._cursor = Cursor(root)
        self._at: list[bytes] = []
        self._begun = not is_layer
        self._output = output
        self._is_layer = is_layer
        self._sparse_min = sparse_min
        self._first_names: dict[Inode, bytes] = {}
        self._zeros = 0
        self.files_size = 0
        """Bytes of files and symbolic links, as `layer_size.files_size` counts them."""
        self.left_out: dict[str, list[str]] = {}
        """Why → the first names; the count is in `counts`."""
        self.counts: dict[str, int] = {}

    def run(self, changes: Iterable[Change]) -> None:
        """Write all; the changes come sorted as a walk."""
        with self._cursor:
            for change in changes:
                self._one(change)
        self._output.write(tarwriter.END)

    def _one(self, change: Change) -> None:
        parts = change.path.split(b"/") if change.path else []
        if len(change.path) > PATH_MAX - len(_WHITEOUT):
            self._leave_out("path too long", change.path)
        elif self._is_layer and any(part.startswith(_WHITEOUT) for part in parts):
            self._leave_out("name of a whiteout", change.path)
        elif not parts:
            self._go([])
        elif change.kind is ChangeKind.DELETED:
            self._go(parts[:-1])
            if self._cursor.is_somewhere:
                name = b"/".join([*parts[:-1], _WHITEOUT + parts[-1]])
                self._output.write(tarwriter.header(tarwriter.member(name, REGULAR)))
        else:
            self._write(parts, change.path)

    def _write(self, parts: list[bytes], path: bytes) -> None:
        self._go(parts[:-1])
        status = self._cursor.stat(parts[-1])
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._go(parts)
        elif inode(status) in self._first_names:
            self._add(_of(status, path, HARD_LINK, link=self._first_names[inode(status)]), path)
        elif stat.S_ISREG(status.st_mode):
            self._write_file(parts[-1], path)
        else:
            self._write_node(parts[-1], path, status)

    def _go(self, parts: list[bytes]) -> None:
        """Go to a directory and write those entered on the way: unpacking what is in them changes their times."""
        if not self._begun:
            self._begun = True
            self._write_directory(b"./")
        same = 0
        while same < min(len(parts), len(self._at)) and parts[same] == self._at[same]:
            same += 1
        while len(self._at) > same:
            self._at.pop()
            self._cursor.up()
        for part in parts[same:]:
            self._at.append(part)
            self._cursor.down(part)
            if self._cursor.is_somewhere:
                self._write_directory(b"/".join(self._at) + b"/")

    def _write_directory(self, name: bytes) -> None:
        fd = self._cursor.fd
        self._add(_of(os.fstat(fd), name, DIRECTORY, xattrs=self._xattrs(fd, name)), name)

    def _write_file(self, name: bytes, path: bytes) -> None:
        try:
            fd = os.open(name, _OPEN_FILE, dir_fd=self._cursor.fd)
        except OSError:
            now = self._cursor.stat(name)
            if now is None or not stat.S_ISREG(now.st_mode):
                return  # Gone, or something else took its place.
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            extents = sparse_extents(fd, status.st_size, self._sparse_min)
            data = [(0, status.st_size)] if extents is None else extents
            self._check_growth(path, sum(length for _, length in data) - status.st_blocks * 512)
            member = _of(status, path, REGULAR, size=status.st_size, xattrs=self._xattrs(fd, path), extents=extents)
            if self._add(member, path):
                self._remember(status, path)
                self._send(fd, data)
        finally:
            os.close(fd)

    def _check_growth(self, path: bytes, zeros: int) -> None:
        """Refuse to make a few blocks on disk into any number of zeros in a tar."""
        self._zeros += max(0, zeros)
        if self._zeros > _ZEROS_MAX:
            raise InvalidArgument(
                f"holes in its files would take more than {_ZEROS_MAX >> 30} GB in a tar, the last one {_shown(path)}",
                remedy="delete sparse files with data in very many places, or keep them in a volume",
            )

    def _write_node(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        kind = tarwriter.kind_of(status.st_mode)
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        link = b""
        if kind is None:
            self._leave_out("socket", path)
            return
        if kind == CHARACTER and device == (0, 0):
            self._leave_out("0/0 device", path)
            return
        os.fchdir(self._cursor.fd)
        try:
            if stat.S_ISLNK(status.st_mode):
                link = os.readlink(name)
            xattrs = self._xattrs(name, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return  # Gone, or no symlink any more.
            raise
        if self._add(_of(status, path, kind, link=link, device=device, xattrs=xattrs), path):
            self._remember(status, path)

    def _remember(self, status: os.stat_result, path: bytes) -> None:
        if status.st_nlink > 1:
            self._first_names[inode(status)] = path

    def _add(self, member: Member, path: bytes) -> bool:
        try:
            header = tarwriter.header(member)
        except InvalidArgument:
            self._leave_out("more attributes than a header holds", path)
            return False
        self._output.write(header)
        self.files_size += member.size or len(member.link) * (member.kind == SYMLINK)
        return True

    def _send(self, fd: int, extents: Iterable[tuple[int, int]]) -> None:
        """Write the data of a file, as long as it was when its header was made, and the padding."""
        total = 0
        for offset, length in extents:
            total += length
            while length:
                data = os.pread(fd, min(length, _PIECE), offset) or _ZEROS[: min(length, _PIECE)]
                self._output.write(data)
                offset += len(data)
                length -= len(data)
        if rest := tarwriter.padding(total):
            self._output.write(rest)

    def _xattrs(self, target: int | bytes, path: bytes) -> dict[str, bytes]:
        follow = isinstance(target, int)
        found = {}
        try:
            names = os.listxattr(target, follow_symlinks=follow)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            raise
        for name in names:
            if not is_carried(name):
                continue
            if "=" in name:
                self._leave_out("attribute with = in its name", path)
                continue
            try:
                found[name] = os.getxattr(target, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
        return found

    def _leave_out(self, why: str, path: bytes) -> None:
        self.counts[why] = self.counts.get(why, 0) + 1
        named = self.left_out.setdefault(why, [])
        if len(named) < _NAMED:
            named.append(_shown(path))


def _shown(path: bytes) -> str:
    return path[:PATH_MAX].decode("ascii", "backslashreplace")


def sparse_extents(fd: int, size: int, least: int) -> list[tuple[int, int]] | None:
    """Give (offset, length) of what is not zeros in a file, or None for one that is written as it is: one below `least` bytes.

    The answer follows from the content alone; where the holes are only makes it quick. Blocks are of 4096 bytes, and
    twice as large, again and again, where there would be more than 40,000 extents.
    """
    if size < least:
        return None
    most, grain = size // 4, _GRAIN
    extents: list[tuple[int, int]] = []
    total = 0
    for offset, length in _nonzero(fd, size):
        total += length
        if total > most:
            return None
        extents.append((offset, length))
        while len(extents) > _EXTENTS:
            grain *= 2
            extents = _coarser(extents, grain, size)
    return _coarser(extents, grain, size)


def _nonzero(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Give each run of blocks that are not all zeros, in order; a run may come in parts."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            hole = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # A hole up to the end, or the file was cut.
            raise
        offset = max(offset, start - start % _GRAIN)
        end = min(-(-hole // _GRAIN) * _GRAIN, size)
        while offset < end:
            data = os.pread(fd, min(_PIECE, end - offset), offset)
            yield from _nonzero_blocks(data, offset)
            offset += len(data)
            if not data or len(data) % _GRAIN:
                return


def _nonzero_blocks(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    if data == _ZEROS[: len(data)]:
        return
    zero = _ZEROS[:_GRAIN]
    for at in range(0, len(data), _GRAIN):
        block = data[at : at + _GRAIN]
        if block != zero[: len(block)]:
            yield offset + at, len(block)


def _coarser(extents: list[tuple[int, int]], grain: int, size: int) -> list[tuple[int, int]]:
    """Widen extents to whole blocks of `grain` bytes and join those that touch."""
    joined: list[tuple[int, int]] = []
    for offset, length in extents:
        start, end = offset - offset % grain, min(-(-(offset + length) // grain) * grain, size)
        if joined and sum(joined[-1]) >= start:
            joined[-1] = (joined[-1][0], end - joined[-1][0])
        else:
            joined.append((start, end - start))
    return joined


def _of(
    status: os.stat_result,
    name: bytes,
    kind: bytes,
    *,
    link: bytes = b"",
    size: int = 0,
    device: tuple[int, int] = (0, 0),
    xattrs: dict[str, bytes] | None = None,
    extents: list[tuple[int, int]] | None = None,
) -> Member:
    return tarwriter.member(
        name,
        kind,
        link=link,
        size=size,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        device=device,
        xattrs=xattrs,
        extents=extents,
    )


def read_changes(fd: int) -> Iterator[Change]:
    """Give the changes that the parent tells: kind, space, path and a NUL each, and a NUL at the end.

    Raises `InvalidArgument` where they end without that.
    """
    rest = b""
    while piece := os.read(fd, _BATCH):
        *records, rest = (rest + piece).split(b"\0")
        for record in records:
            if not record:
                return
            kind, _, path = record.partition(b" ")
            yield Change(path, ChangeKind(kind.decode()))
    raise InvalidArgument("the list of changes is cut short")


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the parent asked: see `layer_writer`."""
    is_layer = request["changes"]
    compressor = compression.compressor(Compression(request["compression"]))
    limits = {resource.RLIMIT_AS: request["memory_bytes"]}
    root = confine(request["root"], _CAPABILITIES, limits=limits, options=READ_ONLY)
    output = Output(request["out"], compressor, request["stream_bytes"])
    packer = Packer(root, output, is_layer=is_layer, sparse_min=request["sparse_min"])
    packer.run(read_changes(0) if is_layer else compare(None, root))
    return {**output.finish(), "files_size": packer.files_size, "left_out": packer.left_out, "counts": packer.counts}
