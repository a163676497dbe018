"""After the daemon was away: containers found again, ended ones recorded, starts that were cut off undone."""

from __future__ import annotations

from pathlib import Path

from sampan.api.errors import SampanError, Unavailable
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.lifecycle import Lifecycle, end_shim
from sampan.engine.records import Status
from sampan.launch.client import Shim


class Recovery:
    """Compares what the store says with what the shims say, container by container, once at start."""

    def __init__(self, containers: Containers, lifecycle: Lifecycle, state: Path) -> None:
        self._containers = containers
        self._lifecycle = lifecycle
        self._state = state

    async def run(self, *, rebooted: bool) -> None:
        """Find every container that ran: alive behind its shim, or ended meanwhile. Then carry out restart policies."""
        for container in self._containers.all():
            if container.status is Status.REMOVING:
                await self._containers.remove(container, volumes=container.record.host.auto_remove)
            elif container.is_running or container.status is Status.RESTARTING:
                await self._find(container, rebooted=rebooted)
        await self._sweep_starts()
        for container in self._containers.all():
            if self._starts_with_daemon(container):
                self._lifecycle.restart_soon(container, 0.0)

    @staticmethod
    def _starts_with_daemon(container: Container) -> bool:
        policy, record = container.record.host.restart_policy.name, container.record
        wanted = policy == "always" or (policy == "unless-stopped" and not record.manually_stopped)
        return wanted and record.has_started and not container.is_running and container.restart_wait is None

    async def _find(self, container: Container, *, rebooted: bool) -> None:
        if rebooted:
            await self._lifecycle.found_rebooted(container)
            return
        try:
            shim = await Shim.connect(container.directories.state)
            state = await shim.state()
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
            elif container.shim is None:
                await self._lifecycle.found_cut_off(container)
