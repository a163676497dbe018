"""`/containers`: create, list, inspect, start, stop, kill, wait, logs, remove and what goes with them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable

from sampan.api.errors import Conflict, InvalidArgument, NotFound
from sampan.api.logs import LogRecord
from sampan.api.storage import ChangeKind
from sampan.api.types import ContainerCreateRequest, HostConfig
from sampan.engine import changes, logs
from sampan.engine.container import Container
from sampan.engine.containers import attributes
from sampan.engine.engine import Engine
from sampan.engine.records import Status
from sampan.engine.spec import stop_signal
from sampan.engine.times import from_timestamp
from sampan.engine.top import process_table
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.resources.attach import attach
from sampan.http.resources.checkpoints import directory_of
from sampan.http.resources.container_filters import matches_label, select
from sampan.http.resources.container_views import inspect, size_view, summary
from sampan.http.response import (
    MULTIPLEXED_STREAM,
    RAW_STREAM,
    AnyResponse,
    Response,
    StreamResponse,
    empty,
    json_response,
)
from sampan.http.router import Router
from sampan.http.streams import STDERR, STDOUT, frame
from sampan.linux import cgroups

_CHANGE_KINDS = {ChangeKind.MODIFIED: 0, ChangeKind.ADDED: 1, ChangeKind.DELETED: 2}


class ContainerRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/containers/json", self.index)
        router.add("POST", "/containers/create", self.create)
        router.add("POST", "/containers/prune", self.prune)
        router.add("GET", "/containers/{id}/json", self.inspect)
        router.add("GET", "/containers/{id}/top", self.top)
        router.add("GET", "/containers/{id}/changes", self.changes)
        router.add("GET", "/containers/{id}/logs", self.logs)
        router.add("GET", "/containers/{id}/trace", self.trace)
        router.add("POST", "/containers/{id}/start", self.start)
        router.add("POST", "/containers/{id}/stop", self.stop)
        router.add("POST", "/containers/{id}/restart", self.restart)
        router.add("POST", "/containers/{id}/kill", self.kill)
        router.add("POST", "/containers/{id}/pause", self.pause)
        router.add("POST", "/containers/{id}/unpause", self.unpause)
        router.add("POST", "/containers/{id}/update", self.update)
        router.add("POST", "/containers/{id}/rename", self.rename)
        router.add("POST", "/containers/{id}/resize", self.resize)
        router.add("POST", "/containers/{id}/wait", self.wait)
        router.add("POST", "/containers/{id}/attach", self.attach)
        router.add("DELETE", "/containers/{id:path}", self.remove)

    def _get(self, request: Request) -> Container:
        return self._engine.containers.get(request.params["id"])

    async def index(self, request: Request) -> Response:
        """Give the containers that run, or all."""
        filters = request.query.filters()
        limit = request.query.get_int("limit")
        everything = request.query.get_bool("all") or limit > 0 or bool({"status", "exited"} & filters.keys())
        containers = [c for c in self._engine.containers.all() if everything or c.is_running]
        containers = select(self._engine, containers, filters)
        if limit > 0:
            containers = containers[:limit]
        lines = [summary(self._engine, container) for container in containers]
        if request.query.get_bool("size"):
            sizes = await self._engine.usage.containers(containers)
            lines = [line | size_view(size) for line, size in zip(lines, sizes, strict=True)]
        return json_response(lines)

    async def create(self, request: Request) -> Response:
        """Make a container."""
        asked = await body.model(request, ContainerCreateRequest)
        _fill_for_old_clients(asked.host_config, request.version)
        self._check_platform(request.query.get("platform"), asked.image)
        created = await self._engine.containers.create(asked, request.query.get("name") or None)
        return json_response({"Id": created.container.id, "Warnings": created.warnings}, 201)

    def _check_platform(self, platform: str, name: str) -> None:
        if not platform:
            return
        image = self._engine.images.resolve(name)
        have = f"{image.os}/{image.architecture}"
        if not have.startswith("/".join(platform.split("/")[:2])):
            raise NotFound(
                f"image with reference {name} was found but its platform ({have}) does not match the specified platform ({platform})"
            )

    async def inspect(self, request: Request) -> Response:
        """Tell everything about a container."""
        container = self._get(request)
        await container.settle()
        view = inspect(self._engine, container)
        if request.query.get_bool("size"):
            view |= size_view((await self._engine.usage.containers([container]))[0])
        return json_response(view)

    async def changes(self, request: Request) -> Response:
        """Tell which files of its image a container changed; null for none, as Docker."""
        found = await changes.of_container(self._engine.storage, self._get(request))
        told = [{"Path": "/" + item.path.decode("utf-8", "replace"), "Kind": _CHANGE_KINDS[item.kind]} for item in found]
        return json_response(told or None)

    async def start(self, request: Request) -> Response:
        """Start a container, maybe from a checkpoint."""
        container, checkpoint = self._get(request), None
        if name := request.query.get("checkpoint"):
            where = directory_of(request.query.get("checkpoint-dir"))
            checkpoint = await asyncio.to_thread(self._engine.checkpoints.find, container, name, where)
        await self._engine.lifecycle.start(container, checkpoint)
        return empty()

    async def stop(self, request: Request) -> Response:
        """Stop a container: signal, wait, SIGKILL."""
        timeout, signum = _stop_options(request)
        await self._engine.lifecycle.stop(self._get(request), timeout, signum)
        return empty()

    async def restart(self, request: Request) -> Response:
        """Stop and start a container."""
        timeout, signum = _stop_options(request)
        await self._engine.lifecycle.restart(self._get(request), timeout, signum)
        return empty()

    async def kill(self, request: Request) -> Response:
        """Send a signal; SIGKILL waits for the end, as Docker does."""
        container = self._get(request)
        signum = stop_signal(request.query.get("signal") or "SIGKILL")
        exited = asyncio.shield(container.when_exited())
        await self._engine.lifecycle.kill(container, signum)
        if signum == 9:
            await exited
        return empty()

    async def pause(self, request: Request) -> Response:
        """Freeze a container."""
        await self._engine.lifecycle.pause(self._get(request))
        return empty()

    async def unpause(self, request: Request) -> Response:
        """Thaw a container."""
        await self._engine.lifecycle.unpause(self._get(request))
        return empty()

    async def update(self, request: Request) -> Response:
        """Change limits and restart policy."""
        container = self._get(request)
        asked = await body.model(request, HostConfig)
        if request.version < (1, 40):  # clients of that time send 0 for what they don't know
            asked.pids_limit = None
        warnings = await self._engine.updates.update(container, asked)
        return json_response({"Warnings": warnings or None})

    async def rename(self, request: Request) -> Response:
        """Give a container another name."""
        name = request.query.get("name")
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        await self._engine.lifecycle.rename(self._get(request), name)
        return empty()

    async def resize(self, request: Request) -> Response:
        """Set the terminal's size."""
        container = self._get(request)
        await container.settle()
        if container.shim is None or not container.is_running:
            raise Conflict(f"Container {container.id} is not running")
        await container.shim.resize(request.query.get_int("h"), request.query.get_int("w"))
        return empty(200)

    async def remove(self, request: Request) -> Response:
        """Remove a container, or a link to one."""
        if request.query.get_bool("link"):
            await self._engine.links.remove(request.params["id"])
            return empty()
        await self._engine.lifecycle.remove(
            self._get(request), force=request.query.get_bool("force"), volumes=request.query.get_bool("v")
        )
        return empty()

    async def prune(self, request: Request) -> Response:
        """Remove all containers that do not run."""
        filters = request.query.filters()
        removed = []
        for container in self._engine.containers.all():
            if container.status not in (Status.CREATED, Status.EXITED, Status.DEAD):
                continue
            labels = container.record.config.labels
            if all(matches_label(labels, wanted) for wanted in filters.get("label", [])):
                await self._engine.lifecycle.remove(container, force=False, volumes=False)
                removed.append(container.id)
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": 0})

    # ------------------------------------------------------------------ wait

    async def wait(self, request: Request) -> AnyResponse:
        """Answer with the exit code when the condition holds; the head goes out at once."""
        container = self._get(request)
        condition = request.query.get("condition") or "not-running"
        if condition == "not-running":
            await container.settle()
        if condition == "not-running" and not container.is_running and container.status is not Status.RESTARTING:
            waiting: Awaitable[int] = _ready(container.record.state.exit_code)
        elif condition in ("not-running", "next-exit"):
            waiting = asyncio.shield(container.when_exited())
        elif condition == "removed":
            waiting = asyncio.shield(container.when_removed())
        else:
            raise InvalidArgument(f'invalid condition: "{condition}"')
        return StreamResponse(200, "application/json", _exit_code(waiting))

    # ------------------------------------------------------------------ output

    async def attach(self, request: Request) -> AnyResponse:
        """Join the container's streams."""
        return attach(self._engine, self._get(request), request)

    async def logs(self, request: Request) -> AnyResponse:
        """Give the container's output so far, and on."""
        container, query = self._get(request), request.query
        stdout, stderr = query.get_bool("stdout"), query.get_bool("stderr")
        if not (stdout or stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        try:
            since, until = from_timestamp(query.get("since")), from_timestamp(query.get("until"))
        except ValueError as error:
            raise InvalidArgument(f"invalid value for since or until: {error}") from error
        tail = query.get("tail")
        records = logs.read(
            self._engine.registry, container, since_ns=since, until_ns=until,
            tail=int(tail) if tail.isascii() and tail.isdigit() and len(tail) <= 18 else None, follow=query.get_bool("follow"),
        )  # fmt: skip
        wanted = {name for name, is_wanted in (("stdout", stdout), ("stderr", stderr)) if is_wanted}
        tty = container.record.config.tty
        chunks = _log_chunks(records, wanted, timestamps=query.get_bool("timestamps"), framed=not tty)
        return StreamResponse(200, RAW_STREAM if tty else MULTIPLEXED_STREAM, chunks)

    async def trace(self, request: Request) -> Response:
        """Tell where the time of the container's operations went."""
        container = self._get(request)
        spans = [
            {
                "Operation": span.operation,
                "Phase": span.phase,
                "Driver": span.driver,
                "StartNs": span.start_ns,
                "DurationNs": span.end_ns - span.start_ns,
            }
            for span in container.trace.spans()
        ]
        return json_response({"Id": container.id, "Spans": spans})

    async def top(self, request: Request) -> Response:
        """List the container's processes with the host's `ps`."""
        container = self._get(request)
        table = await process_table(container, request.query.get("ps_args"))
        self._engine.events.emit("container", "top", container.id, attributes(container.record))
        return json_response({"Titles": table.titles, "Processes": table.rows})


def _stop_options(request: Request) -> tuple[int | None, int | None]:
    timeout = request.query.get_int("t") if request.query.get("t") else None
    signum = stop_signal(request.query.get("signal")) if request.query.get("signal") else None
    return timeout, signum


async def _ready(code: int) -> int:
    return code


async def _exit_code(waiting: Awaitable[int]) -> AsyncIterator[bytes]:
    code = await waiting
    yield json.dumps({"StatusCode": code}).encode() + b"\n"


async def _log_chunks(
    records: AsyncIterator[LogRecord], wanted: set[str], *, timestamps: bool, framed: bool
) -> AsyncIterator[bytes]:
    async for record in records:
        if record.stream not in wanted:
            continue
        data = record.data
        if timestamps:
            data = _padded_time(record.time_ns).encode() + b" " + data
        yield frame(STDERR if record.stream == "stderr" else STDOUT, data) if framed else data


def _padded_time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def _fill_for_old_clients(host: HostConfig, version: tuple[int, int]) -> None:
    """Write in what was the default when a client of an older version of the API was made."""
    if version < (1, 40) and not host.ipc_mode:
        host.ipc_mode = "shareable"
    if version < (1, 41) and not host.cgroupns_mode and cgroups.detect().version != "v2":
        host.cgroupns_mode = "host"
