"""Memory that ran out in a cgroup: how many processes the kernel killed for it, and to hear of it when it happens.

Sources: the kernel's `cgroup-v1/memory.rst` (section 10, OOM control) and `admin-guide/cgroup-v2.rst` (`memory.events`); `eventfd(2)`.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from sampan.linux.cgroup_files import as_pairs, pairs, read_at, write
from sampan.linux.cgroup_trees import walk

if TYPE_CHECKING:
    from sampan.linux.cgroups import Cgroup


def count_oom_kills(cgroup: Cgroup) -> int:
    """Give how many processes in it and below it were killed; 0 where memory is not controlled, or it is gone."""
    if "memory" not in cgroup.layout.v1:
        return pairs(cgroup.directory() + "/memory.events").get("oom_kill", 0)
    # v1 counts in the very cgroup of the process.
    return sum(
        as_pairs(read_at(fd, "memory.oom_control")).get("oom_kill", 0) for fd in walk(cgroup.directory("memory"))
    )


class OomWatch:
    """A descriptor that becomes ready when memory runs out in a cgroup; use it with poll or epoll.

    On v1 that is an eventfd, and the news comes just before the kill, also where the OOM killer is turned off; a
    limit of a cgroup below is not heard of. On v2 it is `memory.events`, which counts kills, those below too; it also
    becomes ready for other reasons, where `read` says False.
    """

    __slots__ = ("_fd", "_kills", "_oom_control", "events")

    def __init__(self, cgroup: Cgroup) -> None:
        """Begin to watch. Raises `OSError`: `ENOENT` if the cgroup is gone or its memory is not controlled."""
        self._kills = 0
        self._oom_control = ""
        self.events = select.POLLIN
        """What to poll for; `EPOLLIN` and `EPOLLPRI` are the same bits."""
        if "memory" in cgroup.layout.v1:
            self._oom_control = cgroup.directory("memory") + "/memory.oom_control"
            self._fd = _eventfd_of(self._oom_control, cgroup.directory("memory") + "/cgroup.event_control")
        else:
            self.events = select.POLLPRI
            self._fd = os.open(cgroup.directory() + "/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            self._kills = self._read_kills()

    def fileno(self) -> int:
        """Give the descriptor."""
        return self._fd

    def read(self) -> bool | None:
        """Say whether memory ran out since the last `read`; None when the cgroup is gone: then `close`.

        The descriptor is not ready after it until something happens again. Never waits.
        """
        try:
            if self._oom_control:
                happened = os.eventfd_read(self._fd) > 0
                os.stat(self._oom_control)  # the end of the cgroup is told in the same way
                return happened
            before, self._kills = self._kills, self._read_kills()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return None
            raise
        return self._kills > before

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_kills(self) -> int:
        return as_pairs(os.pread(self._fd, 4096, 0).decode()).get("oom_kill", 0)


def _eventfd_of(oom_control: str, event_control: str) -> int:
    told_by = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        about = os.open(oom_control, os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(event_control, f"{told_by} {about}")
        finally:
            os.close(about)
    except BaseException:
        os.close(told_by)
        raise
    return told_by
