from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sampan.api.errors import Conflict, InvalidArgument
from sampan.api.hookspecs import RouteRegistrar
from sampan.http.request import Body, Peer, Query, Request
from sampan.http.response import Response, empty
from sampan.http.router import Router


def make(method: str, path: str) -> Request:
    async def nothing() -> bytes:
        return b""

    return Request(method, path, query=Query(), headers={}, body=Body(nothing, 0), peer=Peer("test"))


def ask(router: Router, path: str, method: str = "GET") -> Response:
    response = asyncio.run(router(make(method, path)))
    assert isinstance(response, Response)
    return response


def named(name: str) -> Any:
    async def handler(request: Request) -> Response:
        return Response(200, json.dumps([name, request.params, list(request.version), request.path]).encode())

    return handler


def routed(router: Router, path: str, method: str = "GET") -> list[Any]:
    result: list[Any] = json.loads(ask(router, path, method).body)
    return result


@pytest.fixture
def router() -> Router:
    router = Router()
    for method, template in [
        ("GET", "/images/{name:path}/json"),
        ("GET", "/images/json"),
        ("DELETE", "/images/{name:path}"),
        ("POST", "/images/{name:path}/push"),
        ("GET", "/containers/{name:path}/json"),
        ("GET", "/containers/json"),
        ("GET", "/networks/{id}"),
        ("GET", "/networks/special"),
        ("GET", "/v2.0/{id}"),
    ]:
        router.add(method, template, named(template))
    return router


@pytest.mark.parametrize(
    ("method", "path", "template", "params"),
    [
        ("GET", "/images/json", "/images/json", {}),
        ("GET", "/images/json/json", "/images/{name:path}/json", {"name": "json"}),
        ("GET", "/images/reg:5000/a/b:1/json", "/images/{name:path}/json", {"name": "reg:5000/a/b:1"}),
        ("GET", "/images/reg%3A5000%2Fa%2Fb/json", "/images/{name:path}/json", {"name": "reg:5000/a/b"}),
        ("DELETE", "/images/a/push", "/images/{name:path}", {"name": "a/push"}),
        ("POST", "/images/a/push/push", "/images/{name:path}/push", {"name": "a/push"}),
        ("GET", "/containers//web/json", "/containers/{name:path}/json", {"name": "/web"}),
        ("GET", "/containers/%2Fweb/json", "/containers/{name:path}/json", {"name": "/web"}),
        ("GET", "/networks/special", "/networks/special", {}),
        ("GET", "/networks/a%2Fb", "/networks/{id}", {"id": "a/b"}),
        ("GET", "/networks/a%0Ab", "/networks/{id}", {"id": "a\nb"}),
    ],
)
def test_paths(router: Router, method: str, path: str, template: str, params: dict[str, str]) -> None:
    assert routed(router, path, method)[:2] == [template, params]
    assert routed(router, "/v1.30" + path, method) == [template, params, [1, 30], path]


@pytest.mark.parametrize(
    "path", ["/", "", "/images", "/images/", "/networks/a/b", "/networks/a/", "/images//json", "*"]
)
def test_other_paths_and_methods_are_not_found(router: Router, path: str) -> None:
    for method in ("GET", "PATCH"):
        response = ask(router, path, method)
        assert (response.status, json.loads(response.body)) == (404, {"message": "page not found"})


def test_method_not_allowed_is_not_found(router: Router) -> None:
    assert ask(router, "/images/json", "PUT").status == 404


def test_options_is_always_ok(router: Router) -> None:
    assert ask(router, "/whatever", "OPTIONS").status == 200


def test_path_that_is_not_utf8_is_refused(router: Router) -> None:
    with pytest.raises(InvalidArgument):
        ask(router, "/networks/%ff")


def test_versions(router: Router) -> None:
    assert routed(router, "/images/json")[2] == [1, 51]
    for old in ("1.12", "1.23", "1", "0.9", "1.", "."):
        with pytest.raises(InvalidArgument) as caught:
            ask(router, f"/v{old}/images/json")
        assert str(caught.value) == (
            f"client version {old} is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version"
        )
    for new in ("1.52", "1.99", "2.0", "1.511"):
        with pytest.raises(InvalidArgument) as caught:
            ask(router, f"/v{new}/images/json")
        assert str(caught.value) == f"client version {new} is too new. Maximum supported API version is 1.51"
    assert ask(router, "/v1.99/nowhere").status == 404


def test_routes_live_within_their_versions() -> None:
    router = Router()
    router.add("GET", "/x", named("old"), until=(1, 40))
    router.add("GET", "/x", named("new"), since=(1, 41))
    router.add("GET", "/y", named("y"), since=(1, 44))
    assert routed(router, "/v1.40/x")[0] == "old"
    assert routed(router, "/v1.41/x")[0] == "new"
    assert ask(router, "/v1.43/y").status == 404
    assert routed(router, "/v1.44/y")[0] == "y"


def test_taken_and_malformed_routes_are_refused(router: Router) -> None:
    with pytest.raises(Conflict, match="/images/json"):
        router.add("get", "/images/json", named("again"))
    with pytest.raises(Conflict):
        router.add("GET", "/networks/{name}", named("the same but for the name of the parameter"))
    for template in ("x", "/a{b}", "/{a", "/{a:int}"):
        with pytest.raises(InvalidArgument):
            router.add("GET", template, named("x"))


def test_a_plugin_needs_nothing_of_ours() -> None:
    router = Router()
    registrar: RouteRegistrar = router
    registrar.add("GET", "/plain/{name}", lambda request: {"name": request.params["name"]})
    registrar.add("GET", "/nothing", lambda request: None)

    async def coroutine(request: Any) -> Any:
        return [1, 2]

    registrar.add("GET", "/list", coroutine)
    assert json.loads(ask(router, "/plain/tank").body) == {"name": "tank"}
    assert ask(router, "/nothing") == empty(204)
    assert json.loads(ask(router, "/list").body) == [1, 2]
