"""`/images`: list, inspect, history, import, load, tag, remove."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.content import references
from sampan.engine.bootstrap import bootstrap
from sampan.engine.engine import Engine
from sampan.engine.records import ImageRecord
from sampan.engine.times import from_rfc3339, rfc3339
from sampan.engine.usage import UNKNOWN
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.resources.container_filters import matches_label
from sampan.http.response import AnyResponse, Response, StreamResponse, empty, json_response
from sampan.http.router import Router


class ImageRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/images/json", self.index)
        router.add("POST", "/images/create", self.create)
        router.add("POST", "/images/load", self.load)
        router.add("GET", "/images/get", self.save)
        router.add("GET", "/images/{name:path}/get", self.save)
        router.add("GET", "/images/{name:path}/json", self.inspect)
        router.add("GET", "/images/{name:path}/history", self.history)
        router.add("POST", "/images/{name:path}/tag", self.tag)
        router.add("DELETE", "/images/{name:path}", self.remove)
        router.add("POST", "/sampan/images/bootstrap", self.bootstrap)

    async def index(self, request: Request) -> Response:
        """Give the images."""
        filters = request.query.filters()
        shared = self._engine.usage.images().shared if request.query.get_bool("shared-size") else {}
        lines = []
        for image, tags in self._engine.images.all():
            if _fits(image, tags, filters):
                shown = _tags_asked_for(tags, filters.get("reference", []))
                line = summary(self._engine, image, shown) | virtual_size(request, image)
                lines.append(line | {"SharedSize": shared.get(image.id, UNKNOWN)})
        return json_response(lines)

    async def inspect(self, request: Request) -> Response:
        """Tell everything about an image."""
        image = self._engine.images.resolve(request.params["name"])
        config = self._engine.images.config(image)
        return json_response(
            {
                "Id": image.id,
                "RepoTags": self._engine.images.tags(image.id),
                "RepoDigests": [],
                "Parent": "",
                "Comment": config.history[-1].comment if config.history else "",
                "Created": rfc3339(image.created),
                "DockerVersion": "",
                "Author": config.author,
                "Config": image.config.wire(),
                "Architecture": image.architecture,
                **({"Variant": config.variant} if config.variant else {}),
                "Os": image.os,
                "Size": image.size,
                **virtual_size(request, image),
                "GraphDriver": {"Name": self._engine.storage.default, "Data": None},
                "RootFS": {"Type": "layers", "Layers": image.diff_ids},
                "Metadata": {"LastTagTime": rfc3339(image.loaded)},
            }
        )

    async def history(self, request: Request) -> Response:
        """Tell how an image came about, newest step first."""
        image = self._engine.images.resolve(request.params["name"])
        config = self._engine.images.config(image)
        sizes = list(image.layer_sizes)
        lines = []
        for step in config.history:
            lines.append(
                {
                    "Id": "<missing>",
                    "Created": from_rfc3339(step.created or "") // 10**9,
                    "CreatedBy": step.created_by,
                    "Tags": None,
                    "Size": 0 if step.empty_layer or not sizes else sizes.pop(0),
                    "Comment": step.comment,
                }
            )
        lines.reverse()
        if lines:
            lines[0] |= {"Id": image.id, "Tags": self._engine.images.tags(image.id) or None}
        return json_response(lines)

    async def create(self, request: Request) -> AnyResponse:
        """Import a tar from the body (`fromSrc=-`). Pulling is not built yet."""
        query = request.query
        if query.get("fromImage"):
            name = query.get("fromImage") + (f":{query.get('tag')}" if query.get("tag") else "")
            raise Unsupported(
                f"pull {name}: pulling from a registry is not built yet",
                remedy="bring the image in with `docker load` or `docker import`, or make one with `sampan image bootstrap`",
            )
        if query.get("fromSrc") != "-":
            raise Unsupported(
                "import from a URL: only the request's own body is taken",
                remedy="fetch it first, then `docker import -`",
            )
        reference = None
        if repo := query.get("repo"):
            reference = repo + (f":{query.get('tag')}" if query.get("tag") else "")
        async with body.as_file(request.body) as file:
            image = await self._engine.images.import_tar(
                file, reference, query.get_list("changes"), query.get("message"), query.get("platform") or None
            )
        return StreamResponse(200, "application/json", _lines([{"status": image.id}]))

    async def load(self, request: Request) -> AnyResponse:
        """Take in an archive of images."""
        async with body.as_file(request.body) as file:
            loaded = await self._engine.images.load(file)
        lines = []
        for image, names in loaded:
            lines += [f"Loaded image: {name}\n" for name in names] or [f"Loaded image ID: {image.id}\n"]
        return StreamResponse(200, "application/json", _lines([{"stream": line} for line in lines]))

    async def save(self, request: Request) -> AnyResponse:
        """Give an archive of images: the one in the path, or `names`."""
        names = [request.params["name"]] if "name" in request.params else request.query.get_list("names")
        if not names:
            raise InvalidArgument("no images to save", remedy="give names")
        if request.query.get("platform"):
            raise Unsupported("save one platform of an image", remedy="leave the platform out: an image here has one")
        return StreamResponse(200, "application/x-tar", await self._engine.images.save(names))

    async def tag(self, request: Request) -> Response:
        """Give an image one more name."""
        repo, tag = request.query.get("repo"), request.query.get("tag")
        await self._engine.images.tag(request.params["name"], f"{repo}:{tag}" if tag else repo)
        return empty(201)

    async def remove(self, request: Request) -> Response:
        """Take a name away, and with the last one the image."""
        done = await self._engine.images.remove(request.params["name"], force=request.query.get_bool("force"))
        return json_response(
            [{"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted} for item in done]
        )

    async def bootstrap(self, request: Request) -> AnyResponse:
        """Make the embedded busybox image from the host's static busybox."""
        reference = request.query.get("reference") or "busybox:latest"
        image = await bootstrap(self._engine.images, reference)
        return StreamResponse(
            200,
            "application/json",
            _lines([{"status": f"{references.familiar(str(references.parse(reference)))} {image.id}"}]),
        )


def summary(engine: Engine, image: ImageRecord, tags: Sequence[str]) -> dict[str, Any]:
    """Give an image's line in a list."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(tags),
        "RepoDigests": [],
        "Created": image.created // 10**9,
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.config.labels or None,
        "Containers": len(engine.containers.of_image(image.id)),
    }


def virtual_size(request: Request, image: ImageRecord) -> dict[str, int]:
    """A field that API 1.44 removed."""
    return {"VirtualSize": image.size} if request.version < (1, 44) else {}


def _fits(image: ImageRecord, tags: Sequence[str], filters: dict[str, list[str]]) -> bool:
    for name, values in filters.items():
        if name == "dangling":
            wanted = values[0].lower() in ("1", "true")
            if wanted is bool(tags):
                return False
        elif name == "label":
            if not all(matches_label(image.config.labels, value) for value in values):
                return False
        elif name == "reference":
            if not _tags_asked_for(tags, values):
                return False
        else:
            raise InvalidArgument(f"invalid filter '{name}'")
    return True


def _tags_asked_for(tags: Sequence[str], patterns: Sequence[str]) -> Sequence[str]:
    """Give the tags that fit a `reference` filter; all when there is none. Docker shows no others."""
    return [tag for tag in tags if any(_matches_reference(tag, p) for p in patterns)] if patterns else tags


def _matches_reference(tag: str, pattern: str) -> bool:
    return fnmatchcase(tag, pattern) or fnmatchcase(tag.rpartition(":")[0], pattern)


async def _lines(items: list[dict[str, str]]) -> AsyncIterator[bytes]:
    for item in items:
        yield json.dumps(item).encode() + b"\r\n"
