"""The hooks: the whole surface by which a plugin is known, a function each.

A plugin is a module named by an entry point in the group `sampan`. It marks functions of these names with `hookimpl`:

    from sampan.api.hookspecs import hookimpl

    @hookimpl
    def sampan_register_storage_drivers():
        from sampan_storage_zfs.driver import ZfsDriver
        return [ZfsDriver]

Registration is cheap: no optional import, no look at the host; that belongs in the driver's `probe`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from sampan.api.ipam import IpamDriver
    from sampan.api.logs import LogDriver
    from sampan.api.network import NetworkDriver
    from sampan.api.runtime import RuntimeDriver, Spec
    from sampan.api.storage import StorageDriver
    from sampan.api.volume import VolumeDriver

PROJECT = "sampan"
"""Group of entry points, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class ContainerView:
    """What a hook may know of a container."""

    id: str
    name: str
    image: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as `GET /events` tells it. `time_ns` since the epoch."""

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int


class RouteRegistrar(Protocol):
    """Takes more HTTP routes. `path` is a template (`/zfs/{name}`); the handler gets the request and gives a response."""

    def add(self, method: str, path: str, handler: Callable[[Any], Any]) -> None:
        """Add a route; `Conflict` if it is taken."""


@hookspec
def sampan_register_storage_drivers() -> Sequence[type[StorageDriver]]:
    """Give the storage driver classes of this plugin."""
    return ()


@hookspec
def sampan_register_network_drivers() -> Sequence[type[NetworkDriver]]:
    """Give the network driver classes of this plugin."""
    return ()


@hookspec
def sampan_register_runtime_drivers() -> Sequence[type[RuntimeDriver]]:
    """Give the runtime driver classes of this plugin."""
    return ()


@hookspec
def sampan_register_volume_drivers() -> Sequence[type[VolumeDriver]]:
    """Give the volume driver classes of this plugin."""
    return ()


@hookspec
def sampan_register_log_drivers() -> Sequence[type[LogDriver]]:
    """Give the log driver classes of this plugin."""
    return ()


@hookspec
def sampan_register_ipam_drivers() -> Sequence[type[IpamDriver]]:
    """Give the IPAM driver classes of this plugin."""
    return ()


@hookspec
def sampan_adjust_spec(container: ContainerView, spec: Spec) -> None:
    """Change the OCI spec in place before a start; `linux.cgroupsPath` stays. An error, or taking longer than the deadline, fails
    that start.
    """


@hookspec
def sampan_event(event: Event) -> None:
    """Hear of an event. Called off the path of any request; an error is logged."""


@hookspec
def sampan_register_commands(cli: Any) -> None:
    """Add commands to the click group `cli`. Asked only for a command that the CLI does not know itself."""


@hookspec
def sampan_register_routes(router: RouteRegistrar) -> None:
    """Add routes to the HTTP API, under a path of the plugin's own."""
