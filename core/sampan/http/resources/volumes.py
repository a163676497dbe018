"""`/volumes`: create, list, inspect, remove, prune."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sampan.api.errors import InvalidArgument, NotFound
from sampan.api.types import VolumeCreateRequest
from sampan.engine.engine import Engine
from sampan.engine.records import VolumeRecord
from sampan.engine.times import rfc3339
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.resources.container_filters import matches_label
from sampan.http.response import Response, empty, json_response
from sampan.http.router import Router


class VolumeRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/volumes", self.index)
        router.add("POST", "/volumes/create", self.create)
        router.add("POST", "/volumes/prune", self.prune)
        router.add("GET", "/volumes/{name}", self.inspect)
        router.add("DELETE", "/volumes/{name}", self.remove)

    async def index(self, request: Request) -> Response:
        """Give the volumes."""
        filters = request.query.filters()
        records = [record for record in self._engine.volumes.all() if self._fits(record, filters)]
        return json_response({"Volumes": [await view(self._engine, record) for record in records], "Warnings": None})

    async def create(self, request: Request) -> Response:
        """Make a volume."""
        asked = await body.model(request, VolumeCreateRequest)
        record = await self._engine.volumes.create(asked.name, asked.driver, asked.driver_opts, asked.labels)
        return json_response(await view(self._engine, record), 201)

    async def inspect(self, request: Request) -> Response:
        """Tell about a volume."""
        return json_response(await view(self._engine, self._engine.volumes.get(request.params["name"])))

    async def remove(self, request: Request) -> Response:
        """Delete a volume."""
        await self._engine.volumes.remove(request.params["name"], force=request.query.get_bool("force"))
        return empty()

    async def prune(self, request: Request) -> Response:
        """Delete the volumes that no container mounts: anonymous ones, or all."""
        filters = request.query.filters()
        everything = any(value.lower() in ("1", "true") for value in filters.get("all", []))
        deleted = []
        for record in self._engine.volumes.all():
            labelled = all(matches_label(record.labels, value) for value in filters.get("label", []))
            if (record.anonymous or everything) and labelled and not self._engine.containers.of_volume(record.name):
                await self._engine.volumes.remove(record.name)
                deleted.append(record.name)
        return json_response({"VolumesDeleted": deleted, "SpaceReclaimed": 0})

    def _fits(self, record: VolumeRecord, filters: dict[str, list[str]]) -> bool:
        for name, values in filters.items():
            if name == "name":
                fits = any(value in record.name for value in values)
            elif name == "driver":
                fits = record.driver in values
            elif name == "label":
                fits = all(matches_label(record.labels, value) for value in values)
            elif name == "dangling":
                unused = not self._engine.containers.of_volume(record.name)
                fits = unused == (values[0].lower() in ("1", "true"))
            else:
                raise InvalidArgument(f"invalid filter '{name}'")
            if not fits:
                return False
        return True


async def view(engine: Engine, record: VolumeRecord) -> dict[str, Any]:
    """Give what a client sees of a volume; one whose directory is lost is still listed."""
    labels = {**record.labels, **({"com.docker.volume.anonymous": ""} if record.anonymous else {})}
    mountpoint = None
    with suppress(NotFound):
        mountpoint = await engine.volumes.mountpoint(record)
    return {
        "CreatedAt": rfc3339(record.created),
        "Driver": record.driver,
        "Labels": labels or None,
        "Mountpoint": str(mountpoint or ""),
        "Name": record.name,
        "Options": record.options or None,
        "Scope": "local",
    }
