"""From method and path to a handler, by Docker's rules for versions and names."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from sampan.api.errors import Conflict, InvalidArgument
from sampan.http.request import Request
from sampan.http.response import AnyResponse, Response, StreamResponse, Upgrade, empty, json_response

MIN_VERSION = (1, 24)
MAX_VERSION = (1, 51)

Handler = Callable[[Request], Any]
"""Usually `async def handler(request) -> Response | StreamResponse | Upgrade`.

See `Router.add` for what else may be.
"""

_READING = ("GET", "HEAD")
_VERSION_PREFIX = re.compile(r"/v([0-9.]+)(/.*)")
_SEGMENT = re.compile(r"\{([a-z_]+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class _Route:
    shape: str
    pattern: re.Pattern[str]
    rank: tuple[int, ...]
    handler: Handler
    since: tuple[int, int]
    until: tuple[int, int]

    def overlaps(self, other: _Route) -> bool:
        return self.shape == other.shape and self.since <= other.until and other.since <= self.until


class Router:
    """The table of routes, and the application that the server calls: `await router(request)`."""

    def __init__(self) -> None:
        self._routes: dict[str, list[_Route]] = {}
        self._running: set[asyncio.Task[AnyResponse]] = set()

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        since: tuple[int, int] = MIN_VERSION,
        until: tuple[int, int] | None = None,
    ) -> None:
        """Add a route for the API versions `since` to `until`, both included; `Conflict` if it is taken.

        `path` is a template without version: `{id}` is one segment, `{name:path}` one or more (an image's
        name has slashes). A literal beats a segment, which beats a path. Parameters are percent-decoded
        after matching. A plain function as a handler runs in a worker thread. What a handler gives that is
        not a response is sent as JSON, None as 204: so a plugin needs nothing from this package.
        """
        route = _compile(path, handler, since, until or MAX_VERSION)
        routes = self._routes.setdefault(method.upper(), [])
        if any(route.overlaps(other) for other in routes):
            raise Conflict(
                f"add route {method.upper()} {path}: it is taken", remedy="use a path of the plugin's own"
            )
        routes.append(route)
        routes.sort(key=lambda known: known.rank)

    async def __call__(self, request: Request) -> AnyResponse:
        """Find the handler and run it.

        Raises what the handler raises, and `InvalidArgument` for a version out of range.
        """
        if request.method == "OPTIONS":
            return empty(200)
        label = ""
        if prefix := _VERSION_PREFIX.fullmatch(request.path):
            label, request.path = prefix[1], prefix[2]
            request.version = _parse_version(label)
        # A version out of range still has to hit a route that some version has: a wrong path stays a 404.
        version = min(max(request.version, MIN_VERSION), MAX_VERSION)
        for route in self._routes.get(request.method, ()):
            if route.since <= version <= route.until and (match := route.pattern.fullmatch(request.path)):
                _check_version(label, request.version)
                request.params = _decode(match.groupdict())
                if request.method in _READING:
                    return await _call(route.handler, request)
                return await self._to_the_end(route.handler, request)
        return json_response({"message": "page not found"}, 404)

    async def _to_the_end(self, handler: Handler, request: Request) -> AnyResponse:
        """Run a handler that changes something: a client that goes away leaves it nothing half done."""
        task = asyncio.create_task(_call(handler, request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def _compile(template: str, handler: Handler, since: tuple[int, int], until: tuple[int, int]) -> _Route:
    if not template.startswith("/"):
        raise InvalidArgument(f"add route {template}: a path begins with a slash")
    pattern, rank = "", []
    for segment in template[1:].split("/"):
        if (parameter := _SEGMENT.fullmatch(segment)) is None:
            if "{" in segment or "}" in segment:
                raise InvalidArgument(
                    f"add route {template}: {segment} is neither literal, {{name}} nor {{name:path}}"
                )
            pattern += "/" + re.escape(segment)
            rank.append(0)
        else:
            name, greedy = parameter.groups()
            pattern += f"/(?P<{name}>.+)" if greedy else f"/(?P<{name}>[^/]+)"
            rank.append(2 if greedy else 1)
    shape = _SEGMENT.sub(r"{\2}", template)
    return _Route(shape, re.compile(pattern, re.DOTALL), (*rank, 3), handler, since, until)


def _parse_version(label: str) -> tuple[int, int]:
    numbers = [int(part) if part and len(part) < 10 else 0 for part in label.split(".")]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def _check_version(label: str, version: tuple[int, int]) -> None:
    if version < MIN_VERSION:
        raise InvalidArgument(
            f"client version {label} is too old. "
            f"Minimum supported API version is {MIN_VERSION[0]}.{MIN_VERSION[1]}, "
            "please upgrade your client to a newer version"
        )
    if version > MAX_VERSION:
        raise InvalidArgument(
            f"client version {label} is too new. "
            f"Maximum supported API version is {MAX_VERSION[0]}.{MAX_VERSION[1]}"
        )


def _decode(params: dict[str, str]) -> dict[str, str]:
    try:
        return {name: unquote(value, errors="strict") for name, value in params.items()}
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"decode request path: {error}") from error


_plugin_threads = ThreadPoolExecutor(16, thread_name_prefix="plugin-routes")
"""Handlers that block have threads of their own: those that hang hold up nothing of the engine."""


def _contained(handler: Callable[[Request], Any], request: Request) -> Any:
    try:
        return handler(request)
    except SystemExit as error:
        raise RuntimeError(f"the handler wanted to end the daemon: {error!r}") from error


async def _call(handler: Handler, request: Request) -> AnyResponse:
    if inspect.iscoroutinefunction(handler):
        result = await handler(request)
    else:
        result = await asyncio.get_running_loop().run_in_executor(_plugin_threads, _contained, handler, request)
        if inspect.isawaitable(result):
            result = await result
    if isinstance(result, Response | StreamResponse | Upgrade):
        return result
    return empty(204) if result is None else json_response(result)
