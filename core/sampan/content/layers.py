"""Layers as directories: a tar unpacked by a confined child."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import InvalidArgument, NotFound, SampanError, System, Unsupported
from sampan.api.storage import Whiteouts
from sampan.content.compression import Decompressed
from sampan.content.confined import confined
from sampan.content.manifests import LAYER_TYPES
from sampan.content.references import check_digest


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may take. A layer beyond one of them is refused, whatever it promised in its headers.

    `stream_bytes`: its tar, decompressed. `file_bytes`: one file, holes counted. `entries`: headers in the
    tar. `memory_bytes`: address space of the child. `seconds`: from start to end.
    """

    stream_bytes: int = 1 << 40
    file_bytes: int = 1 << 40
    entries: int = 5_000_000
    memory_bytes: int = 2 << 30
    seconds: float = 3600


DEFAULT_LIMITS = Limits()


class StoredLayer:
    """A layer in the blob store, as `sampan.api.storage.Layer`: `blob` must have the plain tar `diff_id`.

    Compression is told by the bytes, as Docker does. Raises `Unsupported` for a media type that is no layer.
    """

    def __init__(self, blob: Path, media_type: str, diff_id: str, limits: Limits = DEFAULT_LIMITS) -> None:
        if media_type not in LAYER_TYPES:
            raise Unsupported(f"unpack {blob.name}: {media_type} is not a layer that can be unpacked")
        self._blob = blob
        self._diff_id = check_digest(diff_id)
        self._limits = limits
        self._stream: Decompressed | None = None
        self._hash = hashlib.sha256()
        self._size = 0

    def unpack(self, directory: int, whiteouts: Whiteouts) -> None:
        """Write the files from a confined child. Blocks.

        Raises `InvalidArgument` for a layer that is damaged, hostile, over a limit or not the expected one, `NotFound`
        without the blob, `Unavailable` if it takes too long, `System` when the host fails.
        """
        try:
            with io.FileIO(self._blob) as blob:
                unpack_stream(blob.fileno(), directory, whiteouts, self._limits, self._diff_id)
        except FileNotFoundError as missing:
            raise NotFound(f"unpack {self._blob.name}: {missing.filename} not found") from missing
        except OSError as failed:
            raise System(f"unpack {self._blob.name}: {failed.strerror}") from failed
        except SampanError as error:
            raise type(error)(f"unpack {self._blob.name}: {error.message}", remedy=error.remedy) from error

    def read(self, size: int = -1, /) -> bytes:
        """Give plain bytes of the tar; at its end the digest is checked."""
        try:
            if self._stream is None:
                self._stream = Decompressed(io.FileIO(self._blob))
            data = self._stream.read(size)
        except FileNotFoundError as missing:
            raise NotFound(f"read layer {self._blob.name}: not found") from missing
        except OSError as failed:
            raise System(f"read layer {self._blob.name}: {failed.strerror}") from failed
        self._hash.update(data)
        self._size += len(data)
        if self._size > self._limits.stream_bytes:
            raise InvalidArgument(f"read layer {self._blob.name}: it is larger than {self._limits.stream_bytes} bytes")
        found = f"sha256:{self._hash.hexdigest()}" if not data else self._diff_id
        if found != self._diff_id:
            raise InvalidArgument(f"the layer's content is {found}, not {self._diff_id} as its image says")
        return data


def unpack_stream(stream: int, directory: int, whiteouts: Whiteouts, limits: Limits, diff_id: str = "") -> str:
    """Unpack a tar, compressed or not, from the descriptor `stream` in a confined child; give the digest of the plain tar.

    It must be `diff_id` if that is given. Errors as `StoredLayer.unpack`, and `OSError`.
    """
    request = {
        "blob": stream,
        "target": directory,
        "whiteouts": whiteouts.value,
        "diff_id": diff_id,
        "stream_bytes": limits.stream_bytes,
        "file_bytes": limits.file_bytes,
        "entries": limits.entries,
        "memory_bytes": limits.memory_bytes,
    }
    with confined("sampan.content.unpacker", request, [stream, directory], limits.seconds) as child:
        return str(child.answer()["diff_id"])
