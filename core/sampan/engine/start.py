"""Starting a container: everything that a launch needs is found and made, then zygote, shim and runtime take over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sampan import plugins
from sampan.api import hookspecs
from sampan.api.errors import Forbidden, InvalidArgument, NotFound, SampanError, System, Unavailable
from sampan.api.logs import LogDriver
from sampan.api.network import SandboxKind
from sampan.api.runtime import RuntimeCapability
from sampan.api.storage import Mount
from sampan.engine import shm
from sampan.engine import spec as oci
from sampan.engine.connections import Connections
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.defaults import Defaults
from sampan.engine.drivers import contained, private_directory
from sampan.engine.files import bound_files, write_files
from sampan.engine.links import Links, environment, host_lines
from sampan.engine.logs import attributes as log_attributes
from sampan.engine.modes import check_modes
from sampan.engine.mounts import ready_bind
from sampan.engine.naming import Naming
from sampan.engine.networks import Networks
from sampan.engine.records import ContainerRecord, ContainerState, EndpointRecord, MountPoint, NetworkRecord, Status
from sampan.engine.remap import check_shifts, check_user, root_of
from sampan.engine.rootfs import read_below, read_files
from sampan.engine.runtimes import Runtimes
from sampan.engine.sandboxes import Sandbox, Sandboxes
from sampan.engine.sharing import Sharing, share
from sampan.engine.storage import Storage, StorageDrivers
from sampan.engine.surroundings import Surroundings
from sampan.engine.trace import Span
from sampan.engine.users import Accounts, User, resolve
from sampan.engine.volumes import Volumes
from sampan.launch.client import NO_NAMESPACES, Shim, Zygote
from sampan.launch.protocol import ClassRef, Namespaces, ShimConfig
from sampan.launch.records import EXIT
from sampan.linux import cgroups
from sampan.settings import Settings

HOOK_DEADLINE = 5.0
"""Seconds that the `sampan_adjust_spec` hooks of one start get together."""

HOOKS = 8
"""Starts whose hooks may run at once, in threads of their own: hooks that hang fail starts, and hold up nothing else."""

ZYGOTE_DEATH = 1.0
"""Seconds that a zygote gets to be known as dead, once a shim that it was to fork is."""

IMAGES_REMEMBERED = 256
"""Images whose passwd and group files are kept in memory."""


class Starter:
    """Takes a container from its record to a running process. Undoing a failed start is its caller's."""

    def __init__(
        self, settings: Settings, registry: plugins.Registry, engine_id: str,
        containers: Containers, storage: StorageDrivers, networks: Networks, connections: Connections,
        naming: Naming, links: Links, sandboxes: Sandboxes, volumes: Volumes, runtimes: Runtimes, defaults: Defaults,
    ) -> None:  # fmt: skip
        self.defaults = defaults
        self._runtimes = runtimes
        self._settings = settings
        self._registry = registry
        self._engine_id = engine_id
        self._containers = containers
        self._storage = storage
        self._connections = connections
        self._networks = networks
        self._naming = naming
        self._links = links
        self._sandboxes = sandboxes
        self._volumes = volumes
        self._caches = settings.state / "runtimes"
        self._zygote: Zygote | None = None
        self._zygote_lock = asyncio.Lock()
        self._accounts: dict[str, Accounts] = {}
        self._hooks = ThreadPoolExecutor(HOOKS, thread_name_prefix="spec-hooks")

    async def launch(self, container: Container, checkpoint: Path | None = None) -> Shim:
        """Launch a container, or go on from a checkpoint: afterwards its record says that it runs. On an error `container.shim`
        is what is to be deleted.
        """
        record, trace = container.record, container.trace
        container.log_ended.clear()
        await self._check_remapped(record)
        sandbox: Sandbox | None = None
        userns = -1
        beside: list[asyncio.Task[Any]] = []
        try:
            networks = await self._connections.networks_of(record)
            kind = await self._connections.sandbox_kind(networks)
            shared = share(container, self._containers.get)
            if self.defaults.idmaps_of(record.host):
                userns = shared.open_userns()
            if kind is SandboxKind.OWN and "network" not in shared.paths:
                with trace.span("start", "network.sandbox"):
                    sandbox = await self._take_sandbox(record, networks, userns)
            storage = await self._storage.get(record.storage_driver)
            spawning = asyncio.create_task(self._spawn(container, storage, _namespaces(sandbox, userns), checkpoint))
            beside.append(spawning)
            endpoints = await self._connections.join(container, networks, sandbox)
            recording = asyncio.create_task(self._connections.record(container, endpoints))
            beside.append(recording)
            mounts = await self._ready_mounts(container)
            with trace.span("start", "spec.build"):
                accounts = await self._container_accounts(container, storage)
                await self._write_bundle(container, endpoints, kind, shared, mounts, accounts)
            await recording
            return await self._run(container, await spawning)
        finally:
            if beside:
                await asyncio.wait(beside)  # the shim, if any, is in the container now: the caller deletes it
            if sandbox is not None:
                sandbox.close()
            if userns >= 0:
                os.close(userns)

    async def _check_remapped(self, record: ContainerRecord) -> None:
        """Refuse what goes with no user namespace: the container may be older than the setting. Raises as the checks at create."""
        if self.defaults.idmaps_of(record.host):
            check_modes(record.host, remapped=True)
            await self._runtimes.check(record.runtime, record.host, remapped=True)

    async def _take_sandbox(self, record: ContainerRecord, networks: Sequence[NetworkRecord], userns: int) -> Sandbox:
        """Give one of those that wait, unless it must belong to another user namespace than theirs: that of others, or the host's."""
        if userns >= 0 or self.defaults.idmaps_of(record.host) is not self.defaults.idmaps:
            return await self._sandboxes.take_owned(userns)
        return await self._sandboxes.take(self._connections.preparable(record, networks))

    async def recover(self, container: Container) -> Shim | None:
        """Let a fresh shim take up a running container whose own has died; None if its runtime can't.

        Raises what went wrong: `Unsupported` for a handle of another release, `NotFound` without one.
        """
        record = container.record
        if RuntimeCapability.RECOVER not in (await self._runtimes.probe(record.runtime)).capabilities:
            return None
        storage = await self._storage.get(record.storage_driver)
        rootfs = await storage.call(storage.driver.mounts, container.id)
        shim = await self._fork_shim(self._shim_config(container, rootfs))
        recovered = False
        try:
            paused = container.status is Status.PAUSED
            recovered = await shim.recover(started_at_ns=record.state.started_at, paused=paused)
        finally:
            if not recovered:
                await shim.close()
        return shim if recovered else None

    async def _spawn(
        self, container: Container, storage: Storage, namespaces: Namespaces, checkpoint: Path | None
    ) -> Shim:
        """Fork the shim while network and spec are made. One that is never told to launch ends by itself."""
        with container.trace.span("start", "storage.mounts", storage.name):
            rootfs = await storage.call(storage.driver.mounts, container.id)
        maps = self.defaults.idmaps_of(container.record.host)
        if maps:
            check_shifts(storage)
            rootfs = tuple(replace(mount, options=(*mount.options, "idmap")) for mount in rootfs)
        with container.trace.span("start", "shim.spawn"):
            await asyncio.to_thread(_ready_directories, container, root_of(maps))
            container.shim = await self._fork_shim(self._shim_config(container, rootfs, checkpoint), namespaces)
        return container.shim

    async def _run(self, container: Container, shim: Shim) -> Shim:
        record, trace = container.record, container.trace
        for streams in container.pending:
            await shim.attach(
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                stdin_eof_closes=streams.stdin_eof_closes,
            )
        close_pending(container)
        with trace.span("start", "runtime.launch", record.runtime):
            launched = await shim.launch()
        trace.extend(Span("start", span.phase, span.driver, span.start_ns, span.end_ns) for span in launched.spans)
        record.state = ContainerState(status=Status.RUNNING, pid=launched.pid, started_at=launched.started_at_ns)
        record.has_started = True
        with trace.span("start", "store.update"):
            await self._containers.save(container)
        return shim

    def _shim_config(self, container: Container, rootfs: Sequence[Mount], checkpoint: Path | None = None) -> ShimConfig:
        record = container.record
        runtime = self._runtimes.find(record.runtime)
        log_driver = self._registry.driver("log", record.log_driver, LogDriver)
        size = record.host.console_size
        return ShimConfig(
            id=container.id,
            bundle=str(container.directories.bundle),
            root_dir=str(container.directories.root),
            state_dir=str(container.directories.state),
            runtime=ClassRef(runtime.driver.__module__, runtime.driver.__qualname__),
            runtime_config=runtime.config,
            log=ClassRef(log_driver.__module__, log_driver.__qualname__),
            log_directory=str(container.directories.logs),
            log_options=record.host.log_config.config,
            log_attributes=log_attributes(record),
            rootfs=tuple(rootfs),
            tty=record.config.tty,
            open_stdin=record.config.open_stdin,
            console_size=(size[0], size[1]) if any(size) else None,
            cache_dir=str(self._caches / runtime.driver.name),
            checkpoint=str(checkpoint or ""),
        )

    async def _fork_shim(self, config: ShimConfig, namespaces: Namespaces = NO_NAMESPACES) -> Shim:
        """Have the zygote fork a shim, or the next one if it dies before it comes to that."""
        zygote = await self._the_zygote()
        try:
            return await zygote.spawn(config, namespaces)
        except Unavailable:  # that is how the end of either is seen; the zygote's is told a little later
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(zygote.died.wait(), ZYGOTE_DEATH)
            if not zygote.died.is_set():
                raise
        return await (await self._the_zygote()).spawn(config, namespaces)

    async def _the_zygote(self) -> Zygote:
        """Give the zygote, started anew if it died."""
        async with self._zygote_lock:
            if self._zygote is None or self._zygote.died.is_set():
                self._zygote = await Zygote.start(preloaded(self._registry), rehearsed_log(self._registry), self._caches)
            return self._zygote

    # ------------------------------------------------------------------ what a start needs

    async def _ready_mounts(self, container: Container) -> list[MountPoint]:
        ready = []
        for point in container.record.mounts:
            if point.type == "volume":
                source = await self._volumes.mount(point.name, container.id)
                point = point.model_copy(update={"source": str(source)})
            elif point.type == "bind":
                await asyncio.to_thread(ready_bind, point, root_of(self.defaults.idmaps_of(container.record.host)))
            ready.append(point)
        return ready

    async def _container_accounts(self, container: Container, storage: Storage) -> Accounts:
        """Read the container's passwd and group; of one that never ran they are its image's, so read once."""
        record = container.record
        if not record.has_started and record.image_id in self._accounts:
            return self._accounts[record.image_id]
        rootfs = await storage.call(storage.driver.look, container.id)
        found = await asyncio.to_thread(read_files, rootfs, ("etc/passwd", "etc/group"))
        accounts = Accounts(found["etc/passwd"], found["etc/group"])
        if not record.has_started:
            if len(self._accounts) >= IMAGES_REMEMBERED:
                self._accounts.clear()
            self._accounts[record.image_id] = accounts
        return accounts

    async def user_of(self, container: Container, text: str) -> User:
        """Resolve whom an exec runs as, by the files that the running container sees. They may be large: on a thread."""
        root = f"/proc/{container.record.state.pid}/root"
        return await asyncio.to_thread(lambda: self._resolve(container.record, text, _accounts_below(root)))

    def _resolve(self, record: ContainerRecord, text: str, accounts: Accounts) -> User:
        user = resolve(text, accounts, record.host.group_add)
        if maps := self.defaults.idmaps_of(record.host):
            check_user(maps, user.uid, (user.gid, *user.groups))
        return user

    async def _write_bundle(
        self, container: Container, endpoints: list[EndpointRecord], kind: SandboxKind,
        shared: Sharing, mounts: list[MountPoint], accounts: Accounts,
    ) -> None:  # fmt: skip
        """Write the container's own files and its spec, in one go on a thread; hooks see the spec in between."""
        linked = self._links.of(container.record)
        gateways = self._networks.host_gateways()
        networked = self._connections.sandbox_owner(container)

        def build() -> oci.Spec:
            record = container.record
            if networked is not container:
                files = bound_files(networked.directories.files)
            else:
                files = write_files(
                    container.directories.files,
                    record,
                    endpoints,
                    host_network=kind is SandboxKind.HOST,
                    gateways=gateways,
                    resolv_conf=self._naming.resolv_conf(record, kind).text,
                    owner=root_of(self.defaults.idmaps_of(record.host)),
                    linked=host_lines(linked),
                )
            around = Surroundings(
                user=self._resolve(record, record.config.user, accounts),
                cgroups_path=self.cgroup_path(container),
                files=files,
                namespaces=shared.paths,
                sandbox=kind,
                mounts=mounts,
                hostname=record.config.hostname,
                environment=environment(record.name, linked),
                shm=shared.shm,
                defaults=self.defaults,
            )
            spec = oci.build(record, around)
            if not adjusted:
                _write_json(container.directories.bundle / "config.json", spec)
            return spec

        adjusted = bool(self._registry.manager.hook.sampan_adjust_spec.get_hookimpls())
        spec = await asyncio.to_thread(build)
        if adjusted:
            await self._adjust(container, spec)
            await asyncio.to_thread(self._write_adjusted, container, spec)

    def _write_adjusted(self, container: Container, spec: oci.Spec) -> None:
        """Write what hooks have made of a spec. Raises `System` for what is none, or would run where nobody finds and ends it."""
        what = f"start container {container.id[:12]}: a sampan_adjust_spec hook"
        try:
            moved = spec["linux"]["cgroupsPath"] != self.cgroup_path(container)
            text = json.dumps(spec)
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise System(f"{what} has left no OCI spec: {error!r}") from error
        if moved:
            raise System(f"{what} has changed linux.cgroupsPath", remedy="use --cgroup-parent")
        (container.directories.bundle / "config.json").write_text(text)

    def cgroup_path(self, container: Container) -> str:
        """Give the container's cgroup, the same path in every hierarchy."""
        parent = container.record.host.cgroup_parent or f"{self._settings.cgroup_parent}/{self._engine_id}"
        return f"/{parent.strip('/')}/{container.id}"

    def _remove_empty_cgroup(self) -> None:
        for root in cgroups.detect().roots:
            with contextlib.suppress(OSError):  # it was never made, or containers go on in it
                os.rmdir(f"{root}{self._settings.cgroup_parent}/{self._engine_id}")

    async def _adjust(self, container: Container, spec: oci.Spec) -> None:
        view = hookspecs.ContainerView(
            container.id, container.record.name, container.record.config.image, dict(container.record.config.labels)
        )
        call = self._registry.manager.hook.sampan_adjust_spec
        try:
            async with asyncio.timeout(HOOK_DEADLINE):
                await asyncio.get_running_loop().run_in_executor(self._hooks, partial(contained, call, container=view, spec=spec))
        except TimeoutError as error:
            raise Unavailable(
                f"start container {container.id[:12]}: the sampan_adjust_spec hooks took longer than {HOOK_DEADLINE:.0f} s"
            ) from error
        except SampanError:
            raise
        except Exception as error:
            raise System(f"start container {container.id[:12]}: a sampan_adjust_spec hook failed: {error!r}") from error

    async def open(self) -> None:
        """Have the zygote ready before the first start, and nothing of an earlier engine's, another release's maybe, in the caches."""
        await asyncio.to_thread(shutil.rmtree, self._caches, ignore_errors=True)
        private_directory(self._caches)
        await self._the_zygote()

    async def close(self) -> None:
        """End the zygote and remove the engine's own cgroup if nothing is in it; shims go on."""
        await asyncio.to_thread(self._remove_empty_cgroup)
        async with self._zygote_lock:  # it may be starting just now
            if self._zygote is not None:
                await self._zygote.close()


def _namespaces(sandbox: Sandbox | None, userns: int) -> Namespaces:
    """Give what was made for a container, or is another's that it joins."""
    if sandbox is None:
        return Namespaces(user=userns)
    return Namespaces(sandbox.netns, userns if userns >= 0 else sandbox.userns)


def _ready_directories(container: Container, owner: tuple[int, int]) -> None:
    """Have the state directory empty, but for a /dev/shm that others may join, and the exit record of an earlier run away."""
    shm.unmount(container.directories.shm)
    shutil.rmtree(container.directories.state, ignore_errors=True)
    container.directories.state.mkdir(mode=0o700)
    if container.record.host.ipc_mode == "shareable":
        shm.mount(container.directories.shm, container.record.host.shm_size, owner)
    (container.directories.root / EXIT).unlink(missing_ok=True)


def close_pending(container: Container) -> None:
    """Close our copies of the attach descriptors: the shim has its own, or there will be none."""
    for streams in container.pending:
        streams.close()
    container.pending.clear()


def preloaded(registry: plugins.Registry) -> list[str]:
    """Give the modules that the zygote imports before it forks: the runtimes that ask for it, and the log drivers."""
    modules = [r.driver.__module__ for r in registry.registrations("runtime") if getattr(r.driver, "preload", False)]
    return [*modules, *(r.driver.__module__ for r in registry.registrations("log"))]


def rehearsed_log(registry: plugins.Registry) -> ClassRef | None:
    """Give the log driver that the zygote rehearses with: the one that only writes files, for its first line is nobody's."""
    found = [r.driver for r in registry.registrations("log") if r.driver.name == "json-file"]
    return ClassRef(found[0].__module__, found[0].__qualname__) if found else None


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


def start_exit_code(error: BaseException) -> int:
    """Give the exit code for a process that could not be started: 127 not found, 126 not runnable, else 128."""
    if isinstance(error, NotFound):
        return 127
    return 126 if isinstance(error, Forbidden) else 128


def start_error(error: SampanError, what: str = "create failed: unable to start container process") -> SampanError:
    """Put the error of a start or an exec as Docker does: the client reads the exit code, 126 or 127, from the text."""
    if not isinstance(error, NotFound | Forbidden):
        return error
    text = str(error)
    if not text.startswith("OCI runtime "):  # as an OCI runtime's program has it said already
        text = f"OCI runtime {what}: {text}"
    return InvalidArgument(f"{text}: unknown")
