"""`/_ping`, `/version`, `/info`, `/events`, and Sampan's own list of plugins."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sampan import __version__, plugins
from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.hookspecs import Event
from sampan.engine.engine import Engine
from sampan.engine.host_limits import host_limits, missing
from sampan.engine.init import find_init
from sampan.engine.records import Status
from sampan.engine.security_options import apparmor_enabled
from sampan.engine.times import from_timestamp
from sampan.http.request import Request
from sampan.http.response import AnyResponse, Response, StreamResponse, json_response
from sampan.http.router import MAX_VERSION, MIN_VERSION, Router
from sampan.linux import cgroups


class SystemRoutes:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/_ping", self.ping)
        router.add("HEAD", "/_ping", self.ping)
        router.add("GET", "/version", self.version)
        router.add("GET", "/info", self.info)
        router.add("GET", "/events", self.events)
        router.add("GET", "/sampan/plugins", self.plugins)

    async def ping(self, request: Request) -> Response:
        """Say that we are here."""
        headers = {
            "Builder-Version": "1", "Docker-Experimental": "true",
            "Swarm": "inactive", "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache", "Content-Type": "text/plain; charset=utf-8",
        }  # fmt: skip
        return Response(200, b"OK", headers)

    async def version(self, request: Request) -> Response:
        """Tell versions."""
        kernel = os.uname()
        details = {
            "ApiVersion": f"{MAX_VERSION[0]}.{MAX_VERSION[1]}",
            "Arch": _architecture(),
            "Experimental": "true",  # without it the docker client has no 'checkpoint'; nothing else depends on it
            "KernelVersion": kernel.release,
            "MinAPIVersion": f"{MIN_VERSION[0]}.{MIN_VERSION[1]}",
            "Os": "linux",
            "Python": platform.python_version(),
        }
        return json_response(
            {
                "Platform": {"Name": "Sampan"},
                "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
                "Version": __version__,
                "ApiVersion": details["ApiVersion"],
                "MinAPIVersion": details["MinAPIVersion"],
                "GitCommit": "",
                "GoVersion": "",
                "Os": "linux",
                "Arch": details["Arch"],
                "KernelVersion": kernel.release,
                "BuildTime": "",
            }
        )

    async def info(self, request: Request) -> Response:
        """Tell about engine and host."""
        obstacles = await self._engine.networks.drivers.obstacles()
        return json_response(await asyncio.to_thread(self._info, obstacles))

    def _info(self, obstacles: list[str]) -> dict[str, Any]:
        engine = self._engine
        containers = engine.containers.all()
        kernel = os.uname()
        states = [container.status for container in containers]
        names = engine.registry.names
        layout = cgroups.detect()
        limits = host_limits()
        return {
            "ID": engine.metadata.engine_id,
            "Containers": len(containers),
            "ContainersRunning": states.count(Status.RUNNING),
            "ContainersPaused": states.count(Status.PAUSED),
            "ContainersStopped": sum(not container.is_running for container in containers),
            "Images": len(engine.images.all()),
            "Driver": engine.storage.default,
            "DriverStatus": [
                ["Root", str(engine.settings.root / "storage" / engine.storage.default)],
                ["In use", ", ".join(sorted(storage.name for storage in engine.storage.opened()))],
                ["Installed", ", ".join(names("storage"))],
            ],
            "Plugins": {
                "Volume": names("volume"), "Network": names("network"), "Authorization": None, "Log": names("log"),
                "Storage": names("storage"), "Runtime": names("runtime"),
            },
            "MemoryLimit": limits.memory, "SwapLimit": limits.swap, "CpuCfsPeriod": limits.cpu_quota, "CpuCfsQuota": limits.cpu_quota,
            "CPUShares": limits.cpu_shares, "CPUSet": limits.cpuset, "PidsLimit": limits.pids, "OomKillDisable": limits.oom_kill_disable,
            "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward") == "1",
            "BridgeNfIptables": False, "BridgeNfIp6tables": False, "Debug": engine.settings.log_level == "debug",
            "NFd": len(os.listdir("/proc/self/fd")), "OomScoreAdj": 0, "NGoroutines": 0, "NEventsListener": 0,
            "SystemTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "LoggingDriver": engine.settings.log_driver,
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if layout.version == "v2" else "1",
            "KernelVersion": kernel.release,
            "OperatingSystem": _pretty_name(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": kernel.machine,
            "NCPU": len(os.sched_getaffinity(0)),
            "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {"InsecureRegistryCIDRs": ["127.0.0.0/8"], "IndexConfigs": {}, "Mirrors": None},
            "GenericResources": None,
            "DockerRootDir": str(engine.settings.root),
            "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
            "Name": kernel.nodename,
            "Labels": [],
            "ExperimentalBuild": True,
            "ServerVersion": __version__,
            "Runtimes": {name: {"path": name} for name in engine.runtimes.names()},
            "DefaultRuntime": engine.settings.runtime,
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": ""},
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": _init_name(engine.settings.init_path),
            "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
            "SecurityOptions": _security_options(engine, pure_v2=layout.version == "v2"),
            "Warnings": [
                *(f"storage driver {name}: {reason}" for name, reason in engine.storage.unavailable.items()),
                *(f"network driver {name}: {reason}" for name, reason in engine.networks.drivers.unavailable.items()),
                *obstacles,
                *(f"WARNING: No {name} support" for name in missing(limits)),
                *(f"plugin {broken.plugin}: {broken.reason}" for broken in engine.registry.broken),
            ],
        }  # fmt: skip

    async def events(self, request: Request) -> AnyResponse:
        """Give events as they happen."""
        query = request.query
        try:
            since = from_timestamp(query.get("since")) if query.get("since") else None
            until = from_timestamp(query.get("until")) if query.get("until") else None
        except ValueError as error:
            raise InvalidArgument(f"invalid value for since or until: {error}") from error
        filters = query.filters()
        for name in filters:
            if name not in _EVENT_FILTERS:
                raise InvalidArgument(f"invalid filter '{name}'")
        return StreamResponse(200, "application/json", _event_lines(self._engine.events.listen(since, until), filters))

    async def plugins(self, request: Request) -> Response:
        """List every driver, whether it works here, and why not."""
        return json_response(await asyncio.to_thread(self._plugins))

    def _plugins(self) -> list[dict[str, Any]]:
        engine = self._engine
        defaults = {
            "storage": engine.storage.default, "network": "bridge", "runtime": engine.settings.runtime,
            "log": engine.settings.log_driver, "volume": "local", "ipam": "default",
        }  # fmt: skip
        lines = []
        for item in engine.registry.registrations():
            found = plugins.probe(item.driver, engine.settings.root / item.kind / item.driver.name)
            lines.append(
                {
                    "Kind": item.kind,
                    "Name": item.driver.name,
                    "Distribution": item.distribution,
                    "Version": item.version,
                    "State": "ready" if found.supported else "unsupported",
                    "Reason": found.reason,
                    "Capabilities": sorted(found.capabilities),
                    "Default": defaults[item.kind] == item.driver.name,
                }
            )
        for broken in engine.registry.broken:
            lines.append(
                {
                    "Kind": "",
                    "Name": broken.plugin,
                    "Distribution": broken.distribution,
                    "Version": broken.version,
                    "State": "broken",
                    "Reason": broken.reason,
                    "Capabilities": [],
                    "Default": False,
                }  # fmt: skip
            )
        return lines


def _init_name(configured: Path | None) -> str:
    """Give the name of the init that `--init` would run; "" if there is none."""
    try:
        return find_init(configured).name
    except Unsupported:
        return ""


def _security_options(engine: Engine, *, pure_v2: bool) -> list[str]:
    """Give what confines containers by default, as Docker lists it."""
    settings = engine.settings
    found = ["name=apparmor"] if apparmor_enabled() else []
    found.append(f"name=seccomp,profile={settings.seccomp_profile or 'builtin'}")
    for name, holds in (
        ("userns", engine.defaults.idmaps is not None), ("cgroupns", pure_v2), ("no-new-privileges", settings.no_new_privileges),
    ):  # fmt: skip
        if holds:
            found.append(f"name={name}")
    return found


_EVENT_FILTERS = ("type", "event", "container", "image", "network", "volume", "label", "daemon", "scope")


async def _event_lines(events: AsyncIterator[Event], filters: dict[str, list[str]]) -> AsyncIterator[bytes]:
    async for event in events:
        if _event_fits(event, filters):
            yield json.dumps(_event_view(event)).encode() + b"\n"


def _event_fits(event: Event, filters: dict[str, list[str]]) -> bool:
    for name, values in filters.items():
        if name == "type":
            fits = event.type in values
        elif name == "event":
            fits = any(event.action == value or event.action.startswith(f"{value}:") for value in values)
        elif name == "label":
            pairs = [value.partition("=") for value in values]
            fits = all(key in event.attributes and (not eq or event.attributes[key] == text) for key, eq, text in pairs)
        elif name in ("container", "image", "network", "volume"):
            names = (event.attributes.get("name"), event.attributes.get("image") if name == "image" else None)
            fits = (event.type == name or name == "image") and any(
                event.actor_id.startswith(v) or v in names for v in values
            )
        else:
            fits = "local" in values if name == "scope" else False
        if not fits:
            return False
    return True


def _event_view(event: Event) -> dict[str, Any]:
    view: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // 10**9,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        view |= {"status": event.action, "id": event.actor_id}
        if event.type == "container":
            view["from"] = event.attributes.get("image", "")
    return view


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def _pretty_name() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"
