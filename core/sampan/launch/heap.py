"""The zygote's heap, made ready to be shared: what a shim allocates shall lie together, in few pages.

Source: CPython's `Objects/obmalloc.c` (sizes up to 512 bytes in classes of 16, pools of 16 KiB behind headers of 48 bytes).
"""

from __future__ import annotations

import gc
import sys

from sampan.linux import malloc

POOL = 16 << 10
"""Bytes from which objects of one size are given."""

POOL_HEADER = 48
"""Bytes of a pool before its first object."""

MAX_SIZE = 512
"""The largest objects, in bytes, that lie in pools."""

MAX_HOLES = 1 << 20
"""No more bytes than this are filled, if there are other pools in this Python."""

_fillings: list[object] = []


def settle() -> None:
    """Drop what is not needed, fill the small holes that are left, give back the large ones, and take the rest out of the collector.

    What was imported and rehearsed leaves holes in hundreds of pages. A shim would write its own objects into them and so copy
    each of those pages; behind filled holes it gets new ones, side by side.
    """
    gc.collect()
    fill_holes()
    malloc.give_back()  # the holes of larger objects
    gc.freeze()


def fill_holes() -> None:
    """Allocate objects of each size until one is the first of a pool, which is a new one, if it is no hole itself. They stay."""
    left = MAX_HOLES
    for size in range(16, MAX_SIZE + 1, 16):
        while left > 0:
            filling = _object_of(size)
            if id(filling) % POOL == POOL_HEADER:
                break
            _fillings.append(filling)
            left -= size


def _object_of(size: int) -> object:
    """Give a new object that takes so many bytes, a multiple of 16."""
    if size == 16:
        return object()
    if size == 32:
        return float(size)  # 24 bytes
    return bytes(size - sys.getsizeof(b""))
