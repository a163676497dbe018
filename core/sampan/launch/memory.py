"""The news that a container's memory ran out, while it lives."""

from __future__ import annotations

import errno
import logging

from sampan.launch.connection import Request, Waiters
from sampan.launch.loop import Loop
from sampan.linux.cgroup_oom import OomWatch
from sampan.linux.cgroups import Cgroup

logger = logging.getLogger(__name__)


class MemoryWatch:
    """Counts how often the kernel said that there was no memory left in the container's cgroup."""

    def __init__(self, loop: Loop) -> None:
        """Wait for `watch`."""
        self._loop = loop
        self._oom: OomWatch | None = None
        self._waiters = Waiters()
        self.count = 0

    def watch(self, cgroup: str) -> None:
        """Listen at the cgroup, "" for none. Where its memory is not controlled nothing is heard."""
        if not cgroup:
            return
        try:
            self._oom = OomWatch(Cgroup(cgroup))
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) != errno.ENOENT:
                logger.warning("watch the memory of cgroup %s: %s", cgroup, error)
            return
        self._loop.watch(self._oom.fileno(), self._oom.events, self._told)

    def wait(self, request: Request) -> None:
        """Answer with the count once it is above the one that who asks has seen."""
        if self.count > request.message["seen"]:
            request.reply(self.count)
        else:
            self._waiters.add(request)

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._oom is not None:
            self._loop.unwatch(self._oom.fileno())
            self._oom.close()
            self._oom = None

    def _told(self) -> None:
        assert self._oom is not None
        happened = self._oom.read()
        if happened is None:
            self.close()
        elif happened:
            self.count += 1
            self._waiters.reply(self.count)
