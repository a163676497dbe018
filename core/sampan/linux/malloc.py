"""How the C library keeps memory that is free: for a process that lives long, works seldom and has threads.

Sources: mallopt(3), malloc_trim(3). Where the C library is another (musl), nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

from sampan.linux.syscalls import libc

_M_ARENA_MAX: Final = -8
"""glibc's malloc.h"""


def share_one_heap() -> None:
    """Have all threads allocate from one heap: one for each keeps 2 MB more, and they seldom run at the same time."""
    with contextlib.suppress(AttributeError):
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the kernel what lies free between what is in use, some megabytes after much work. Takes a millisecond or two."""
    with contextlib.suppress(AttributeError):
        libc.malloc_trim(ctypes.c_size_t(0))
