"""What containers use (`docker stats`): one reading a second of each that somebody watches, whoever and how many they are.

Nothing is read of a container that nobody watches, and nothing is kept but the last reading of one that is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.api.errors import Conflict, NotFound, Unavailable
from sampan.api.runtime import Stats
from sampan.engine.connections import Connections
from sampan.engine.container import Container
from sampan.engine.endpoints import Endpoints
from sampan.linux.use import InterfaceCounts, SystemUse, interface_counts, system_use

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two readings."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a container used by a moment, and its host beside it. `networks`: interface → what it carried."""

    time_ns: int
    use: Stats
    system: SystemUse
    networks: Mapping[str, InterfaceCounts]


class StatsReader:
    """Reads containers: at once for who asks, or again and again for those who watch. None stands for one that doesn't run."""

    def __init__(self, endpoints: Endpoints, connections: Connections) -> None:
        self._endpoints = endpoints
        self._connections = connections
        self._watches: dict[str, _Watch] = {}

    async def read(self, container: Container) -> Reading | None:
        """Take one reading, now. Raises the runtime's error."""
        shim = container.shim
        if shim is None or not container.is_running:
            return None
        try:
            use = await shim.stats()
        except (Conflict, NotFound, Unavailable):  # it has just ended
            return None
        now = time.time_ns()
        # beside the reading, for a client divides the container's time by the system's
        system, networks = await asyncio.to_thread(_read_host, container.record.state.pid, self._interfaces(container))
        return Reading(now, use, system, networks)

    async def watch(self, container: Container) -> AsyncGenerator[Reading | None, None]:
        """Give readings, the first at once, until the container is removed. Who is slow to take them gets fewer.

        Raises the runtime's error; whoever watches the same container then gets it too.
        """
        watch = self._watches.get(container.id)
        if watch is None:
            watch = self._watches[container.id] = _Watch(self, container)
        watch.watchers += 1
        try:
            if watch.is_fresh:
                yield watch.last
            while await watch.next():
                yield watch.last
        finally:
            watch.watchers -= 1
            if not watch.watchers and self._watches.get(container.id) is watch:
                del self._watches[container.id]
                watch.end()

    def _interfaces(self, container: Container) -> set[str]:
        """Give the names of the interfaces that are the container's own, or of the one whose network it shares."""
        try:
            owner = self._connections.sandbox_owner(container)
        except NotFound:
            return set()
        return {endpoint.interface for endpoint in self._endpoints.of(owner.id) if endpoint.mac}


class _Watch:
    """The readings of one container, taken as long as there are watchers."""

    def __init__(self, reader: StatsReader, container: Container) -> None:
        self.watchers = 0
        self.last: Reading | None = None
        self._reader = reader
        self._container = container
        self._read_at = float("-inf")
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._take())

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < INTERVAL

    async def next(self) -> bool:
        """Wait for the next reading; False if there will be none."""
        removed, taken = self._container.when_removed(), self._taken
        waited: set[asyncio.Future[Any]] = {taken, removed}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if removed.done():
            return False
        taken.result()
        return True

    def end(self) -> None:
        self._task.cancel()

    async def _take(self) -> None:
        while True:
            due = asyncio.get_running_loop().time() + INTERVAL
            try:
                self.last = await self._reader.read(self._container)
            except Exception as error:  # they wait for a reading: whatever is wrong must reach them
                log.warning("read the use of container %s: %s", self._container.id[:12], error)
                self._taken.set_exception(error)
                self._taken.exception()  # there may be nobody who asks for it
                return
            self._read_at = time.monotonic()
            taken, self._taken = self._taken, asyncio.get_running_loop().create_future()
            taken.set_result(None)
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _read_host(pid: int, interfaces: Collection[str]) -> tuple[SystemUse, dict[str, InterfaceCounts]]:
    networks: dict[str, InterfaceCounts] = {}
    if interfaces:
        try:
            networks = {name: counts for name, counts in interface_counts(pid).items() if name in interfaces}
        except OSError:
            pass  # the process has just ended
    return system_use(), networks
