"""`/containers/{id}/exec` and `/exec`: more processes in a running container."""

from __future__ import annotations

from sampan.api.errors import Conflict
from sampan.api.types import ExecCreateRequest, ExecStartRequest
from sampan.engine.engine import Engine
from sampan.engine.streams import StdioPair
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.resources.attach import start_exec
from sampan.http.response import AnyResponse, Response, empty, json_response
from sampan.http.router import Router


class ExecRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("POST", "/containers/{id}/exec", self.create)
        router.add("POST", "/exec/{id}/start", self.start)
        router.add("POST", "/exec/{id}/resize", self.resize)
        router.add("GET", "/exec/{id}/json", self.inspect)

    async def create(self, request: Request) -> Response:
        """Note what is to be run."""
        container = self._engine.containers.get(request.params["id"])
        asked = await body.model(request, ExecCreateRequest)
        await container.settle()
        return json_response({"Id": self._engine.execs.create(container, asked).id}, 201)

    async def start(self, request: Request) -> AnyResponse:
        """Run it, detached or with the connection as its stdio."""
        item = self._engine.execs.get(request.params["id"])
        asked = await body.model(request, ExecStartRequest)
        if item.started:
            raise Conflict(f"Error: Exec command {item.id} has already run")
        if not item.container.is_running:
            raise Conflict(f"container {item.container.id} is not running")
        if not asked.detach:
            return start_exec(self._engine, item, asked, request)
        pair = StdioPair.open(stdin=False, stdout=False, stderr=False)
        await self._engine.execs.start(item, pair, tty=item.request.tty, console_size=asked.console_size)
        return empty(200)

    async def resize(self, request: Request) -> Response:
        """Set the terminal's size."""
        item = self._engine.execs.get(request.params["id"])
        await self._engine.execs.resize(item, request.query.get_int("h"), request.query.get_int("w"))
        return empty(200)

    async def inspect(self, request: Request) -> Response:
        """Tell about an exec."""
        item = self._engine.execs.get(request.params["id"])
        asked = item.request
        return json_response(
            {
                "ID": item.id,
                "Running": item.running,
                "ExitCode": item.exit_code,
                "ProcessConfig": {
                    "tty": asked.tty,
                    "entrypoint": asked.cmd[0],
                    "arguments": asked.cmd[1:],
                    "privileged": asked.privileged,
                    "user": asked.user,
                },
                "OpenStdin": asked.attach_stdin,
                "OpenStderr": asked.attach_stderr,
                "OpenStdout": asked.attach_stdout,
                "CanRemove": item.exit_code is not None,
                "ContainerID": item.container.id,
                "DetachKeys": asked.detach_keys,
                "Pid": item.pid,
            }
        )
