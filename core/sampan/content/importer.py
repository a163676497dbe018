"""`docker import`: any tar of a root file system becomes an image of one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import BinaryIO

from sampan.api.errors import InvalidArgument
from sampan.api.types import ContainerConfig
from sampan.content.blobs import BlobStore, BlobWriter
from sampan.content.changes import apply_changes
from sampan.content.compression import Compression, Decompressed
from sampan.content.images import LoadedImage, layer_media_type, put_config, put_manifest
from sampan.content.layer_size import digest_and_size
from sampan.content.manifests import Platform, host_platform

_PIECE = 1 << 18


def import_tar(
    stream: BinaryIO, blobs: BlobStore, changes: Sequence[str], message: str, platform: str | None
) -> LoadedImage:
    """Make an image of the tar in `stream` (plain, gzip, zstd, xz, bzip2).

    `changes`: Dockerfile instructions; `message`: its comment; `platform`: `os[/architecture[/variant]]`, the
    host's by default. Raises `InvalidArgument` for what is not a tar, and keeps nothing then.
    """
    config = apply_changes(ContainerConfig(), changes)
    target = parse_platform(platform)
    with blobs.writer() as writer:
        diff_id, compression, size = _take(stream, writer)
        layer = writer.commit(media_type=layer_media_type(compression))
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    document = {
        "architecture": target.architecture,
        **({"variant": target.variant} if target.variant else {}),
        "os": target.os,
        "created": created,
        "config": config.model_dump(by_alias=True, exclude_defaults=True),
        "comment": message,
        "history": [{"created": created, "comment": message}],
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    described = put_config(blobs, document)
    return LoadedImage(put_manifest(blobs, described, [layer]), described.digest, (size,), ())


def parse_platform(text: str | None) -> Platform:
    """Read `os[/architecture[/variant]]`. Raises `InvalidArgument`; only Linux has containers here."""
    host = host_platform()
    if not text:
        return host
    os_name, *rest = text.lower().split("/")
    if os_name != "linux" or len(rest) > 2 or not all(rest):
        raise InvalidArgument(f"platform {text!r} can't be used", remedy="write linux/ARCHITECTURE[/VARIANT]")
    if not rest:
        return host
    return Platform(os=os_name, architecture=rest[0], variant=rest[1] if len(rest) == 2 else "")


def _take(stream: BinaryIO, writer: BlobWriter) -> tuple[str, Compression, int]:
    """Copy a tar into a blob and read it on the way: give the digest of its plain bytes, the blob's
    compression, and the bytes of its files.

    gzip and zstd are kept as they are; xz and bzip2, which no layer may have, are kept plain.
    """
    source = _Tee(stream)
    plain = Decompressed(source)
    stored = plain.compression
    if stored in (Compression.XZ, Compression.BZIP2):
        stored = Compression.NONE
    else:
        source.copy_to(writer.write)

    def next_piece() -> bytes:
        piece = plain.read(_PIECE)
        if plain.compression != stored:
            writer.write(piece)
        return piece

    diff_id, size = digest_and_size(next_piece)
    while source.read(_PIECE):  # What follows the compressed data belongs to the blob as well.
        pass
    return diff_id, stored, size


class _Tee:
    """A stream that copies what is read from it; what was read before `copy_to` is copied then."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._early: list[bytes] = []
        self._copy: Callable[[bytes], object] = self._early.append

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        for data in self._early:
            write(data)
        self._copy = write

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._copy(data)
        return data
