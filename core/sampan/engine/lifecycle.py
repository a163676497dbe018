"""The life of a container: start, exit, stop, kill, restart, remove, and finding it again after the daemon was away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

from sampan import plugins
from sampan.api import hookspecs
from sampan.api.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    NotModified,
    SampanError,
    System,
    Unavailable,
)
from sampan.api.logs import LogDriver
from sampan.api.network import SandboxKind
from sampan.api.runtime import RuntimeDriver
from sampan.api.types import EndpointSettings
from sampan.engine import spec as oci
from sampan.engine.container import Container
from sampan.engine.containers import Containers, attributes
from sampan.engine.drivers import driver_config
from sampan.engine.events import EventBus
from sampan.engine.files import write_files
from sampan.engine.mounts import make_bind_source
from sampan.engine.networks import Networks
from sampan.engine.ports import mappings
from sampan.engine.records import ContainerState, EndpointRecord, MountPoint, NetworkRecord, Status
from sampan.engine.rootfs import read_below, read_files
from sampan.engine.storage import StorageDrivers
from sampan.engine.trace import Span
from sampan.engine.users import Accounts, resolve
from sampan.engine.volumes import Volumes
from sampan.launch.client import Shim, Zygote
from sampan.launch.protocol import ClassRef, ExitRecord, ShimConfig
from sampan.linux import cgroups, namespaces
from sampan.settings import Settings

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL."""

KILL_TIMEOUT = 10.0
"""Seconds that a killed container gets to go away."""

HOOK_DEADLINE = 5.0
"""Seconds that the `sampan_adjust_spec` hooks of one start get together."""

RESTART_DELAY = 0.1
RESTART_DELAY_MAX = 60.0
RESTART_HEALTHY = 10.0
"""Docker's back-off: it doubles from 100 ms to a minute, and starts anew once a container has run for ten seconds."""

LOST = 255
"""Exit code of a container whose real one nobody knows, as Docker says."""


class Lifecycle:
    """Starts, watches and ends containers. Each public method takes the container's lock for as long as it changes it."""

    def __init__(
        self, settings: Settings, registry: plugins.Registry, engine_id: str, events: EventBus,
        containers: Containers, storage: StorageDrivers, networks: Networks, volumes: Volumes,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._registry = registry
        self._engine_id = engine_id
        self._events = events
        self._containers = containers
        self._storage = storage
        self._networks = networks
        self._volumes = volumes
        self._zygote: Zygote | None = None
        self._zygote_lock = asyncio.Lock()
        self._accounts: dict[str, Accounts] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # ------------------------------------------------------------------ start

    async def start(self, container: Container) -> None:
        """Start a container. Raises `NotModified` if it runs, `Conflict` if it is going away, or what made it fail."""
        async with container.lock:
            if container.is_running:
                raise NotModified(f"container {container.id} is already running")
            if container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            container.record.manually_stopped = False
            await self._start(container)

    async def _start(self, container: Container) -> None:
        record = container.record
        try:
            with container.trace.span("start", "total"):
                await self._launch(container)
        except BaseException as error:
            self._fail_pending(container)
            await asyncio.shield(self._undo_start(container))
            if isinstance(error, SampanError):
                record.state.error = str(error)
                record.state.exit_code = start_exit_code(error)
                await self._containers.save(container)
                if record.host.auto_remove:
                    await self._containers.remove(container, volumes=True)
                raise start_error(error) from error
            raise
        self._emit(container, "start")

    async def _launch(self, container: Container) -> None:
        record, trace = container.record, container.trace
        container.log_ended.clear()
        netns = -1
        try:
            network, kind = await self._network(container)
            shared = self._shared_namespaces(container)
            if kind is SandboxKind.OWN and "network" not in shared:
                with trace.span("start", "network.sandbox"):
                    netns = await asyncio.to_thread(namespaces.new_netns)
            endpoints: list[EndpointRecord] = []
            if network is not None:
                with trace.span("start", "network.attach", network.driver):
                    endpoints = [await self._attach(container, network, netns)]
            with trace.span("start", "storage.mounts", record.storage_driver):
                storage = await self._storage.get(record.storage_driver)
                rootfs = await storage.call(storage.driver.mounts, container.id)
            mounts = await self._ready_mounts(container)
            with trace.span("start", "spec.build"):
                accounts = await self._container_accounts(container, rootfs)
                spec = await self._build_spec(container, endpoints, network, kind, shared, mounts, accounts)
                await asyncio.to_thread(_write_json, container.directories.bundle / "config.json", spec)
            await self._run(container, rootfs, netns)
        finally:
            if netns >= 0:
                os.close(netns)

    async def _run(self, container: Container, rootfs: Sequence[object], netns: int) -> None:
        record, trace = container.record, container.trace
        with trace.span("start", "shim.spawn"):
            zygote = await self._the_zygote()
            shim = await zygote.spawn(self._shim_config(container, rootfs), netns)
        container.shim = shim
        for streams in container.pending:
            await shim.attach(
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                stdin_eof_closes=streams.stdin_eof_closes,
            )
        self._fail_pending(container)
        with trace.span("start", "runtime.launch", record.runtime):
            launched = await shim.launch()
        trace.extend(Span("start", span.phase, span.driver, span.start_ns, span.end_ns) for span in launched.spans)
        record.state = ContainerState(status=Status.RUNNING, pid=launched.pid, started_at=launched.started_at_ns)
        record.has_started = True
        with trace.span("start", "store.update"):
            await self._containers.save(container)
        self._spawn(self._watch(container, shim))

    def _shim_config(self, container: Container, rootfs: Sequence[object]) -> ShimConfig:
        record = container.record
        runtime = self._registry.driver("runtime", record.runtime, RuntimeDriver)
        log_driver = self._registry.driver("log", record.log_driver, LogDriver)
        config = driver_config(runtime, self._settings.runtimes.get(record.runtime, {}), "runtimes")
        size = record.host.console_size
        return ShimConfig(
            id=container.id,
            bundle=container.directories.bundle,
            root_dir=container.directories.root,
            state_dir=container.directories.state,
            runtime=ClassRef(runtime.__module__, runtime.__qualname__),
            runtime_config=config.model_dump(mode="json"),
            log=ClassRef(log_driver.__module__, log_driver.__qualname__),
            log_directory=container.directories.logs,
            log_options=record.host.log_config.config,
            rootfs=tuple(rootfs),  # type: ignore[arg-type]
            tty=record.config.tty,
            open_stdin=record.config.open_stdin,
            console_size=(size[0], size[1]) if any(size) else None,
        )

    async def _the_zygote(self) -> Zygote:
        """Give the zygote, started anew if it died."""
        async with self._zygote_lock:
            if self._zygote is None or self._zygote.died.is_set():
                self._zygote = await Zygote.start(preloaded(self._registry))
            return self._zygote

    # ------------------------------------------------------------------ what a start needs

    async def _network(self, container: Container) -> tuple[NetworkRecord | None, SandboxKind]:
        mode = container.record.host.network_mode
        if container.record.config.network_disabled:
            mode = "none"
        if mode.startswith("container:"):
            return None, SandboxKind.OWN
        network = await self._networks.default_of("bridge") if mode in ("", "default") else self._networks.resolve(mode)
        return network, await self._networks.sandbox_kind(network)

    async def _attach(self, container: Container, network: NetworkRecord, netns: int) -> EndpointRecord:
        record = container.record
        asked = record.networks.get(network.name) or record.networks.get("default") or EndpointSettings()
        ports = mappings(record.host, record.config.exposed_ports)
        return await self._networks.attach(
            network, container.id, netns, asked, ports, mac=asked.mac_address or record.config.mac_address
        )

    def _shared_namespaces(self, container: Container) -> dict[str, str]:
        """Give the namespaces that are the host's ("") or another container's (a path)."""
        host = container.record.host
        modes = {"pid": host.pid_mode, "ipc": host.ipc_mode, "uts": host.uts_mode, "network": host.network_mode}
        shared: dict[str, str] = {}
        for kind, mode in modes.items():
            if mode == "host" and kind != "network":
                shared[kind] = ""
            elif mode.startswith("container:"):
                other = self._containers.get(mode.removeprefix("container:"))
                if not other.is_running:
                    raise Conflict(f"cannot join {kind} namespace of a non running container: {other.id}")
                name = {"network": "net"}.get(kind, kind)
                shared[kind] = f"/proc/{other.record.state.pid}/ns/{name}"
        return shared

    async def _ready_mounts(self, container: Container) -> list[MountPoint]:
        ready = []
        for point in container.record.mounts:
            if point.type == "volume":
                source = await self._volumes.mount(point.name, container.id)
                point = point.model_copy(update={"source": str(source)})
            elif point.type == "bind":
                await asyncio.to_thread(make_bind_source, point)
                if not Path(point.source).exists():
                    raise InvalidArgument(
                        f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
                    )
            ready.append(point)
        return ready

    async def _container_accounts(self, container: Container, rootfs: Sequence[object]) -> Accounts:
        """Read the container's passwd and group; of one that never ran they are its image's, so read once."""
        record = container.record
        if not record.has_started and record.image_id in self._accounts:
            return self._accounts[record.image_id]
        found = await asyncio.to_thread(read_files, rootfs, ("etc/passwd", "etc/group"))  # type: ignore[arg-type]
        accounts = Accounts(found["etc/passwd"], found["etc/group"])
        if not record.has_started:
            if len(self._accounts) >= 256:
                self._accounts.clear()
            self._accounts[record.image_id] = accounts
        return accounts

    async def accounts(self, container: Container) -> Accounts:
        """Give the passwd and group files of a container, for an exec. A running one is looked at through its process."""
        root = f"/proc/{container.record.state.pid}/root"
        return await asyncio.to_thread(_accounts_below, root)

    async def _build_spec(
        self, container: Container, endpoints: list[EndpointRecord], network: NetworkRecord | None, kind: SandboxKind,
        shared: dict[str, str], mounts: list[MountPoint], accounts: Accounts,
    ) -> oci.Spec:  # fmt: skip
        record = container.record
        user = resolve(record.config.user, accounts, record.host.group_add)
        gateway = network.subnets[0][1] if network and network.subnets else None
        files = await asyncio.to_thread(
            write_files,
            container.directories.files,
            record,
            endpoints,
            host_network=kind is SandboxKind.HOST,
            gateway=gateway,
        )
        private = record.host.cgroupns_mode == "private" or (
            not record.host.cgroupns_mode and not record.host.privileged and cgroups.detect().version == "v2"
        )
        around = oci.Surroundings(
            user=user,
            cgroups_path=self.cgroup_path(container),
            private_cgroup_namespace=private,
            files=files,
            namespaces=shared,
            sandbox=kind,
            mounts=mounts,
            hostname=record.config.hostname,
        )
        spec, container.warnings = await asyncio.to_thread(oci.build, record, around)
        await self._adjust(container, spec)
        return spec

    def cgroup_path(self, container: Container) -> str:
        """Give the container's cgroup, the same path in every hierarchy."""
        parent = container.record.host.cgroup_parent or f"{self._settings.cgroup_parent}/{self._engine_id}"
        return f"/{parent.strip('/')}/{container.id}"

    async def _adjust(self, container: Container, spec: oci.Spec) -> None:
        implementations = self._registry.manager.hook.sampan_adjust_spec.get_hookimpls()
        if not implementations:
            return
        view = hookspecs.ContainerView(
            container.id, container.record.name, container.record.config.image, dict(container.record.config.labels)
        )
        call = self._registry.manager.hook.sampan_adjust_spec
        try:
            async with asyncio.timeout(HOOK_DEADLINE):
                await asyncio.to_thread(lambda: call(container=view, spec=spec))
        except TimeoutError as error:
            raise Unavailable(
                f"start container {container.id[:12]}: the sampan_adjust_spec hooks took longer than {HOOK_DEADLINE:.0f} s"
            ) from error
        except SampanError:
            raise
        except Exception as error:
            raise System(f"start container {container.id[:12]}: a sampan_adjust_spec hook failed: {error!r}") from error

    def _fail_pending(self, container: Container) -> None:
        """Close our copies of the attach descriptors: the shim has its own, or there will be none."""
        for streams in container.pending:
            streams.close()
        container.pending.clear()

    async def _undo_start(self, container: Container) -> None:
        shim, container.shim = container.shim, None
        if shim is not None:
            await self._delete_shim(container, shim)
        await self._networks.detach_all(container.id)
        await self._unmount_volumes(container)
        container.log_ended.set()
        container.tell_exit(start_exit_code(None))

    # ------------------------------------------------------------------ exit

    def _spawn(self, work: Awaitable[None]) -> None:
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
            end = await shim.wait()
        except Unavailable:
            end = await self._lost(container)
        async with container.lock:
            if container.shim is shim:
                await self._finish(container, end)

    async def _lost(self, container: Container) -> ExitRecord:
        """The shim is gone: kill what is left of its container, and say what is known of the exit."""
        if self._closing:
            await asyncio.get_running_loop().create_future()  # the daemon stops; containers go on
        known = read_exit_record(container.directories.root)
        await asyncio.to_thread(self._kill_cgroup, container)
        if known is not None:
            return known
        return ExitRecord(LOST, False, time.time_ns(), "the container's shim died")

    def _kill_cgroup(self, container: Container) -> None:
        group = cgroups.Cgroup(self.cgroup_path(container), cgroups.detect())
        try:
            group.kill()
            group.remove()
        except OSError as error:
            log.warning("remove cgroup of container %s: %s", container.id[:12], error)

    async def _finish(self, container: Container, end: ExitRecord) -> None:
        record = container.record
        shim, container.shim = container.shim, None
        with container.trace.span("exit", "network.detach"):
            await self._networks.detach_all(container.id)
        if shim is not None:
            with container.trace.span("exit", "runtime.delete", record.runtime):
                await self._delete_shim(container, shim)
        await self._unmount_volumes(container)
        container.log_ended.set()
        ran_for = max(0, end.finished_at_ns - record.state.started_at) / 1e9
        record.state = record.state.model_copy(
            update={
                "status": Status.EXITED, "pid": 0, "exit_code": end.exit_code, "oom_killed": end.oom_killed,
                "finished_at": end.finished_at_ns, "error": end.error,
            }
        )  # fmt: skip
        await self._containers.save(container)
        await asyncio.to_thread(container.trace.save)
        if end.oom_killed:
            self._emit(container, "oom")
        self._emit(container, "die", exitCode=str(end.exit_code), execDuration=str(int(ran_for)))
        restart = self._wants_restart(container, end.exit_code)
        container.tell_exit(end.exit_code)
        if record.host.auto_remove:
            await self._containers.remove(container, volumes=True)
        elif restart:
            self._schedule_restart(container, ran_for)

    async def _delete_shim(self, container: Container, shim: Shim) -> None:
        try:
            await shim.delete()
        except SampanError as error:
            log.warning("clean up after container %s: %s", container.id[:12], error)
            await asyncio.to_thread(self._kill_cgroup, container)
        await shim.close()

    async def _unmount_volumes(self, container: Container) -> None:
        for point in container.record.mounts:
            if point.type == "volume":
                await self._volumes.unmount(point.name, container.id)

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
        record.state.status = Status.RESTARTING
        container.restart_wait = asyncio.get_running_loop().call_later(
            delay, lambda: self._spawn(self._restart_now(container))
        )

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
        shim = container.shim
        if shim is None or not container.is_running:
            raise Conflict(f"Cannot kill container: {container.id}: container {container.id} is not running")
        if signum in (9, oci.stop_signal(container.record.config.stop_signal)):
            container.record.manually_stopped = True
        await shim.signal(signum)
        self._emit(container, "kill", signal=str(int(signum)))

    async def stop(self, container: Container, timeout: int | None, signum: int | None) -> None:
        """Ask a container to end, and end it when it has not after `timeout` seconds (-1: never). `NotModified` if stopped."""
        async with container.lock:
            self._cancel_restart(container)
            if not container.is_running:
                raise NotModified(f"container {container.id} is already stopped")
            container.record.manually_stopped = True
            exited = asyncio.shield(container.when_exited())
        wait = timeout if timeout is not None else container.record.config.stop_timeout
        seconds = STOP_TIMEOUT if wait is None else wait
        with container.trace.span("stop", "signal.wait", container.record.runtime):
            await self._signal_unless_gone(container, signum or oci.stop_signal(container.record.config.stop_signal))
            if not await _within(exited, None if seconds < 0 else seconds):
                await self._signal_unless_gone(container, 9)
                if not await _within(exited, KILL_TIMEOUT):
                    raise System(
                        f"cannot stop container: {container.id}: it did not end within {KILL_TIMEOUT:.0f} s of SIGKILL",
                        remedy="look for a process in uninterruptible sleep (D) with `ps`",
                    )
        self._emit(container, "stop")

    async def _signal_unless_gone(self, container: Container, signum: int) -> None:
        try:
            await self.kill(container, signum)
        except (Conflict, NotFound, Unavailable):
            pass  # it ended by itself

    async def restart(self, container: Container, timeout: int | None, signum: int | None) -> None:
        """Stop, if it runs, and start."""
        try:
            await self.stop(container, timeout, signum)
        except NotModified:
            pass
        async with container.lock:
            if not container.is_running:
                container.record.manually_stopped = False
                await self._start(container)
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

    # ------------------------------------------------------------------ removal

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Remove a container. Raises `Conflict` if it runs and `force` is not given, or if its removal is under way."""
        if container.status is Status.REMOVING:
            raise Conflict(f"removal of container {container.id} is already in progress")
        if container.is_running or container.status is Status.RESTARTING:
            if not force:
                state = (
                    "paused and must be unpaused first"
                    if container.status is Status.PAUSED
                    else "running: stop the container before removing or force remove"
                )
                raise Conflict(f'cannot remove container "{container.record.name}": container is {state}')
            if container.status is Status.PAUSED:
                await self.unpause(container)
            await self._stop_for_removal(container)
        async with container.lock:
            self._cancel_restart(container)
            if container.when_removed().done():
                return
            if container.is_running:
                raise Conflict(f'cannot remove container "{container.record.name}": it was started again')
            self._fail_pending(container)
            await self._containers.remove(container, volumes=volumes)

    async def _stop_for_removal(self, container: Container) -> None:
        exited = asyncio.shield(container.when_exited())
        container.record.manually_stopped = True
        await self._signal_unless_gone(container, 9)
        if container.is_running and not await _within(exited, KILL_TIMEOUT):
            raise System(f"remove container {container.id[:12]}: it did not end within {KILL_TIMEOUT:.0f} s of SIGKILL")

    # ------------------------------------------------------------------ after the daemon was away

    async def recover(self, *, rebooted: bool) -> None:
        """Find every container that ran: alive behind its shim, or ended meanwhile. Then carry out restart policies."""
        for container in self._containers.all():
            if container.status is Status.REMOVING:
                await self._containers.remove(container, volumes=container.record.host.auto_remove)
            elif container.is_running or container.status is Status.RESTARTING:
                await self._find(container, rebooted=rebooted)
        for container in self._containers.all():
            policy = container.record.host.restart_policy.name
            wanted = policy == "always" or (policy == "unless-stopped" and not container.record.manually_stopped)
            if wanted and not container.is_running and container.record.has_started and container.restart_wait is None:
                container.record.state.status = Status.RESTARTING
                container.restart_wait = asyncio.get_running_loop().call_later(0, self._spawn_restart, container)

    def _spawn_restart(self, container: Container) -> None:
        self._spawn(self._restart_now(container))

    async def _find(self, container: Container, *, rebooted: bool) -> None:
        try:
            if rebooted:
                raise Unavailable("the host was booted since")
            shim = await Shim.connect(container.directories.state)
            state = await shim.state()
        except SampanError:
            async with container.lock:
                end = read_exit_record(container.directories.root)
                if not rebooted:
                    await asyncio.to_thread(self._kill_cgroup, container)
                await self._finish(container, end or ExitRecord(LOST, False, time.time_ns(), ""))
            return
        container.shim = shim
        container.log_ended.clear()
        if state.running and container.status is Status.RESTARTING:
            container.record.state.status = Status.RUNNING
        self._spawn(self._watch(container, shim))

    async def sweep_starts(self) -> None:
        """End shims of containers that the store does not say are running: their start was cut off by a crash."""
        base = self._settings.state / "containers"
        for directory in sorted(base.iterdir()) if base.is_dir() else []:
            try:
                container = self._containers.get(directory.name)
            except SampanError:
                container = None
            if container is not None and container.shim is not None:
                continue
            try:
                shim = await Shim.connect(directory)
            except SampanError:
                continue
            log.info("ending the shim of %s, whose start was not recorded", directory.name[:12])
            try:
                await shim.delete()
            except SampanError as error:
                log.warning("end the shim of %s: %s", directory.name[:12], error)
            await shim.close()

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
        if self._zygote is not None:
            await self._zygote.close()

    def _emit(self, container: Container, action: str, **more: str) -> None:
        self._events.emit("container", action, container.id, attributes(container.record) | more)


def preloaded(registry: plugins.Registry) -> list[str]:
    """Give the modules that the zygote imports before it forks: the runtimes that ask for it, and the log drivers."""
    modules = [r.driver.__module__ for r in registry.registrations("runtime") if getattr(r.driver, "preload", False)]
    return [*modules, *(r.driver.__module__ for r in registry.registrations("log"))]


def read_exit_record(root: Path) -> ExitRecord | None:
    """Read what the shim wrote of an exit, if it did."""
    try:
        data = json.loads((root / "exit.json").read_text())
        return ExitRecord(**{f.name: data[f.name] for f in dataclasses.fields(ExitRecord)})
    except (OSError, ValueError, KeyError):
        return None


def _accounts_below(root: str) -> Accounts:
    try:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Accounts()
    try:
        return Accounts(read_below(fd, "etc/passwd"), read_below(fd, "etc/group"))
    finally:
        os.close(fd)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data))


async def _within(future: Awaitable[int], seconds: float | None) -> bool:
    """Wait for an exit at most so long; say whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await future
    except TimeoutError:
        return False
    return True


def start_exit_code(error: SampanError | None) -> int:
    """Give the exit code for a process that could not be started: 127 not found, 126 not runnable, else 128."""
    if isinstance(error, NotFound):
        return 127
    return 126 if isinstance(error, Forbidden) else 128


def start_error(error: SampanError, what: str = "create failed: unable to start container process") -> SampanError:
    """Put the error of a start or an exec as Docker does: the client reads the exit code, 126 or 127, from the text."""
    if isinstance(error, NotFound | Forbidden):
        return InvalidArgument(f"OCI runtime {what}: {error}: unknown")
    return error
