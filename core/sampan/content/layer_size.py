"""The size of a layer as Docker tells it, whatever form its tar is kept in: the bytes of its files and symbolic links.

Source: moby's `pkg/directory`, which measures what a layer put on disk, directories left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sampan.content.tarstream import SYMLINK, Blocks, Member, TarReader

ENTRIES_MAX = 5_000_000
"""Headers of a layer at most."""


def files_size(next_piece: Callable[[], bytes]) -> int:
    """Read a plain tar to the end of its stream; give the bytes of its files: holes counted, hard links once.

    Raises `InvalidArgument` for what is not a proper tar.
    """
    size = sum(_size(member) for member in TarReader(Blocks(next_piece), ENTRIES_MAX))
    while next_piece():  # What follows the end mark is part of the layer, and of its digest.
        pass
    return size


def _size(member: Member) -> int:
    return len(member.link) if member.kind == SYMLINK else member.size


def digest_and_size(next_piece: Callable[[], bytes]) -> tuple[str, int]:
    """Read a plain tar to its end; give the digest of all of it (its diff id), and the bytes of its files."""
    digest = hashlib.sha256()

    def hashed() -> bytes:
        piece = next_piece()
        digest.update(piece)
        return piece

    size = files_size(hashed)
    return f"sha256:{digest.hexdigest()}", size
