"""`/containers/{id}/checkpoints`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sampan.api.types import CheckpointCreateRequest
from sampan.engine.engine import Engine
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.response import Response, empty, json_response
from sampan.http.router import Router


class CheckpointRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/containers/{id}/checkpoints", self.index)
        router.add("POST", "/containers/{id}/checkpoints", self.create)
        router.add("DELETE", "/containers/{id}/checkpoints/{checkpoint}", self.remove)

    async def index(self, request: Request) -> Response:
        """Give a container's checkpoints."""
        container = self._engine.containers.get(request.params["id"])
        names = await asyncio.to_thread(self._engine.checkpoints.names, container, directory_of(request.query.get("dir")))
        return json_response([{"Name": name} for name in names])

    async def create(self, request: Request) -> Response:
        """Make a checkpoint."""
        container = self._engine.containers.get(request.params["id"])
        asked = await body.model(request, CheckpointCreateRequest)
        await container.settle()
        await self._engine.checkpoints.create(
            container, asked.checkpoint_id, directory_of(asked.checkpoint_dir), leave_running=not asked.exit
        )
        return empty(201)

    async def remove(self, request: Request) -> Response:
        """Remove a checkpoint."""
        container = self._engine.containers.get(request.params["id"])
        where = directory_of(request.query.get("dir"))
        await self._engine.checkpoints.remove(container, request.params["checkpoint"], where)
        return empty()


def directory_of(text: str) -> Path | None:
    """Take a client's checkpoint directory; nothing stands for the container's own."""
    return Path(text) if text else None
