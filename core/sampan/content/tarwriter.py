"""Writing a tar's headers: the same member gives the same bytes, always. Writes only; touches no file.

Plain ustar where it has room, a PAX header before it where not: long or non-ASCII names, large numbers, times with a
fraction or before 1970, extended attributes, sparse files. No names of users, no times but the modification's. What
`tarstream` reads, this writes. Sources: POSIX pax(1), "Sparse Formats" (PAX 1.0) of the GNU tar manual.
"""

from __future__ import annotations

import functools
import stat
import struct
from collections.abc import Mapping, Sequence

from sampan.api.errors import InvalidArgument
from sampan.content.tarstream import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HEADER_MAX,
    REGULAR,
    SYMLINK,
    Member,
)

END = bytes(2 * BLOCK)
"""What follows the last member."""

_XATTR = b"SCHILY.xattr."
_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_NAME_MAX = 100
_PAX_NAME = b"././@PaxHeader"
_SPARSE_DIRECTORY = b"GNUSparseFile.0/"
_OCTAL_7 = (1 << 21) - 1
_OCTAL_11 = (1 << 33) - 1
_HEADER = struct.Struct("100s 8s 8s 8s 12s 12s 8s 1s 100s 8s 64x 8s 8s 155x 12x")


def member(
    name: bytes,
    kind: bytes,
    *,
    link: bytes = b"",
    size: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
    extents: Sequence[tuple[int, int]] | None = None,
) -> Member:
    """Make a member; a directory's name ends with a slash. See `tarstream.Member` for the fields."""
    made = Member()
    made.name, made.kind, made.link, made.size = name, kind, link, size
    made.mode, made.uid, made.gid, made.mtime = mode, uid, gid, mtime
    made.major, made.minor = device
    made.xattrs = dict(xattrs or {})
    made.extents = None if extents is None else list(extents)
    return made


def kind_of(mode: int) -> bytes | None:
    """Give the type of a member for a file's mode; None for a socket, which tars don't have."""
    return _KINDS.get(stat.S_IFMT(mode))


def header(member: Member) -> bytes:
    """Give all that precedes a member's data: PAX header, header, map of a sparse file.

    Raises `InvalidArgument` when attributes or map are more than readers take (`HEADER_MAX`).
    """
    records: dict[bytes, bytes] = {_XATTR + key.encode("utf-8", "surrogateescape"): value for key, value in member.xattrs.items()}
    name, size, table = member.name, member.size, b""
    if member.extents is not None:
        table = _sparse_map(member.extents, member.size)
        records[b"GNU.sparse.major"], records[b"GNU.sparse.minor"] = b"1", b"0"
        records[b"GNU.sparse.name"], records[b"GNU.sparse.realsize"] = name, b"%d" % member.size
        name = _SPARSE_DIRECTORY + name.rpartition(b"/")[2][: _NAME_MAX - len(_SPARSE_DIRECTORY)]
        size = len(table) + sum(length for _, length in member.extents)
    elif len(name) > _NAME_MAX or not name.isascii():
        records[b"path"] = name
    if len(member.link) > _NAME_MAX or not member.link.isascii():
        records[b"linkpath"] = member.link
    for key, number in ((b"uid", member.uid), (b"gid", member.gid)):
        if number > _OCTAL_7:
            records[key] = b"%d" % number
    if size > _OCTAL_11:
        records[b"size"] = b"%d" % size
    seconds, fraction = divmod(member.mtime, 1_000_000_000)
    if fraction or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = _time(member.mtime)
    own = _ustar(member, name[:_NAME_MAX], size, seconds if 0 <= seconds <= _OCTAL_11 else 0)
    return _pax(records) + own + table if records else own


def padding(size: int) -> bytes:
    """Give what follows `size` bytes of data up to the next block."""
    return bytes(-size % BLOCK)


def _pax(records: Mapping[bytes, bytes]) -> bytes:
    payload = b"".join(_record(key, records[key]) for key in sorted(records))
    if len(payload) > HEADER_MAX:
        raise InvalidArgument(f"extended attributes of more than {HEADER_MAX} bytes have no place in a tar")
    return _pax_header(len(payload)) + payload + padding(len(payload))


@functools.lru_cache(maxsize=1024)
def _pax_header(size: int) -> bytes:
    return _fields(_PAX_NAME, b"x", b"", 0o644, 0, 0, size, 0, (0, 0))


def _record(key: bytes, value: bytes) -> bytes:
    """Give `LENGTH KEY=VALUE\\n`, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _time(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    text = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
    return (b"-" if nanoseconds < 0 else b"") + (text.rstrip(b"0") if fraction else text)


def _sparse_map(extents: Sequence[tuple[int, int]], size: int) -> bytes:
    """Give the map that precedes the data; one that doesn't reach the file's end gets an empty extent there."""
    pairs = list(extents)
    if not pairs or sum(pairs[-1]) != size:
        pairs.append((size, 0))
    text = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs)
    if len(text) > HEADER_MAX:
        raise InvalidArgument(f"a sparse map of {len(pairs)} extents has no place in a tar")
    return text + padding(len(text))


def _ustar(member: Member, name: bytes, size: int, seconds: int) -> bytes:
    uid, gid = (number if number <= _OCTAL_7 else 0 for number in (member.uid, member.gid))
    link, device = member.link[:_NAME_MAX], (member.major, member.minor)
    return _fields(name, member.kind, link, member.mode, uid, gid, size if size <= _OCTAL_11 else 0, seconds, device)


def _fields(
    name: bytes, kind: bytes, link: bytes, mode: int, uid: int, gid: int, size: int, seconds: int,
    device: tuple[int, int],
) -> bytes:  # fmt: skip
    block = bytearray(
        _HEADER.pack(
            name, b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % seconds, b" " * 8, kind,
            link, b"ustar\x0000", b"%07o" % device[0], b"%07o" % device[1],
        )
    )  # fmt: skip
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
