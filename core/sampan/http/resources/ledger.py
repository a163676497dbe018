"""What takes the space: `/system/df`, as Docker counts it, and `/sampan/storage/df`, the byte ledger."""

from __future__ import annotations

from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.engine.engine import Engine
from sampan.engine.ledger import Ledger, Line
from sampan.http.request import Request
from sampan.http.resources.container_views import size_view
from sampan.http.resources.container_views import summary as container_summary
from sampan.http.resources.images import summary as image_summary
from sampan.http.resources.images import virtual_size
from sampan.http.resources.volumes import view as volume_view
from sampan.http.response import Response, json_response
from sampan.http.router import Router

TYPES = frozenset({"container", "image", "volume", "build-cache"})


class LedgerRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/system/df", self.disk_usage)
        router.add("GET", "/sampan/storage/df", self.ledger)

    async def disk_usage(self, request: Request) -> Response:
        """Give what Docker's `system df` shows; `type` (from API 1.42 on) asks for parts of it."""
        asked = set(request.query.get_list("type")) if request.version >= (1, 42) else set()
        for name in sorted(asked - TYPES):
            raise InvalidArgument(f"unknown object type: {name}")
        wanted = asked or TYPES
        answer: dict[str, Any] = {
            "LayersSize": 0,
            "Images": None,
            "Containers": None,
            "Volumes": None,
            "BuildCache": None,
        }
        if "image" in wanted:
            answer |= self._images(request)
        if "container" in wanted:
            answer["Containers"] = await self._containers()
        if "volume" in wanted:
            answer["Volumes"] = await self._volumes()
        if "build-cache" in wanted:
            answer["BuildCache"] = []
        if request.version < (1, 42):
            answer["BuilderSize"] = 0
        return json_response(answer)

    def _images(self, request: Request) -> dict[str, Any]:
        sizes = self._engine.usage.images()
        lines = [
            image_summary(self._engine, image, tags)
            | virtual_size(request, image)
            | {"SharedSize": sizes.shared[image.id]}
            for image, tags in self._engine.images.all()
        ]
        return {"LayersSize": sizes.layers, "Images": lines}

    async def _containers(self) -> list[dict[str, Any]]:
        containers = self._engine.containers.all()
        lines = [container_summary(self._engine, container) for container in containers]
        sizes = await self._engine.usage.containers(containers)
        return [line | size_view(size) for line, size in zip(lines, sizes, strict=True)]

    async def _volumes(self) -> list[dict[str, Any]]:
        records = self._engine.volumes.all()
        sizes = await self._engine.usage.volumes(records)
        return [
            await volume_view(self._engine, record)
            | {"UsageData": {"Size": size, "RefCount": len(self._engine.containers.of_volume(record.name))}}
            for record, size in zip(records, sizes, strict=True)
        ]

    async def ledger(self, request: Request) -> Response:
        """Give the byte ledger: every object under the root with what it takes."""
        return json_response(_ledger_view(await self._engine.ledger.measure()))


def _ledger_view(ledger: Ledger) -> dict[str, Any]:
    return {
        "Root": str(ledger.root),
        "Bytes": ledger.bytes,
        "Inodes": ledger.inodes,
        "Objects": [_line_view(line) for line in ledger.lines],
    }


def _line_view(line: Line) -> dict[str, Any]:
    return {
        "Kind": line.kind, "Driver": line.driver, "Name": line.name, "Owners": list(line.owners), "Bytes": line.bytes,
        "Inodes": line.inodes,
    }  # fmt: skip
