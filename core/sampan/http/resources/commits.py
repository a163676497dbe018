"""`/commit` and `/containers/{id}/export`: containers as images and as tars."""

from __future__ import annotations

from sampan.api.errors import InvalidArgument
from sampan.api.types import ContainerConfig
from sampan.engine.commit import CommitOptions
from sampan.engine.engine import Engine
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.response import AnyResponse, Response, StreamResponse, json_response
from sampan.http.router import Router


class CommitRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("POST", "/commit", self.commit)
        router.add("GET", "/containers/{id}/export", self.export)

    async def commit(self, request: Request) -> Response:
        """Make an image of a container."""
        query = request.query
        if not query.get("container"):
            raise InvalidArgument('invalid name or ID supplied: ""')
        container = self._engine.containers.get(query.get("container"))
        repo, tag = query.get("repo"), query.get("tag")
        options = CommitOptions(
            reference=f"{repo}:{tag}" if repo and tag else repo,
            comment=query.get("comment"),
            author=query.get("author"),
            config=await _config(request),
            changes=query.get_list("changes"),
            pause=query.get_bool("pause", default=True),
        )
        image = await self._engine.commits.commit(container, options)
        return json_response({"Id": image.id}, 201)

    async def export(self, request: Request) -> AnyResponse:
        """Stream a container's root."""
        container = self._engine.containers.get(request.params["id"])
        return StreamResponse(200, "application/octet-stream", await self._engine.exports.export(container))


async def _config(request: Request) -> ContainerConfig | None:
    """Give the body's configuration; no body and `null` are none."""
    data = await request.json()
    return None if data is None else body.validated(data, ContainerConfig)
