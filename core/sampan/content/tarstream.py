"""Reading a tar as a stream: ustar, GNU and PAX headers, sparse files, extended attributes. Reads only;
touches no file.

Made for hostile input: every number and length is checked, headers are bounded, nothing is trusted but the
order of the bytes. `tarfile` isn't used because it takes five times as long for small files and keeps every
member in memory. Sources: POSIX pax(1), tar(5) of libarchive, "Basic Tar Format" and "Sparse Formats" of the
GNU tar manual.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator

from sampan.api.errors import InvalidArgument

BLOCK = 512
HEADER_MAX = 1 << 20
"""Bytes of one PAX header, GNU long name or sparse map at most."""
PATH_MAX = 4096
_SIZE_MAX = 1 << 62
_ID_MAX = (1 << 32) - 2  # The id above, -1, means "leave it" to chown(2).
_SECONDS_MAX = 1 << 33  # Times beyond are cut: no file system holds them, and no layer is worse for it.

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_GNU_SPARSE = b"S"
_REGULAR_TYPES = frozenset({REGULAR, b"\0", b"7", _GNU_SPARSE})
_WITHOUT_DATA = frozenset({HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_XATTR = b"SCHILY.xattr."

_HEADER = struct.Struct("100s 24s 12s 12s 8x 1s 100s 6s 2x 64x 8s 8s 155s 12x")
_EXTENSIONS = frozenset({b"x", b"g", b"L", b"K"})
_ADLER = 65521
_ZEROS = bytes(BLOCK)


class Member:
    """One entry. `kind` is one of the module's types, `size` the length of the file, `mtime` in nanoseconds.

    `extents`: (offset, length) of the data of a sparse file, in order, as they follow in the stream; None for
    a plain one.
    """

    __slots__ = ("extents", "gid", "kind", "link", "major", "minor", "mode", "mtime", "name", "size", "uid", "xattrs")

    name: bytes
    link: bytes
    kind: bytes
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    major: int
    minor: int
    xattrs: dict[str, bytes]
    extents: list[tuple[int, int]] | None


class Blocks:
    """A byte stream cut as its reader likes, over a function that gives the next piece (b"" at the end)."""

    def __init__(self, next_piece: Callable[[], bytes]) -> None:
        """Read nothing yet."""
        self._next = next_piece
        self._piece = b""
        self._at = 0

    def some(self, most: int) -> bytes:
        """Give 1 to `most` bytes, b"" at the end."""
        if self._at == len(self._piece):
            self._piece = self._next()
            self._at = 0
        at, self._at = self._at, min(self._at + most, len(self._piece))
        return self._piece if at == 0 and self._at == len(self._piece) else self._piece[at : self._at]

    def exactly(self, size: int) -> bytes:
        """Give `size` bytes, fewer only at the end of the stream."""
        at = self._at
        end = at + size
        if end < len(self._piece):
            self._at = end
            return self._piece[at:end]
        data = self.some(size)
        if len(data) == size or not data:
            return data
        parts = [data]
        missing = size - len(data)
        while missing and (data := self.some(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes; tell whether there were so many."""
        left = size
        while left:
            step = min(left, len(self._piece) - self._at)
            self._at += step
            left -= step
            if left:
                self._piece = self._next()
                self._at = 0
                if not self._piece:
                    return False
        return True


class TarReader:
    """The members of a tar, one after the other; what is not read of one is skipped when the next is asked
    for.

    `most` bounds the headers, of every type. Raises `InvalidArgument` for whatever is not a proper tar.
    """

    def __init__(self, blocks: Blocks, most: int) -> None:
        """Read nothing yet."""
        self._blocks = blocks
        self._most = most
        self._left = 0  # Bytes of the current member that are not yet read,
        self._padding = 0  # and of the padding after it.

    def __iter__(self) -> Iterator[Member]:
        """Give each member once."""
        pax: dict[bytes, bytes] = {}
        sparse_pairs: list[tuple[int, int]] = []
        long_name = long_link = b""
        while True:
            self._skip()
            header = self._blocks.exactly(BLOCK)
            if not header or header == _ZEROS:
                return
            if len(header) < BLOCK:
                raise InvalidArgument("the tar is cut short in a header")
            self._most -= 1
            if self._most < 0:
                raise InvalidArgument("the tar has more entries than are allowed")
            kind = header[156:157]
            if kind in _EXTENSIONS:
                payload = self._payload(header)
                if kind == b"x":
                    pax, sparse_pairs = _parse_pax(payload)
                elif kind == b"L":
                    long_name = payload.partition(b"\0")[0]
                elif kind == b"K":
                    long_link = payload.partition(b"\0")[0]
                continue
            member = self._member(header, pax, sparse_pairs, long_name, long_link)
            pax, sparse_pairs, long_name, long_link = {}, [], b"", b""
            yield member

    def data(self, most: int = 1 << 20) -> Iterator[bytes]:
        """Give the data of the current member, or what is left of it, in pieces of at most `most` bytes."""
        while self._left:
            yield self.read(most)

    def read(self, most: int) -> bytes:
        """Give 1 to `most` bytes of the current member's data, b"" at its end."""
        if not self._left:
            return b""
        data = self._blocks.some(min(most, self._left))
        if not data:
            raise InvalidArgument("the tar is cut short in a file")
        self._left -= len(data)
        return data

    def read_all(self, limit: int) -> bytes:
        """Give the whole data of the current member. Raises `InvalidArgument` when it is more than `limit`
        bytes."""
        if self._left > limit:
            raise InvalidArgument(f"a member of the tar is larger than {limit} bytes")
        return b"".join(self.data())

    def _skip(self) -> None:
        left = self._left + self._padding
        if left:
            self._left = self._padding = 0
            if not self._blocks.skip(left):
                raise InvalidArgument("the tar is cut short in a file")

    def _begin(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _payload(self, header: bytes) -> bytes:
        _check_sum(header)
        self._begin(_number(header[124:136], "size", HEADER_MAX))
        return self.read_all(HEADER_MAX)

    def _member(
        self,
        header: bytes,
        pax: dict[bytes, bytes],
        sparse_pairs: list[tuple[int, int]],
        long_name: bytes,
        long_link: bytes,
    ) -> Member:
        _check_sum(header)
        name, owner, size, mtime, kind, link, magic, major, minor, prefix = _HEADER.unpack(header)
        name = name.partition(b"\0")[0]
        if prefix[0] and magic == b"ustar\0":
            name = prefix.partition(b"\0")[0] + b"/" + name
        member = Member()
        member.name = long_name or name
        member.link = long_link or link.partition(b"\0")[0]
        member.mode, member.uid, member.gid = _owner(owner)
        member.mtime = _seconds(mtime) * 1_000_000_000
        member.major = member.minor = 0
        member.xattrs = {}
        member.extents = None
        stored = _number(size, "size", _SIZE_MAX)
        if pax:
            stored = _override(member, stored, pax)
        if kind in _REGULAR_TYPES:
            member.kind = DIRECTORY if member.name.endswith(b"/") and kind != _GNU_SPARSE else REGULAR
        elif kind in _WITHOUT_DATA:
            member.kind = kind
            if kind in (CHARACTER, BLOCK_DEVICE):
                member.major, member.minor = _number(major, "major", 0xFFF), _number(minor, "minor", 0xFFFFF)
        else:
            raise InvalidArgument(f"the tar has an entry of unknown type {kind!r}")
        member.size = stored if member.kind == REGULAR else 0
        self._begin(member.size)
        if pax and member.kind == REGULAR and any(key.startswith(b"GNU.sparse.") for key in pax):
            self._pax_sparse(member, pax, sparse_pairs)
        if kind == _GNU_SPARSE:
            self._gnu_sparse(member, header)
        for path in (member.name, member.link):
            if len(path) > PATH_MAX or b"\0" in path:
                raise InvalidArgument(f"the tar has a name that is too long or holds a NUL: {path[:64]!r}…")
        return member

    def _gnu_sparse(self, member: Member, header: bytes) -> None:
        """Take the map of GNU's old format: four pairs in the header, 21 in each block that follows."""
        pairs: list[tuple[int, int]] = []
        table, extended = header[386:482], header[482]
        data_size, padding = self._left, self._padding
        while True:
            for at in range(0, len(table) - 23, 24):
                if table[at]:
                    offset = _number(table[at : at + 12], "offset", _SIZE_MAX)
                    pairs.append((offset, _number(table[at + 12 : at + 24], "length", _SIZE_MAX)))
            if not extended:
                break
            more = self._blocks.exactly(BLOCK)
            if len(more) < BLOCK or len(pairs) * 24 > HEADER_MAX:
                raise InvalidArgument("the tar has a sparse map that is too long or cut short")
            table, extended = more[:504], more[504]
        self._left, self._padding = data_size, padding
        _set_extents(member, pairs, _number(header[483:495], "size", _SIZE_MAX), data_size)

    def _pax_sparse(self, member: Member, pax: dict[bytes, bytes], pairs: list[tuple[int, int]]) -> None:
        """Take the map of GNU's PAX formats 0.0 (repeated keys), 0.1 (one key) or 1.0 (before the data)."""
        member.name = pax.get(b"GNU.sparse.name") or member.name
        size = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if size is None:
            raise InvalidArgument("the tar has a sparse file without a size")
        if pax.get(b"GNU.sparse.major") == b"1":
            pairs = self._sparse_map_in_data()
        elif b"GNU.sparse.map" in pax:
            numbers = [_decimal(text, "sparse map", _SIZE_MAX) for text in pax[b"GNU.sparse.map"].split(b",") if text]
            pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        _set_extents(member, pairs, _decimal(size, "size", _SIZE_MAX), self._left)

    def _sparse_map_in_data(self) -> list[tuple[int, int]]:
        lines: list[bytes] = []
        text = b""
        wanted = 1
        total = 0
        while len(lines) < wanted:
            block = self._blocks.exactly(BLOCK) if self._left >= BLOCK else b""
            total += BLOCK
            if len(block) < BLOCK or total > HEADER_MAX:
                raise InvalidArgument("the tar has a sparse map that is too long or cut short")
            self._left -= BLOCK
            *complete, text = (text + block).split(b"\n")
            lines += complete
            if lines:
                wanted = 1 + 2 * _decimal(lines[0], "sparse map", HEADER_MAX)
        numbers = [_decimal(line, "sparse map", _SIZE_MAX) for line in lines[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def _set_extents(member: Member, pairs: list[tuple[int, int]], size: int, stored: int) -> None:
    end = total = 0
    for offset, length in pairs:
        if offset < end or offset + length > size:
            raise InvalidArgument("the tar has a sparse map that is out of order or beyond the file's end")
        end = offset + length
        total += length
    if total != stored:
        raise InvalidArgument(f"the tar has a sparse map of {total} bytes over {stored} bytes of data")
    member.size = size
    member.extents = [(offset, length) for offset, length in pairs if length]


def _override(member: Member, stored: int, pax: dict[bytes, bytes]) -> int:
    """Put what a PAX header says in place of the header's own fields; give the size of the stored data."""
    member.name = pax.get(b"path") or member.name
    member.link = pax.get(b"linkpath") or member.link
    if uid := pax.get(b"uid"):
        member.uid = _decimal(uid, "uid", _ID_MAX)
    if gid := pax.get(b"gid"):
        member.gid = _decimal(gid, "gid", _ID_MAX)
    if mtime := pax.get(b"mtime"):
        member.mtime = _nanoseconds(mtime)
    for key, value in pax.items():
        if key.startswith(_XATTR):
            member.xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value
    size = pax.get(b"size")
    return _decimal(size, "size", _SIZE_MAX) if size else stored


def _check_sum(header: bytes) -> None:
    field = header[148:156]
    promised = _number(field, "checksum", 1 << 20)
    total = 256 - sum(field)
    # The low half of Adler-32 is one more than the sum of the bytes, but for multiples of 65521: quicker by far than `sum`.
    if (promised - total - (zlib.adler32(header) & 0xFFFF) + 1) % _ADLER == 0:
        return
    # Some old programs summed signed bytes.
    signed = total + sum(header) - 256 * sum(1 for byte in header[:148] + header[156:] if byte > 127)
    if promised != signed:
        raise InvalidArgument("this is not a tar, or a damaged one: a header's checksum is wrong")


@functools.lru_cache(1024)
def _owner(fields: bytes) -> tuple[int, int, int]:
    """Read mode, uid and gid, which are the same for most members of a tar."""
    mode, uid, gid = fields[:8], fields[8:16], fields[16:]
    return _number(mode, "mode", _SIZE_MAX) & 0o7777, _number(uid, "uid", _ID_MAX), _number(gid, "gid", _ID_MAX)


def _number(field: bytes, what: str, most: int) -> int:
    """Read a header's number: octal text, or GNU's base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
    else:
        try:
            value = int(field.strip(b"\0 ") or b"0", 8)
        except ValueError:
            raise InvalidArgument(f"the tar has a header with a malformed {what}") from None
    if not 0 <= value <= most:
        raise InvalidArgument(f"the tar has a header with a {what} out of range: {value}")
    return value


def _seconds(field: bytes) -> int:
    """Read a header's time, which alone may be negative."""
    if field[0] == 0xFF:
        return max(int.from_bytes(field, "big", signed=True), -_SECONDS_MAX)
    return min(_number(field, "time", 1 << 95), _SECONDS_MAX)


def _decimal(text: bytes, what: str, most: int) -> int:
    if not text.isdigit() or len(text) > 20 or int(text) > most:
        raise InvalidArgument(f"the tar has a malformed {what}: {text[:32]!r}")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    seconds = min(_decimal(whole or b"0", "time", 10**20), _SECONDS_MAX)
    nanoseconds = _decimal(fraction[:9].ljust(9, b"0"), "time", _SIZE_MAX)
    value = seconds * 1_000_000_000 + nanoseconds
    return -value if text.startswith(b"-") else value


def _parse_pax(payload: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Give the records, and the pairs of sparse format 0.0, whose keys repeat."""
    records: dict[bytes, bytes] = {}
    pairs: list[tuple[int, int]] = []
    offset = at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 21)
        if space < 0:
            raise InvalidArgument("the tar has a malformed PAX header")
        end = at + _decimal(payload[at:space], "PAX header", HEADER_MAX)
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if (
            end > len(payload)
            or end <= space + 1
            or payload[end - 1 : end] != b"\n"
            or not equals
            or not key
            or b"\0" in key
        ):
            raise InvalidArgument("the tar has a malformed PAX header")
        if key == b"GNU.sparse.offset":
            offset = _decimal(value, "sparse map", _SIZE_MAX)
        elif key == b"GNU.sparse.numbytes":
            pairs.append((offset, _decimal(value, "sparse map", _SIZE_MAX)))
        records[key] = value
        at = end
    return records, pairs
