"""After the daemon was away: containers found again, ended ones recorded, starts that were cut off undone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from sampan.api.errors import SampanError, Unavailable
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.lifecycle import Lifecycle, end_shim
from sampan.engine.records import Status
from sampan.launch.client import Shim
from sampan.launch.protocol import ShimState

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that shims get to answer before the daemon goes on without those that do not."""

Answer = tuple[Shim, ShimState]


class Recovery:
    """Compares what the store says with what the shims say, container by container, once at start."""

    def __init__(self, containers: Containers, lifecycle: Lifecycle, state: Path) -> None:
        self._containers = containers
        self._lifecycle = lifecycle
        self._state = state
        self._silent: set[str] = set()

    async def run(self, *, rebooted: bool) -> None:
        """Find every container that ran: alive behind its shim, or ended meanwhile. Then carry out restart policies."""
        for container in self._containers.all():
            if container.status is Status.REMOVING:
                await self._containers.remove(container, volumes=container.record.host.auto_remove)
        running = [each for each in self._containers.all() if each.is_running or each.status is Status.RESTARTING]
        if rebooted:
            for container in running:
                await self._lifecycle.found_rebooted(container)
        elif running:
            await self._find(running)
        await self._sweep_starts()
        for container in self._containers.all():
            if self._starts_with_daemon(container):
                self._lifecycle.restart_soon(container, 0.0)

    @staticmethod
    def _starts_with_daemon(container: Container) -> bool:
        policy, record = container.record.host.restart_policy.name, container.record
        wanted = policy == "always" or (policy == "unless-stopped" and not record.manually_stopped)
        return wanted and record.has_started and not container.is_running and container.restart_wait is None

    async def _find(self, running: list[Container]) -> None:
        """Ask all shims at once. One that is stopped, or hangs in the kernel, holds nobody but its own container."""
        asked = {container.id: asyncio.create_task(_ask(container)) for container in running}
        await asyncio.wait(asked.values(), timeout=PATIENCE)
        for container in running:
            answer = asked[container.id]
            if answer.done():
                await self._settle(container, answer)
            else:
                log.warning("the shim of container %s does not answer: going on without it until it does", container.id[:12])
                self._silent.add(container.id)
                self._lifecycle.spawn(self._settle(container, answer))

    async def _settle(self, container: Container, answer: asyncio.Task[Answer]) -> None:
        """Do what follows from a shim's answer, or from its absence."""
        try:
            shim, state = await answer
        except Unavailable:
            await self._lifecycle.found_without_shim(container)
            return
        except SampanError as error:
            await self._lifecycle.found_incompatible(container, error)
            return
        if state.exit is not None:
            await self._lifecycle.found_ended(container, shim, state.exit)
            return
        known = container.record.state  # it may be behind what the last daemon did: a restart, a pause or the end of one
        known.status = Status.PAUSED if state.paused else Status.RUNNING
        known.pid, known.started_at = state.pid, state.started_at_ns
        self._lifecycle.found_alive(container, shim)

    async def _sweep_starts(self) -> None:
        """End what is left of containers that the store does not say are running: their start was cut off by a crash."""
        base = self._state / "containers"
        for directory in sorted(base.iterdir()) if base.is_dir() else []:
            container = self._containers.find(directory.name)
            if container is None:
                await end_shim(directory)
            elif container.shim is None and container.id not in self._silent:
                await self._lifecycle.found_cut_off(container)


async def _ask(container: Container) -> Answer:
    shim = await Shim.connect(container.directories.state)
    try:
        return shim, await shim.state()
    except BaseException:
        await shim.close()
        raise
