"""Directories as layers: a tree, or what changed in it, written as a tar by a confined child (`packer`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.api.errors import SampanError, System
from sampan.api.storage import Change
from sampan.content.blobs import BlobStore
from sampan.content.compression import Compression
from sampan.content.confined import Child, confined
from sampan.content.images import layer_media_type
from sampan.content.layers import DEFAULT_LIMITS, Limits
from sampan.content.manifests import Descriptor

log = logging.getLogger(__name__)

SPARSE_MIN = 1 << 30
"""A file of so many bytes is written as a sparse one if three quarters of it are zeros. Smaller ones never are: dockerd
loads a layer with sparse files, but can't save or push it afterwards.
"""

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """A tar that was written: digest of the plain tar, digest and size in bytes of what was written.

    `files_size`: bytes of the files in it (`layer_size.files_size`).
    `left_out`: what a layer can't carry, by reason: how many names, and the first few.
    """

    diff_id: str
    digest: str
    size: int
    files_size: int
    left_out: tuple[tuple[str, int, tuple[str, ...]], ...] = ()


def write_layer(
    root: int,
    changes: Iterable[Change],
    out: int,
    compression: Compression = Compression.NONE,
    limits: Limits = DEFAULT_LIMITS,
    sparse_min: int = SPARSE_MIN,
) -> WrittenLayer:
    """Write the changes, sorted as `StorageDriver.diff` gives them, of the tree below the directory `root` into `out`.

    Both are descriptors. The same changes of the same tree give the same tar, on every driver and at any time; the same
    bytes with gzip as long as the same library compresses. Blocks. Raises what `changes` raises, `InvalidArgument` for a
    tar over a limit, `Unavailable` if it takes too long, `System` when the host fails; `out` then holds a part.
    `sparse_min`: bytes from which on a file that is mostly zeros is written as a sparse one.
    """
    return _write(root, changes, out, compression, limits, limits.seconds, sparse_min)


def write_tree(root: int, out: int, limits: Limits = DEFAULT_LIMITS) -> WrittenLayer:
    """Write all below `root` into `out`, a plain tar for other tools: without the root, with names that begin with `.wh.`.

    However long the reader of `out` takes. See `write_layer`.
    """
    return _write(root, None, out, Compression.NONE, limits, None)


def store_layer(
    root: int, changes: Iterable[Change], blobs: BlobStore, compression: Compression = Compression.GZIP
) -> tuple[Descriptor, WrittenLayer]:
    """Write the changes as a layer into the blob store. See `write_layer`; on an error nothing is kept."""
    with blobs.writer() as writer:
        written = write_layer(root, changes, writer.fileno(), compression)
        writer.filled(written.digest, written.size)
        return writer.commit(media_type=layer_media_type(compression)), written


def _write(
    root: int, changes: Iterable[Change] | None, out: int, compression: Compression, limits: Limits,
    seconds: float | None, sparse_min: int = SPARSE_MIN,
) -> WrittenLayer:  # fmt: skip
    request = {
        "root": root,
        "out": out,
        "changes": changes is not None,
        "compression": compression.value,
        "sparse_min": sparse_min,
        "stream_bytes": limits.stream_bytes,
        "memory_bytes": limits.memory_bytes,
    }
    try:
        with confined("sampan.content.packer", request, [root, out], seconds) as child:
            if changes is not None:
                _tell(child, changes)
            answer = child.answer()
    except OSError as error:
        raise System(f"write a layer: {error.strerror}") from error
    except SampanError as error:
        raise type(error)(f"write a layer: {error.message}", remedy=error.remedy) from error
    left_out = tuple((why, answer["counts"][why], tuple(names)) for why, names in answer["left_out"].items())
    for why, count, names in left_out:
        log.warning("write a layer: left out %d (%s): %s", count, why, ", ".join(names))
    return WrittenLayer(answer["diff_id"], answer["digest"], answer["size"], answer["files_size"], left_out)


def _tell(child: Child, changes: Iterable[Change]) -> None:
    """Send the changes as `packer.read_changes` takes them; a child that ended early tells why itself."""
    batch: list[bytes] = []
    try:
        for change in changes:
            batch.append(f"{change.kind} ".encode() + change.path + b"\0")
            if len(batch) == _BATCH:
                child.input.write(b"".join(batch))
                batch.clear()
        child.input.write(b"".join(batch) + b"\0")
        child.input.flush()
    except BrokenPipeError:
        pass
