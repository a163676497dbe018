"""A look into a container's root from the daemon, without mounting it where anyone can see it, and trusting nothing there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sampan.api.errors import System, host_errors
from sampan.api.storage import Mount
from sampan.linux import copying, files, mounts

MAX_FILE = 4 << 20
"""Bytes of a container's file that are read at most."""


@contextmanager
def opened(root: Sequence[Mount]) -> Iterator[int]:
    """Mount a root detached, seen by nobody, and give a descriptor of its directory; it is gone afterwards.

    Raises `System`.
    """
    with ExitStack() as stack:
        with host_errors("look into the container's root"):
            fd = stack.enter_context(mounts.open_root(root))
        yield fd


def read_files(root: Sequence[Mount], paths: Sequence[str]) -> dict[str, bytes]:
    """Read small regular files of a root given as mounts; a missing or strange one reads as empty.

    Symbolic links are resolved inside it. Raises as `opened`.
    """
    with opened(root) as fd:
        return {path: read_below(fd, path) for path in paths}


def copy_directory(root: Sequence[Mount], path: str, target: Path) -> None:
    """Copy what is in a directory of a root into the host's directory `target`, if that is empty.

    Nothing happens where the root has no such directory. Symbolic links on the way are resolved inside the root. Raises as `opened`.
    """
    if os.listdir(target):
        return
    with opened(root) as fd:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        resolve = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS
        try:
            source = files.openat2(fd, path.lstrip("/"), flags, resolve=resolve)
        except OSError:
            return
        try:
            _copy(source, path, target)
        finally:
            os.close(source)


def _copy(source: int, path: str, target: Path) -> None:
    into = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        copying.copy_contents(source, into)
    except OSError as error:
        raise System(f"copy the image's {path} into the new volume: {error.strerror}") from error
    finally:
        os.close(into)


def read_below(root: int, path: str) -> bytes:
    """Read one small regular file below the directory `root`; empty if it is missing, strange or unreadable."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = files.openat2(root, path.lstrip("/"), flags, resolve=files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.read(fd, MAX_FILE)
    except OSError:
        return b""
    finally:
        os.close(fd)
