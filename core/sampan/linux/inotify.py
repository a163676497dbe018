"""Watching files and directories for change. Sources: inotify(7), `include/uapi/linux/inotify.h`."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from sampan.linux.syscalls import libc

IN_MODIFY = 0x002
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000

_HEADER = struct.Struct("iIII")
_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One change: which watch, what (`IN_*` bits), the cookie that pairs both halves of a rename, and the
    name in a directory.
    """

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """An inotify descriptor, not blocking, closed on exec. Use it as a context manager, or `close` it."""

    def __init__(self) -> None:
        """Raises `OSError`: `EMFILE` when the user's limit of instances is reached."""
        self._fd = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

    def fileno(self) -> int:
        """Give the descriptor: readable when events wait."""
        return self._fd

    def add(self, path: str | os.PathLike[str], mask: int) -> int:
        """Watch a path and give the watch's number. Raises `OSError`: `ENOENT`, `ENOSPC` at the limit of
        watches.
        """
        result = libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask))
        return _checked(result, f"inotify_add_watch {os.fspath(path)}")

    def read(self) -> list[Event]:
        """Give the events that wait, oldest first; none waiting is an empty list. `IN_Q_OVERFLOW` says that
        some were lost.
        """
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            events.append(Event(watch, mask, cookie, os.fsdecode(name)))
        return events

    def close(self) -> None:
        """Drop all watches. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Inotify:
        """Give itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()


def _checked(result: int, operation: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{operation}: {os.strerror(error)}")
    return result
