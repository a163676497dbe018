"""`/networks`: list and inspect. Making networks of one's own comes with name resolution, in a later version."""

from __future__ import annotations

from typing import Any

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.engine.engine import Engine
from sampan.engine.records import NetworkRecord
from sampan.engine.times import rfc3339
from sampan.http.request import Request
from sampan.http.resources.container_filters import matches_label
from sampan.http.response import Response, json_response
from sampan.http.router import Router


class NetworkRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/networks", self.index)
        router.add("POST", "/networks/create", self.refuse)
        router.add("POST", "/networks/{id}/connect", self.refuse)
        router.add("POST", "/networks/{id}/disconnect", self.refuse)
        router.add("POST", "/networks/prune", self.refuse)
        router.add("DELETE", "/networks/{id}", self.refuse)
        router.add("GET", "/networks/{id}", self.inspect)

    async def index(self, request: Request) -> Response:
        """Give the networks."""
        filters = request.query.filters()
        records = [record for record in self._engine.networks.all() if _fits(record, filters)]
        return json_response([self._view(record, containers=False) for record in records])

    async def inspect(self, request: Request) -> Response:
        """Tell everything about a network."""
        return json_response(self._view(self._engine.networks.resolve(request.params["id"]), containers=True))

    async def refuse(self, request: Request) -> Response:
        """Say that this is not built yet."""
        raise Unsupported(
            "change networks: user-defined networks are not built yet",
            remedy="use the networks bridge, host and none, or the default network of another driver (--network-driver)",
        )

    def _view(self, record: NetworkRecord, *, containers: bool) -> dict[str, Any]:
        inside: dict[str, Any] = {}
        if containers:
            for endpoint in self._engine.endpoints.inside(record):
                inside[endpoint.container_id] = {
                    "Name": self._engine.containers.get(endpoint.container_id).record.name,
                    "EndpointID": endpoint.id,
                    "MacAddress": endpoint.mac,
                    "IPv4Address": endpoint.ipv4 or "",
                    "IPv6Address": endpoint.ipv6 or "",
                }
        pools = [{"Subnet": prefix, **({"Gateway": gateway} if gateway else {})} for prefix, gateway in record.subnets]
        return {
            "Name": record.name,
            "Id": record.id,
            "Created": rfc3339(record.created),
            "Scope": "local",
            "Driver": record.driver,
            "EnableIPv4": True,
            "EnableIPv6": record.ipv6,
            "IPAM": {"Driver": record.ipam.driver, "Options": record.ipam.options or None, "Config": pools},
            "Internal": record.internal,
            "Attachable": record.attachable,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": inside,
            "Options": record.options,
            "Labels": record.labels,
        }


def _fits(record: NetworkRecord, filters: dict[str, list[str]]) -> bool:
    for name, values in filters.items():
        if name == "id":
            fits = any(record.id.startswith(value) for value in values)
        elif name == "name":
            fits = any(value in record.name for value in values)
        elif name == "driver":
            fits = record.driver in values
        elif name == "scope":
            fits = "local" in values
        elif name == "type":
            fits = ("builtin" in values and record.is_default) or ("custom" in values and not record.is_default)
        elif name == "label":
            fits = all(matches_label(record.labels, value) for value in values)
        elif name == "dangling":
            fits = True
        else:
            raise InvalidArgument(f"invalid filter '{name}'")
        if not fits:
            return False
    return True
