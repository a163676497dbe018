"""More processes in running containers (`docker exec`). An exec is known until its container stops or the engine ends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError, Unavailable
from sampan.api.types import ExecCreateRequest
from sampan.engine import isolation
from sampan.engine import spec as oci
from sampan.engine.container import Container
from sampan.engine.containers import Containers, attributes
from sampan.engine.events import EventBus
from sampan.engine.links import Links, environment
from sampan.engine.names import new_id
from sampan.engine.reach import raised
from sampan.engine.records import Status
from sampan.engine.security_options import parse_security_options
from sampan.engine.start import Starter, start_error, start_exit_code
from sampan.engine.streams import StdioPair
from sampan.launch.protocol import ExecConfig

log = logging.getLogger(__name__)

KEPT = 32
"""Ended execs that are kept per container, to be inspected."""

UNSTARTED = 128
"""Execs of a container that may wait for their start; the oldest give way to more."""

SHOWN_COMMAND = 4096
"""Characters of a command that an event shows: events are kept, and commands may have megabytes."""


@dataclass(slots=True)
class Exec:
    """One exec. `exit_code` is None until it ended."""

    id: str
    container: Container
    request: ExecCreateRequest
    running: bool = False
    started: bool = False
    pid: int = 0
    exit_code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, exit_code: int) -> None:
        """It came to nothing."""
        self.exit_code = exit_code
        self.ended.set()


class Execs:
    """The engine's execs, by id."""

    def __init__(self, containers: Containers, starter: Starter, links: Links, events: EventBus) -> None:
        self._containers = containers
        self._starter = starter
        self._links = links
        self._events = events
        self._by_id: dict[str, Exec] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    def get(self, exec_id: str) -> Exec:
        """Find an exec. Raises `NotFound`."""
        try:
            return self._by_id[exec_id]
        except KeyError:
            raise NotFound(f"No such exec instance: {exec_id}") from None

    def of(self, container: Container) -> list[Exec]:
        """Give the execs of a container that have not ended."""
        return [item for item in self._by_id.values() if item.container is container and item.exit_code is None]

    def create(self, container: Container, request: ExecCreateRequest) -> Exec:
        """Note what is to be run. Raises `Conflict` if the container does not run."""
        if container.status is Status.PAUSED:
            raise Conflict(f"Container {container.record.name} is paused, unpause the container before exec")
        if not container.is_running:
            raise Conflict(f"container {container.id} is not running")
        if not request.cmd:
            raise InvalidArgument("No exec command specified")
        made = Exec(new_id(), container, request)
        self._by_id[made.id] = made
        self._forget_old(container)
        self._emit(made, f"exec_create: {_shown(request.cmd)}")
        return made

    def _forget_old(self, container: Container) -> None:
        own = [item for item in self._by_id.values() if item.container is container]
        ended = [item for item in own if item.exit_code is not None]
        waiting = [item for item in own if not item.started]
        for item in (*ended[:-KEPT], *waiting[:-UNSTARTED]):
            del self._by_id[item.id]

    async def start(self, item: Exec, stdio: StdioPair, *, tty: bool, console_size: tuple[int, int] | None) -> None:
        """Run it with `stdio`. Raises `Conflict` if it ran already, or the runtime's error in Docker's words."""
        container = item.container
        if item.started:
            raise Conflict(
                f"exec command {item.id} has already been started"
                if item.running
                else f"Error: Exec command {item.id} has already run"
            )
        shim = container.shim
        if shim is None or container.status is not Status.RUNNING:
            raise Conflict(f"container {container.id} is not running")
        item.started = True
        try:
            process = await self._process(item)
        except SampanError:
            item.fail(126)
            raise
        config = ExecConfig(
            id=item.id, process=process, tty=item.request.tty, open_stdin=item.request.attach_stdin,
            console_size=console_size or item.request.console_size,
        )  # fmt: skip
        stdin, stdout, stderr = stdio.remote
        try:
            with container.trace.span("exec", "runtime.exec", container.record.runtime):
                item.pid = await shim.exec(config, stdin=stdin, stdout=stdout, stderr=stderr)
        except SampanError as error:
            item.fail(start_exit_code(error))
            raise start_error(error, "exec failed: exec failed: unable to start container process") from error
        item.running = True
        task = asyncio.create_task(self._watch(item))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)
        self._emit(item, f"exec_start: {_shown(item.request.cmd)}")

    async def _process(self, item: Exec) -> oci.Spec:
        record, request = item.container.record, item.request
        user = await self._starter.user_of(item.container, request.user or record.config.user)
        host = record.host.model_copy(update={"privileged": True}) if request.privileged else record.host
        granted, _ = isolation.container_capabilities(host)
        linked = environment(record.name, self._links.of(record))
        defaults = self._starter.defaults
        security = parse_security_options(record.host.security_opt, no_new_privileges=defaults.no_new_privileges)
        process = {
            "terminal": request.tty,
            "user": oci.oci_user(user),
            "args": request.cmd,
            "env": oci.environment(record, user, tty=request.tty, found=linked, extra=request.env),
            "cwd": request.working_dir or record.config.working_dir or "/",
            "capabilities": oci.capability_sets(granted, user),
            "rlimits": oci.rlimits(record, defaults),
            "noNewPrivileges": security.no_new_privileges,
            "oomScoreAdj": raised(record.host.oom_score_adj),
        }
        if security.apparmor and not request.privileged:
            process["apparmorProfile"] = security.apparmor
        return process

    async def _watch(self, item: Exec) -> None:
        shim = item.container.shim
        try:
            if shim is None:
                raise Unavailable("the container ended")
            code = (await shim.wait_exec(item.id)).exit_code
        except SampanError:
            code = 137  # the container went, and the process with it
        item.exit_code, item.running = code, False
        item.ended.set()
        self._emit(item, "exec_die", exitCode=str(code))

    async def resize(self, item: Exec, height: int, width: int) -> None:
        """Set the terminal's size."""
        if item.container.shim is None or not item.running:
            raise Conflict(f"exec {item.id} is not running")
        await item.container.shim.resize(height, width, item.id)

    def forget(self, container: Container) -> None:
        """Forget the execs of a container that is removed."""
        for item in [item for item in self._by_id.values() if item.container is container]:
            del self._by_id[item.id]

    async def close(self) -> None:
        """Stop watching; the processes go on."""
        for task in list(self._watchers):
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def _emit(self, item: Exec, action: str, **more: str) -> None:
        shown = attributes(item.container.record) | {"execID": item.id} | more
        self._events.emit("container", action, item.container.id, shown)


def _shown(command: list[str]) -> str:
    return " ".join(command)[:SHOWN_COMMAND]
