"""Sampan's own storage routes: drivers, their snapshots and what is wrong there; unpack an image, move a container."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from sampan.api.errors import InvalidArgument, SampanError
from sampan.api.storage import Damage, SnapshotInfo
from sampan.engine.engine import Engine
from sampan.engine.records import ImageRecord
from sampan.engine.times import rfc3339
from sampan.http.request import Request
from sampan.http.response import Response, StreamResponse, json_response
from sampan.http.router import Router
from sampan.store import snapshots as snapshot_ledger
from sampan.store.snapshots import SnapshotOwner


class StorageRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/sampan/storage", self.index)
        router.add("GET", "/sampan/storage/{driver}/snapshots", self.snapshots)
        router.add("GET", "/sampan/storage/{driver}/check", self.check)
        router.add("POST", "/sampan/containers/{id}/migrate", self.migrate)
        router.add("POST", "/sampan/images/{name:path}/unpack", self.unpack)

    async def index(self, request: Request) -> Response:
        """Give the storage drivers, and what each has."""
        lines = []
        containers = self._engine.containers.all()
        for driver in await self._engine.storage.states():
            snapshots = await self._engine.storage.snapshots(driver.name) if driver.state == "open" else []
            lines.append(
                {
                    "Name": driver.name,
                    "Default": driver.name == self._engine.storage.default,
                    "State": driver.state,
                    "Reason": driver.reason,
                    "Capabilities": sorted(driver.capabilities),
                    "Snapshots": len(snapshots),
                    "Containers": sum(container.record.storage_driver == driver.name for container in containers),
                }
            )
        return json_response(lines)

    async def snapshots(self, request: Request) -> Response:
        """Give a driver's snapshots with their owners, and with `size` what each takes on disk."""
        name = request.params["driver"]
        infos = await self._engine.storage.snapshots(name)
        owners = self._engine.metadata.database.query(lambda tx: snapshot_ledger.of_driver(tx, name))
        with_size = request.query.get_bool("size")
        lines = []
        for info in infos:
            usage = await self._usage(name, info) if with_size else {}
            shown = [self._owner(owner) for owner in owners.get(info.key, [])]
            lines.append(_snapshot(info) | {"Owners": shown} | usage)
        return json_response(lines)

    async def _usage(self, name: str, info: SnapshotInfo) -> dict[str, int]:
        storage = await self._engine.storage.get(name)
        usage = await storage.call_for_long(storage.driver.usage, info.key)
        return {"Size": usage.bytes, "Inodes": usage.inodes}

    def _owner(self, owner: SnapshotOwner) -> dict[str, str]:
        names = self._engine.images.tags(owner.owner_id) if owner.owner_kind == "image" else []
        if owner.owner_kind == "container":
            names = [c.record.name for c in self._engine.containers.all() if c.id == owner.owner_id]
        return {"Kind": owner.owner_kind, "Id": owner.owner_id, "Name": names[0] if names else ""}

    async def check(self, request: Request) -> Response:
        """Tell what is wrong in a driver; nothing is changed."""
        found = await self._engine.storage.check(request.params["driver"])
        return json_response([{"Driver": finding.driver} | damage_view(finding.damage) for finding in found])

    async def migrate(self, request: Request) -> Response:
        """Move a stopped container to the storage driver `to`."""
        container = self._engine.containers.get(request.params["id"])
        name = request.query.get("to")
        if not name:
            raise InvalidArgument("migrate a container: `to` is missing", remedy="name the storage driver")
        done = await self._engine.migrations.migrate(container, name)
        return json_response(
            {"Id": container.id, "From": done.source, "To": done.target, "Bytes": done.size, "SocketsLeftOut": done.sockets}
        )

    async def unpack(self, request: Request) -> StreamResponse:
        """Have an image's layers in the storage driver `driver`; tell each when it is there."""
        image = self._engine.images.resolve(request.params["name"])
        name = request.query.get("driver") or self._engine.storage.default
        await self._engine.storage.get(name)
        return StreamResponse(200, "application/json", self._unpacking(image, name))

    async def _unpacking(self, image: ImageRecord, name: str) -> AsyncIterator[bytes]:
        try:
            async for done in self._engine.unpacked.unpack(image, name):
                status = "Already unpacked" if done.was_there else "Unpacked"
                yield _line({"id": done.layer.diff_id.removeprefix("sha256:")[:12], "status": status})
            yield _line({"status": f"Image {image.id} is unpacked in {name}"})
        except SampanError as error:
            yield _line({"errorDetail": {"message": str(error)}, "error": str(error)})


def damage_view(damage: Damage) -> dict[str, Any]:
    """Give what a client sees of a damage."""
    return {
        "Subject": damage.subject, "Problem": damage.problem, "Remedy": damage.remedy, "Repairable": damage.repairable,
    }  # fmt: skip


def _snapshot(info: SnapshotInfo) -> dict[str, Any]:
    return {
        "Key": info.key,
        "Parent": info.parent or "",
        "Kind": info.kind,
        "Created": rfc3339(int(info.created * 10**9)),
        "Labels": dict(info.labels),
    }


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item).encode() + b"\r\n"
