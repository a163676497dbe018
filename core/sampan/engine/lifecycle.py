"""The life of a container: started, watched, stopped, killed, restarted, removed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

from sampan.api.errors import Conflict, NotFound, NotModified, SampanError, System, Unavailable, Unsupported
from sampan.engine import shm
from sampan.engine import spec as oci
from sampan.engine.connections import Connections
from sampan.engine.container import Container
from sampan.engine.containers import Containers, attributes
from sampan.engine.events import EventBus
from sampan.engine.links import Links
from sampan.engine.records import Status
from sampan.engine.start import Starter, close_pending, start_error, start_exit_code
from sampan.engine.volumes import Volumes
from sampan.launch.client import Shim
from sampan.launch.protocol import ExitRecord
from sampan.launch.records import read_exit
from sampan.linux import cgroups

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL."""

KILL_PATIENCE = 2.0
"""Seconds that a container gets to end with its first process; then all in it is killed."""

KILL_TIMEOUT = 10.0
"""Seconds that a killed container gets to go away."""

RESTART_DELAY = 0.1
RESTART_DELAY_MAX = 60.0
RESTART_HEALTHY = 10.0
"""Docker's back-off: it doubles from 100 ms to a minute, and starts anew once a container has run for ten seconds."""

LOST = 255
"""Exit code of a container whose real one nobody knows, as Docker says."""


class Lifecycle:
    """Starts, watches and ends containers. Each public method takes the container's lock for as long as it changes it."""

    def __init__(
        self, events: EventBus, containers: Containers, starter: Starter, connections: Connections, links: Links, volumes: Volumes
    ) -> None:
        self._events = events
        self._containers = containers
        self._starter = starter
        self._connections = connections
        self._links = links
        self._volumes = volumes
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # ------------------------------------------------------------------ start

    async def start(self, container: Container, checkpoint: Path | None = None) -> None:
        """Start a container, or let it go on from a checkpoint.

        Raises `NotModified` if it runs, `Conflict` if it is going away, or what made it fail.
        """
        async with container.lock:
            if container.is_running:
                raise NotModified(f"container {container.id} is already running")
            _check_kept(container)
            self._cancel_restart(container)
            container.record.restart_count = 0
            container.record.manually_stopped = False
            await self._start(container, checkpoint)

    async def _start(self, container: Container, checkpoint: Path | None = None) -> None:
        record = container.record
        try:
            with container.trace.span("start", "total"):
                shim = await self._starter.launch(container, checkpoint)
        except BaseException as error:
            close_pending(container)
            await asyncio.shield(self._undo_start(container, error))
            if isinstance(error, Exception):  # a fault of ours as well: whoever waits for the removal must hear of it
                record.state.error = str(error)
                record.state.exit_code = start_exit_code(error)
                await self._containers.save(container)
                if record.host.auto_remove:
                    await self._containers.remove(container, volumes=True)
            if isinstance(error, SampanError):
                raise start_error(error) from error
            raise
        self.spawn(self._watch(container, shim))
        self.spawn(self._watch_memory(container, shim))
        self._links.follow(container)
        self._emit(container, "start")

    async def _undo_start(self, container: Container, error: BaseException) -> None:
        shim, container.shim = container.shim, None
        await self._delete_shim(container, shim)
        await asyncio.to_thread(self._kill_cgroup, container)  # of a driver that was killed before it could tell of it
        await self._connections.leave(container.id)
        await self._unmount_volumes(container)
        container.log_ended.set()
        container.tell_exit(start_exit_code(error))

    # ------------------------------------------------------------------ exit

    def spawn(self, work: Awaitable[None]) -> None:
        """Have work done beside all else, until the engine closes. What goes wrong is logged."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a container's watcher failed", exc_info=error)

    async def _watch(self, container: Container, shim: Shim) -> None:
        """Wait for the end of a running container, and clean up after it."""
        try:
            end: ExitRecord | None = await shim.wait()
        except Unavailable:
            end = await self._after_shim(container, shim)
        if end is None:
            return  # a fresh shim has it, and its own watch
        async with container.lock:
            if container.shim is shim:
                await self._finish(container, end)

    async def _after_shim(self, container: Container, shim: Shim) -> ExitRecord | None:
        """The shim has died: None if a fresh one goes on with its container, else how that ended, killed if need be."""
        if self._closing:
            await asyncio.get_running_loop().create_future()  # the daemon stops; containers go on
        async with container.lock:
            return None if container.shim is not shim else await self._take_up(container)

    async def _take_up(self, container: Container) -> ExitRecord | None:
        """Go on with a container that has no shim, if its runtime can: then None. Else give how it ended."""
        known = read_exit(container.directories.root)
        reason = "the container's shim died"
        if known is None:
            try:
                successor = await self._starter.recover(container)
            except SampanError as error:
                reason = f"{reason}: {error}"
                log.warning("recover container %s: %s", container.id[:12], error)
            else:
                if successor is not None:
                    self.found_alive(container, successor)
                    return None
        await asyncio.to_thread(self._kill_cgroup, container)
        return known or ExitRecord(LOST, False, time.time_ns(), reason)

    async def _watch_memory(self, container: Container, shim: Shim) -> None:
        """Tell each time that memory runs out while the container lives."""
        with suppress(Unavailable, Unsupported):  # the shim is gone, or older than this request
            seen = (await shim.state()).ooms if container.record.state.oom_killed else 0
            while True:
                seen = await shim.wait_oom(seen)
                async with container.lock:
                    if container.shim is not shim or not container.is_running:
                        return
                    container.record.state.oom_killed = True
                    await self._containers.save(container)
                    self._emit(container, "oom")

    def _kill_cgroup(self, container: Container) -> None:
        try:
            group = self._cgroup(container)
            group.kill()
            group.remove()
        except (OSError, ValueError) as error:  # a record of another release may name what is no path
            log.warning("remove cgroup of container %s: %s", container.id[:12], error)

    def _cgroup(self, container: Container) -> cgroups.Cgroup:
        return cgroups.Cgroup(self._starter.cgroup_path(container), cgroups.detect())

    async def _finish(self, container: Container, end: ExitRecord) -> None:
        record = container.record
        shim, container.shim = container.shim, None
        await asyncio.gather(self._detach(container), self._delete_shim(container, shim))
        await self._unmount_volumes(container)
        container.log_ended.set()
        already_told = record.state.oom_killed
        ran_for = max(0, end.finished_at_ns - record.state.started_at) / 1e9
        record.state = record.state.model_copy(
            update={
                "status": Status.EXITED, "pid": 0, "exit_code": end.exit_code, "oom_killed": end.oom_killed,
                "finished_at": end.finished_at_ns, "error": end.error,
            }
        )  # fmt: skip
        removes = record.host.auto_remove and not container.restarts_under_way
        if not removes:
            await self._save_end(container)
        if end.oom_killed and not already_told:
            self._emit(container, "oom")
        self._emit(container, "die", exitCode=str(end.exit_code), execDuration=str(int(ran_for)))
        restart = self._wants_restart(container, end.exit_code)
        container.tell_exit(end.exit_code)
        if removes:
            await self._containers.remove(container, volumes=True)
        elif restart:
            self._schedule_restart(container, ran_for)

    async def _save_end(self, container: Container) -> None:
        """Record the exit, as far as that can be done: whoever waits for it must hear of it on a full disk too."""
        try:
            await self._containers.save(container)
            await asyncio.to_thread(container.trace.save)
        except (SampanError, OSError) as error:  # a later daemon reads it from what the shim has left
            log.error("record the end of container %s: %s", container.id[:12], error)

    async def _detach(self, container: Container) -> None:
        with container.trace.span("exit", "network.detach"):
            await self._connections.leave(container.id)

    async def _delete_shim(self, container: Container, shim: Shim | None) -> None:
        if shim is None:
            return
        with container.trace.span("exit", "runtime.delete", container.record.runtime):
            try:
                await shim.delete()
            except SampanError as error:
                log.warning("clean up after container %s: %s", container.id[:12], error)
                await shim.discard()
                await asyncio.to_thread(self._kill_cgroup, container)

    async def _unmount_volumes(self, container: Container) -> None:
        for point in container.record.mounts:
            if point.type == "volume":
                await self._volumes.unmount(point.name, container.id)
        if container.record.host.ipc_mode == "shareable":
            await asyncio.to_thread(shm.unmount, container.directories.shm)

    # ------------------------------------------------------------------ restart policy

    def _wants_restart(self, container: Container, code: int) -> bool:
        policy = container.record.host.restart_policy
        if container.record.manually_stopped or self._closing:
            return False
        if policy.name in ("always", "unless-stopped"):
            return True
        limit = policy.maximum_retry_count
        return policy.name == "on-failure" and code != 0 and (not limit or container.record.restart_count < limit)

    def _schedule_restart(self, container: Container, ran_for: float) -> None:
        record = container.record
        if ran_for >= RESTART_HEALTHY:
            record.restart_count = 0
        delay = min(RESTART_DELAY * 2 ** min(record.restart_count, 20), RESTART_DELAY_MAX)
        record.restart_count += 1
        self.restart_soon(container, delay)

    def restart_soon(self, container: Container, delay: float) -> None:
        """Start a stopped container again after `delay` seconds, unless someone starts, stops or removes it before."""
        container.record.state.status = Status.RESTARTING
        loop = asyncio.get_running_loop()
        container.restart_wait = loop.call_later(delay, lambda: self.spawn(self._restart_now(container)))

    async def _restart_now(self, container: Container) -> None:
        async with container.lock:
            if container.restart_wait is None or container.status is not Status.RESTARTING:
                return
            container.restart_wait = None
            try:
                await self._start(container)
            except SampanError as error:
                log.warning("restart container %s: %s", container.id[:12], error)
                container.record.state.status = Status.EXITED
                if self._wants_restart(container, container.record.state.exit_code):
                    self._schedule_restart(container, 0.0)

    def _cancel_restart(self, container: Container) -> None:
        if container.restart_wait is not None:
            container.restart_wait.cancel()
            container.restart_wait = None
            container.record.state.status = Status.EXITED

    # ------------------------------------------------------------------ signals

    async def kill(self, container: Container, signum: int) -> None:
        """Send a signal. Raises `Conflict` if the container does not run."""
        await container.settle()
        shim = container.shim
        if shim is None or not container.is_running:
            raise Conflict(f"Cannot kill container: {container.id}: container {container.id} is not running")
        ends = signum in (9, oci.stop_signal(container.record.config.stop_signal))
        if ends:
            container.record.manually_stopped = True
        await shim.signal(signum)
        self._emit(container, "kill", signal=str(int(signum)))
        if ends and container.status is Status.PAUSED:  # what is frozen takes no signal, and could not end
            with suppress(SampanError):  # SIGKILL may have ended it already
                await self.unpause(container)

    async def stop(self, container: Container, timeout: int | None, signum: int | None) -> None:
        """Ask a container to end, and end it when it has not after `timeout` seconds (-1: never). `NotModified` if stopped."""
        async with container.lock:
            self._cancel_restart(container)
            if not container.is_running:
                raise NotModified(f"container {container.id} is already stopped")
            container.record.manually_stopped = True
            exited = container.when_exited()
        wait = timeout if timeout is not None else container.record.config.stop_timeout
        seconds = STOP_TIMEOUT if wait is None else wait
        with container.trace.span("stop", "signal.wait", container.record.runtime):
            await self._signal_unless_gone(container, signum or oci.stop_signal(container.record.config.stop_signal))
            if not await _within(exited, None if seconds < 0 else seconds) and not await self._end(container, exited):
                raise System(
                    f"cannot stop container: {container.id}: it did not end within {KILL_TIMEOUT:.0f} s of SIGKILL",
                    remedy="look for a process in uninterruptible sleep (D) with `ps`",
                )
        self._emit(container, "stop")

    async def _end(self, container: Container, exited: asyncio.Future[int]) -> bool:
        """Kill the first process, and where that is not enough all of the container: it may have frozen itself, with v1's
        freezer in a cgroup of its own. Say whether it has ended.
        """
        await self._signal_unless_gone(container, 9)
        if not container.is_running or await _within(exited, KILL_PATIENCE):
            return True
        try:
            await asyncio.to_thread(self._cgroup(container).kill)
        except OSError as error:
            log.warning("kill all of container %s: %s", container.id[:12], error)
        return await _within(exited, KILL_TIMEOUT)

    async def _signal_unless_gone(self, container: Container, signum: int) -> None:
        try:
            await self.kill(container, signum)
        except (Conflict, NotFound, Unavailable):
            pass  # it ended by itself

    async def restart(self, container: Container, timeout: int | None, signum: int | None) -> None:
        """Stop, if it runs, and start: one that removes itself at its end (`--rm`) does not between these. Raises as `start`."""
        container.restarts_under_way += 1
        try:
            with suppress(NotModified):
                await self.stop(container, timeout, signum)
            async with container.lock:
                if not container.is_running:
                    _check_kept(container)
                    container.record.manually_stopped = False
                    await self._start(container)
        finally:
            container.restarts_under_way -= 1
        self._emit(container, "restart")

    async def pause(self, container: Container) -> None:
        """Freeze all processes of a container."""
        async with container.lock:
            if container.status is Status.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            await self._running_shim(container).pause()
            container.record.state.status = Status.PAUSED
            await self._containers.save(container)
        self._emit(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Thaw all processes of a container."""
        async with container.lock:
            if container.status is not Status.PAUSED:
                raise Conflict(f"Container {container.id} is not paused")
            await self._running_shim(container).resume()
            container.record.state.status = Status.RUNNING
            await self._containers.save(container)
        self._emit(container, "unpause")

    @staticmethod
    def _running_shim(container: Container) -> Shim:
        if container.shim is None or not container.is_running:
            raise Conflict(f"Container {container.id} is not running")
        return container.shim

    async def rename(self, container: Container, name: str) -> None:
        """Give a container another name, by which others find it from now on."""
        async with container.lock:
            await self._containers.rename(container, name)
            await self._connections.renamed(container)

    # ------------------------------------------------------------------ removal

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Remove a container. Raises `Conflict` if it runs and `force` is not given, or if its removal is under way."""
        if container.status is Status.REMOVING:
            raise Conflict(f"removal of container {container.id} is already in progress")
        while not await self._remove(container, force=force, volumes=volumes):
            pass  # it was started again meanwhile

    async def _remove(self, container: Container, *, force: bool, volumes: bool) -> bool:
        """Remove a container that stands still once it was stopped; say whether it is gone."""
        if container.is_running or container.status is Status.RESTARTING:
            if not force:
                state = (
                    "paused and must be unpaused first"
                    if container.status is Status.PAUSED
                    else "running: stop the container before removing or force remove"
                )
                raise Conflict(f'cannot remove container "{container.record.name}": container is {state}')
            await self._stop_for_removal(container)
        async with container.lock:
            self._cancel_restart(container)
            if container.when_removed().done():
                return True
            if container.is_running:
                return False
            close_pending(container)
            await self._connections.leave(container.id)  # what could not be taken away when it ended
            await self._containers.remove(container, volumes=volumes)
        return True

    async def _stop_for_removal(self, container: Container) -> None:
        exited = container.when_exited()
        container.record.manually_stopped = True
        if not await self._end(container, exited):
            raise System(f"remove container {container.id[:12]}: it did not end within {KILL_TIMEOUT:.0f} s of SIGKILL")

    # ------------------------------------------------------------------ after the daemon was away

    def found_alive(self, container: Container, shim: Shim) -> None:
        """Take up watching a container that ran on while the daemon was away."""
        container.shim = shim
        container.log_ended.clear()
        self.spawn(self._watch(container, shim))
        self.spawn(self._watch_memory(container, shim))

    async def found_ended(self, container: Container, shim: Shim, end: ExitRecord) -> None:
        """Record the exit of a container that ended while the daemon was away, and let its shim go."""
        async with container.lock:
            container.shim = shim
            await self._finish(container, end)

    async def found_without_shim(self, container: Container) -> None:
        """Go on with a container whose shim is gone, or end it and record how."""
        async with container.lock:
            end = await self._take_up(container)
            if end is not None:
                await self._finish(container, end)

    async def found_cut_off(self, container: Container) -> None:
        """Undo a start that the store knows nothing of: end its shim, and what that has left if it was killed too."""
        async with container.lock:
            if container.shim is None:  # nor was it started again meanwhile
                await end_shim(container.directories.state)
                await asyncio.to_thread(self._kill_cgroup, container)

    async def found_incompatible(self, container: Container, error: SampanError) -> None:
        """End a container whose shim this daemon can't talk to, and record why."""
        async with container.lock:
            await asyncio.to_thread(self._kill_cgroup, container)
            await self._finish(container, ExitRecord(LOST, False, time.time_ns(), str(error)))

    async def found_rebooted(self, container: Container) -> None:
        """Record the end of a container that the reboot of its host has ended."""
        async with container.lock:
            known = read_exit(container.directories.root)
            await self._finish(container, known or ExitRecord(LOST, False, time.time_ns(), ""))

    async def close(self) -> None:
        """Stop watching. Containers go on with their shims."""
        self._closing = True
        for container in self._containers.all():
            if container.restart_wait is not None:
                container.restart_wait.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for container in self._containers.all():
            if container.shim is not None:
                await container.shim.close()
                container.shim = None
        await self._starter.close()

    def _emit(self, container: Container, action: str, **more: str) -> None:
        self._events.emit("container", action, container.id, attributes(container.record) | more)


def _check_kept(container: Container) -> None:
    """Raise `Conflict` if a container is being removed, or was while the caller waited for its lock."""
    if container.status in (Status.REMOVING, Status.DEAD):
        raise Conflict("container is marked for removal and cannot be started")


async def end_shim(state_dir: Path) -> None:
    """End the shim that answers there, if one does, with its container."""
    try:
        shim = await Shim.connect(state_dir)
    except SampanError:
        return
    log.info("ending the shim of %s, whose start was not recorded", state_dir.name[:12])
    try:
        await shim.delete()
    except SampanError as error:
        log.warning("end the shim of %s: %s", state_dir.name[:12], error)
        await shim.discard()


async def _within(exited: asyncio.Future[int], seconds: float | None) -> bool:
    """Wait for an exit at most so long; say whether it came."""
    done, _ = await asyncio.wait({exited}, timeout=seconds)
    return bool(done)
