"""`/networks`: create, list, inspect, connect, disconnect, remove, prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.api.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError
from sampan.api.types import IpamPool, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest
from sampan.engine.engine import Engine
from sampan.engine.records import NetworkRecord
from sampan.engine.times import before_now, rfc3339
from sampan.http.request import Request
from sampan.http.resources import body
from sampan.http.resources.container_filters import matches_label
from sampan.http.response import Response, empty, json_response
from sampan.http.router import Router

Filters = dict[str, list[str]]

_LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_FILTERS = ("label", "label!", "until")


class NetworkRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/networks", self.index)
        router.add("POST", "/networks/create", self.create)
        router.add("POST", "/networks/prune", self.prune)
        router.add("POST", "/networks/{id}/connect", self.connect)
        router.add("POST", "/networks/{id}/disconnect", self.disconnect)
        router.add("DELETE", "/networks/{id}", self.remove)
        router.add("GET", "/networks/{id}", self.inspect)
        router.add("GET", "/sampan/containers/{id}/network", self.explain)

    def _get(self, request: Request) -> NetworkRecord:
        return self._engine.networks.resolve(request.params["id"])

    async def index(self, request: Request) -> Response:
        """Give the networks."""
        filters = request.query.filters()
        _check_filters(filters, _LIST_FILTERS)
        records = [record for record in self._engine.networks.all() if self._fits(record, filters)]
        return json_response([_view(record) | {"Containers": {}} for record in records])

    async def inspect(self, request: Request) -> Response:
        """Tell everything about a network."""
        record = self._get(request)
        return json_response(_view(record) | {"Containers": self._containers(record)})

    async def create(self, request: Request) -> Response:
        """Make a network."""
        asked = await body.model(request, NetworkCreateRequest)
        record = await self._engine.networks.create(asked)
        return json_response({"Id": record.id, "Warning": ""}, 201)

    async def explain(self, request: Request) -> Response:
        """Say in words which packets reach a container, network by network."""
        container = self._engine.containers.get(request.params["id"])
        if not container.is_running:
            raise Conflict(f"explain the network of container {container.id[:12]}: it is not running", remedy="start it first")
        owner = self._engine.connections.sandbox_owner(container)
        explained = []
        for endpoint in self._engine.endpoints.of(owner.id):
            network = self._engine.networks.resolve(endpoint.network_id)
            explained.append(
                {
                    "Network": network.name,
                    "Driver": network.driver,
                    "Interface": endpoint.interface,
                    "Sentences": await self._engine.endpoints.explain(endpoint),
                }
            )
        return json_response(
            {
                "Id": container.id,
                "Name": container.record.name,
                "SandboxOf": owner.record.name,
                "Endpoints": explained,
                "Obstacles": await self._engine.networks.drivers.obstacles(),
            }
        )

    async def connect(self, request: Request) -> Response:
        """Have a container be in a network."""
        asked = await body.model(request, NetworkConnectRequest)
        container = self._engine.containers.get(asked.container)
        await self._engine.connections.connect(container, self._get(request), asked.endpoint_config)
        return empty(200)

    async def disconnect(self, request: Request) -> Response:
        """Have a container be in a network no more; of one that is gone, its name in the container's record goes."""
        asked = await body.model(request, NetworkDisconnectRequest)
        container = self._engine.containers.get(asked.container)
        name = request.params["id"]
        try:
            network = self._engine.networks.resolve(name)
        except NotFound:
            if name not in container.record.networks:
                raise
            network = None
        await self._engine.connections.disconnect(container, network, name)
        return empty(200)

    async def remove(self, request: Request) -> Response:
        """Remove a network."""
        await self._engine.networks.remove(self._get(request))
        return empty()

    async def prune(self, request: Request) -> Response:
        """Remove all networks of users' making that no running container is in."""
        filters = request.query.filters()
        _check_filters(filters, _PRUNE_FILTERS)
        deleted = []
        for record in self._engine.networks.all():
            if record.is_default or self._in_use(record) or not self._fits(record, filters):
                continue
            try:
                await self._engine.networks.remove(record)
            except (Forbidden, NotFound):
                continue  # a container joined it meanwhile, or someone else removed it
            deleted.append(record.name)
        self._engine.events.emit("network", "prune", "", {"reclaimed": "0"})
        return json_response({"NetworksDeleted": deleted or None})

    # ------------------------------------------------------------------ views

    def _in_use(self, record: NetworkRecord) -> bool:
        return bool(self._engine.endpoints.inside(record))

    def _containers(self, record: NetworkRecord) -> dict[str, Any]:
        return {
            endpoint.container_id: {
                "Name": self._name(endpoint.container_id),
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": endpoint.ipv4 or "",
                "IPv6Address": endpoint.ipv6 or "",
            }
            for endpoint in self._engine.endpoints.inside(record)
        }

    def _name(self, container_id: str) -> str:
        try:
            return self._engine.containers.get(container_id).record.name
        except SampanError:
            return ""

    def _fits(self, record: NetworkRecord, filters: Filters) -> bool:
        """Say whether a network fits: one value of each filter, but all of the labels."""
        tests: dict[str, Callable[[str], bool]] = {
            "id": lambda value: record.id.startswith(value),
            "name": lambda value: value in record.name,
            "driver": lambda value: record.driver == value,
            "scope": lambda value: value == "local",
            "type": lambda value: record.is_default == (value == "builtin"),
            "dangling": lambda value: (record.is_default or self._in_use(record)) == (value in ("0", "false")),
            "until": lambda value: record.created <= _until(value),
        }
        every: dict[str, Callable[[str], bool]] = {
            "label": lambda value: matches_label(record.labels, value),
            "label!": lambda value: not matches_label(record.labels, value),
        }
        return all(
            all(every[name](value) for value in values) if name in every else any(tests[name](value) for value in values)
            for name, values in filters.items()
        )


def _check_filters(filters: Filters, known: tuple[str, ...]) -> None:
    values_known = {"dangling": ("0", "1", "false", "true"), "type": ("builtin", "custom")}
    for name, values in filters.items():
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")
        for value in values:
            if value not in values_known.get(name, (value,)):
                raise InvalidArgument(f"invalid filter '{name}={value}'", remedy=f"one of {', '.join(values_known[name])}")
        if name in ("until", "dangling") and len(values) > 1:
            raise InvalidArgument(f"more than one {name} filter specified")
        if name == "until":
            _until(values[0])


def _until(text: str) -> int:
    try:
        return before_now(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid filter 'until={text}'", remedy="a time, or an age as 24h") from error


def _view(record: NetworkRecord) -> dict[str, Any]:
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": record.ipv4,
        "EnableIPv6": record.ipv6,
        "IPAM": {
            "Driver": record.ipam.driver,
            "Options": record.ipam.options or None,
            "Config": [_pool(pool) for pool in record.ipam.config],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Options": record.options,
        "Labels": record.labels,
    }


def _pool(pool: IpamPool) -> dict[str, Any]:
    return {key: value for key, value in pool.wire().items() if value}
