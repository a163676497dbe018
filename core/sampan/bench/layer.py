"""A layer of about the size and the make of a real image's, always the same."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

SMALL = "small"
LARGE = "large"
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerSize:
    """How much is in the layer: `files` small ones of 8 kB on average, and `bulk` files of 32 MB."""

    files: int = 20_000
    bulk: int = 8

    @property
    def bytes(self) -> int:
        """About how many bytes that is."""
        return self.files * 8000 + self.bulk * 32 * MEGABYTE


def write_layer(path: Path, size: LayerSize) -> str:
    """Write a plain layer tar; give its diff id. It also holds a file `small` of 1 MB."""
    dice = random.Random(1)
    words = dice.randbytes(MEGABYTE).hex().encode()
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(size.files):
            if number % 100 == 0:
                _add(tar, f"d{number // 100}", None)
            start = dice.randrange(MEGABYTE)
            _add(tar, f"d{number // 100}/f{number}", words[start : start + dice.randrange(16_000)])
        for number in range(size.bulk):
            _add(tar, f"bulk{number}", (words * 17)[number * 1000 : number * 1000 + 32 * MEGABYTE])
        _add(tar, SMALL, words[:MEGABYTE])
    with path.open("rb") as written:
        return f"sha256:{hashlib.file_digest(written, 'sha256').hexdigest()}"


def _add(tar: tarfile.TarFile, name: str, data: bytes | None) -> None:
    member = tarfile.TarInfo(name)
    member.mtime = 1_700_000_000
    if data is None:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    else:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
