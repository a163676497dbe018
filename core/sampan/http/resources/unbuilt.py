"""What Docker's API has and this version has not: each known endpoint answers 501 and says so, rather than 'page not found'."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sampan import __version__
from sampan.api.errors import NotFound, Unsupported
from sampan.http.request import Request
from sampan.http.response import Response
from sampan.http.router import Router

ENDPOINTS: tuple[tuple[str, str, str], ...] = (
    ("HEAD", "/containers/{id}/archive", "copy files out of a container"),
    ("GET", "/containers/{id}/archive", "copy files out of a container"),
    ("PUT", "/containers/{id}/archive", "copy files into a container"),
    ("GET", "/containers/{id}/attach/ws", "attach by websocket"),
    ("POST", "/images/{name:path}/push", "push an image"),
    ("GET", "/images/search", "search images"),
    ("POST", "/images/prune", "prune images"),
    ("GET", "/distribution/{name:path}/json", "look at an image in a registry"),
    ("POST", "/auth", "log in to a registry"),
    ("POST", "/build", "build an image"),
    ("POST", "/build/prune", "prune the build cache"),
    ("POST", "/build/cancel", "cancel a build"),
    ("POST", "/session", "open a build session"),
    ("POST", "/grpc", "open a build session"),
    ("PUT", "/volumes/{name}", "change a volume"),
    ("GET", "/plugins", "list managed plugins (Sampan's own are in GET /sampan/plugins)"),
    ("GET", "/plugins/privileges", "ask for a plugin's privileges"),
    ("POST", "/plugins/pull", "install a managed plugin (Sampan's are installed with pip)"),
    ("POST", "/plugins/create", "make a managed plugin"),
    *((method, f"/plugins/{{name:path}}/{action}", f"{action} a managed plugin") for method, action in (
        ("POST", "enable"), ("POST", "disable"), ("POST", "upgrade"), ("POST", "push"), ("POST", "set"),
    )),
    ("DELETE", "/plugins/{name:path}", "remove a managed plugin"),
    ("GET", "/swarm", "inspect the swarm"),
    *(("POST", f"/swarm/{action}", f"{action} a swarm") for action in ("init", "join", "leave", "update", "unlock")),
    ("GET", "/swarm/unlockkey", "read the swarm's key"),
    *(("GET", f"/{kind}", f"list {kind}") for kind in ("nodes", "services", "tasks", "secrets", "configs")),
    *(("POST", f"/{kind}/create", f"make {kind}") for kind in ("services", "secrets", "configs")),
)  # fmt: skip


def register(router: Router) -> None:
    """Add a refusal for each."""
    for method, template, what in ENDPOINTS:
        router.add(method, template, _refusal(what))
    router.add("GET", "/plugins/{name:path}/json", _no_such_plugin)


async def _no_such_plugin(request: Request) -> Response:
    """There are no managed plugins, so none has this name; `docker inspect NAME` asks here last and then says 'no such object'."""
    raise NotFound(f'plugin "{request.params["name"]}" not found')


def _refusal(what: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise Unsupported(f"{what}: not built yet in Sampan {__version__}", remedy="see the table in its README")

    return refuse
