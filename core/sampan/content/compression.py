"""Compressed streams, told apart by their first bytes. Nothing is run from anywhere: all decoders are
libraries.

Imports of decoders are lazy, so that a reader pays for the one that it needs; `preload` imports them all, for
a child that is about to lose its file system. Sources: RFC 1952, RFC 8878, the formats of xz and bzip2.
"""

from __future__ import annotations

import enum
import functools
import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

from sampan.api.errors import InvalidArgument

WINDOW_MAX = 128 << 20
"""Bytes of memory that a zstd or xz stream may ask for."""
HEAD_SIZE = 6


class Compression(enum.StrEnum):
    """The forms in which a tar may come."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


_MAGIC = {
    b"\x1f\x8b": Compression.GZIP,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
    b"\xfd7zXZ\x00": Compression.XZ,
    b"BZh": Compression.BZIP2,
}


class Reader(Protocol):
    """Anything with `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes, b"" at the end."""
        ...


def detect(head: bytes) -> Compression:
    """Tell the compression of a stream that begins with `head` (`HEAD_SIZE` bytes are enough)."""
    for magic, compression in _MAGIC.items():
        if head.startswith(magic):
            return compression
    # A zstd stream may begin with a skippable frame: 0x184D2A5?, little-endian.
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return Compression.ZSTD
    return Compression.NONE


class Decompressed:
    """The plain bytes of a stream, whatever its compression; `compression` tells it.

    `read` raises `InvalidArgument` where the compressed stream is damaged or cut short.
    """

    def __init__(self, raw: Reader) -> None:
        """Look at the first bytes of `raw`."""
        head = b""
        while len(head) < HEAD_SIZE and (more := raw.read(HEAD_SIZE - len(head))):
            head += more
        self.compression = detect(head)
        self._reader, self._errors = _OPENERS[self.compression](_Prefixed(head, raw))

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes, b"" at the end."""
        try:
            return self._reader.read(size)
        except self._errors as error:
            raise InvalidArgument(f"the {self.compression} stream is damaged: {error}") from error


class Compressor(Protocol):
    """What compresses a stream, piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Take more bytes; give what is ready."""
        ...

    def flush(self) -> bytes:
        """Give the rest."""
        ...


_GZIP = 31
"""zlib's `wbits` for gzip with a header that tells neither name nor time."""


def compressor(form: Compression) -> Compressor | None:
    """Give a compressor for gzip, None for no compression. Raises `InvalidArgument` for another form."""
    if form is Compression.NONE:
        return None
    if form is not Compression.GZIP:
        raise InvalidArgument(f"a layer can't be written with {form}", remedy="use gzip or none")
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return cast(Compressor, isal_zlib.compressobj(1, zlib.DEFLATED, _GZIP))


def preload() -> None:
    """Import every decoder that a layer may need."""
    _gzip_class()
    import zstandard  # noqa: F401


class _Prefixed(io.RawIOBase):
    """A stream with the bytes that were read from it too early put back before it."""

    def __init__(self, head: bytes, rest: Reader) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            count = len(self._head) if size < 0 else size
            data, self._head = self._head[:count], self._head[count:]
            return data
        return self._rest.read(size)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


Opened = tuple[Reader, tuple[type[Exception], ...]]


def _open_plain(raw: _Prefixed) -> Opened:
    return raw, ()


def _open_gzip(raw: _Prefixed) -> Opened:
    opener, errors = _gzip_class()
    return opener(raw), errors


def _gzip_class() -> tuple[Callable[[_Prefixed], Reader], tuple[type[Exception], ...]]:
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    try:
        from isal import igzip, isal_zlib
    except ImportError:
        import gzip

        return lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"), errors
    opener: Any = igzip.IGzipFile
    damaged: Any = isal_zlib.error
    return lambda raw: cast(Reader, opener(fileobj=raw, mode="rb")), (*errors, damaged)


def _open_zstd(raw: _Prefixed) -> Opened:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX)
    source = cast(BinaryIO, raw)
    return decoder.stream_reader(source, read_size=1 << 18, read_across_frames=True), (zstandard.ZstdError,)


def _open_xz(raw: _Prefixed) -> Opened:
    import lzma

    return _Xz(raw), (lzma.LZMAError, EOFError)


class _Xz:
    """`lzma.LZMAFile` with a bound on memory, which it doesn't offer. Many streams in a row are read as
    one."""

    def __init__(self, raw: Reader) -> None:
        import lzma

        self._new = functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=WINDOW_MAX)
        self._decoder = self._new()
        self._raw = raw
        self._begun = False

    def read(self, size: int = -1, /) -> bytes:
        while True:
            if self._decoder.eof:
                rest = (self._decoder.unused_data or self._raw.read(1 << 18)).lstrip(b"\0")
                if not rest:
                    return b""
                self._decoder = self._new()
                data = self._decoder.decompress(rest, size)
            elif self._decoder.needs_input:
                more = self._raw.read(1 << 18)
                if not more:
                    raise EOFError("it ends too early")
                data = self._decoder.decompress(more, size)
            else:
                data = self._decoder.decompress(b"", size)
            if data:
                return data


def _open_bzip2(raw: _Prefixed) -> Opened:
    import bz2

    return bz2.BZ2File(raw, "rb"), (OSError, EOFError, ValueError)


_OPENERS: dict[Compression, Callable[[_Prefixed], Opened]] = {
    Compression.NONE: _open_plain,
    Compression.GZIP: _open_gzip,
    Compression.ZSTD: _open_zstd,
    Compression.XZ: _open_xz,
    Compression.BZIP2: _open_bzip2,
}
