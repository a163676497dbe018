"""Cgroups below a cgroup. A container that may write to its own may make as many as it likes, as deep as it likes:
deeper than a path can be long, than a program can recurse or have descriptors. So a tree is walked with three
descriptors, down by name and up by `..`, and what is found is used by descriptor.

Sources: `cgroups(7)`; the kernel's `admin-guide/cgroup-v2.rst` (threads: a threaded cgroup has no `cgroup.procs` to read).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterable, Iterator

from sampan.linux.cgroup_files import read_at

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def walk(directory: str) -> Iterator[int]:
    """Give descriptors of `directory` and of all cgroups below it, parents first, each until the next is asked for.

    Nothing if it is not there; what goes meanwhile is left out.
    """
    for fd, name in _steps(directory):
        if not name:
            yield fd


def members(directory: str) -> Iterator[int]:
    """Give the processes in a cgroup and below it; nothing if it is gone."""
    for fd in walk(directory):
        yield from _procs(fd)


def remove_tree(directory: str, deadline: float) -> None:
    """Remove a cgroup and what is below it, as processes that are being killed leave it. No error if it is not there.

    Raises `OSError`: EBUSY if processes are there at `deadline`, a time of the monotonic clock.
    """
    while not _remove_what_is_empty(directory):
        left = deadline - time.monotonic()
        if left <= 0:
            raise OSError(errno.EBUSY, f"remove cgroup {directory}: it has processes", directory)
        pids = tuple(members(directory))
        if not wait_gone(pids, left) or not pids:
            time.sleep(0.001)  # a dying process leaves the cgroup a moment after its end is announced


def wait_gone(pids: Iterable[int], seconds: float) -> bool:
    """Wait for the end of processes, which need not be children. False when the time is up."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
        finally:
            os.close(fd)
    return True


def _remove_what_is_empty(directory: str) -> bool:
    """Remove what has no processes, and say whether that was all."""
    for fd, name in _steps(directory):
        if name:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=fd)  # noqa: PTH106
    try:
        os.rmdir(directory)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise OSError(
                error.errno, f"remove cgroup {directory}: {os.strerror(error.errno or 0)}", directory
            ) from error
        return False
    return True


def _steps(directory: str) -> Iterator[tuple[int, str]]:
    """Walk a tree. On the way down give each directory, with no name; on the way up the parent and the name that is done."""
    try:
        fd = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return
    names: list[str] = []
    try:
        yield fd, ""
        ahead = [_children(fd)]
        while True:
            if ahead[-1]:
                name = ahead[-1].pop()
                try:
                    child = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    continue
                os.close(fd)
                fd = child
                names.append(name)
                yield fd, ""
                ahead.append(_children(fd))
            elif names:
                ahead.pop()
                try:
                    parent = os.open("..", _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    return
                os.close(fd)
                fd = parent
                yield fd, names.pop()
            else:
                return
    finally:
        os.close(fd)


def _children(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _procs(directory: int) -> tuple[int, ...]:
    try:
        return tuple(map(int, read_at(directory, "cgroup.procs").split()))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return ()  # threaded: its processes are told by the cgroup above
