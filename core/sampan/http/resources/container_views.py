"""A container as the API shows it: a line of the list, and the whole of an inspect."""

from __future__ import annotations

import shlex
import time
from typing import Any

from sampan.api.errors import SampanError
from sampan.api.types import EndpointSettings
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.isolation import READONLY_PATHS, effective_paths, masked_paths
from sampan.engine.ports import shown
from sampan.engine.records import ContainerState, EndpointRecord, MountPoint, Status
from sampan.engine.resources import DEFAULT_SHM_SIZE
from sampan.engine.start import private_cgroups
from sampan.engine.times import rfc3339
from sampan.engine.usage import ContainerSizes
from sampan.http.resources.durations import human


def status_text(state: ContainerState) -> str:
    """Give the state as a sentence: `Up 3 seconds`, `Exited (0) 2 minutes ago`."""
    now = time.time_ns()
    up = human((now - state.started_at) / 1e9)
    ended = human((now - state.finished_at) / 1e9)
    match state.status:
        case Status.RUNNING:
            return f"Up {up}"
        case Status.PAUSED:
            return f"Up {up} (Paused)"
        case Status.RESTARTING:
            return f"Restarting ({state.exit_code}) {ended} ago"
        case Status.EXITED:
            return f"Exited ({state.exit_code}) {ended} ago"
        case Status.CREATED:
            return "Created"
        case Status.REMOVING:
            return "Removal In Progress"
    return "Dead"


def summary(engine: Engine, container: Container) -> dict[str, Any]:
    """Give one line of `GET /containers/json`."""
    record = container.record
    endpoint = next(iter(engine.endpoints.of(container.id)), None) if container.is_running else None
    return {
        "Id": container.id,
        "Names": [f"/{record.name}"],
        "Image": record.config.image,
        "ImageID": record.image_id,
        "Command": shlex.join(record.command)
        if any(" " in part for part in record.command)
        else " ".join(record.command),
        "Created": record.created // 10**9,
        "Ports": _port_list(engine, container, endpoint),
        "Labels": record.config.labels,
        "State": record.state.status,
        "Status": status_text(record.state),
        "HostConfig": {"NetworkMode": _network_mode(container)},
        "NetworkSettings": {"Networks": _networks(engine, container, endpoint)},
        "Mounts": [_mount(point) for point in record.mounts if point.type != "tmpfs"],
    }


def _port_list(engine: Engine, container: Container, endpoint: EndpointRecord | None) -> list[dict[str, Any]]:
    ports: list[dict[str, Any]] = []
    published = shown(endpoint.ports, ipv6=bool(engine.proxy.port)) if endpoint is not None else {}
    for port, bindings in published.items():
        number, _, protocol = port.partition("/")
        for binding in bindings:
            ports.append(
                {
                    "IP": binding["HostIp"],
                    "PrivatePort": int(number),
                    "PublicPort": int(binding["HostPort"]),
                    "Type": protocol,
                }
            )
    if container.is_running:
        for port in container.record.config.exposed_ports:
            if port not in published:
                number, _, protocol = port.partition("/")
                ports.append({"PrivatePort": int(number), "Type": protocol})
    return ports


def _network_mode(container: Container) -> str:
    mode = container.record.host.network_mode
    return "bridge" if mode in ("", "default") else mode


def _networks(engine: Engine, container: Container, endpoint: EndpointRecord | None) -> dict[str, Any]:
    mode = _network_mode(container)
    if mode.startswith("container:"):
        return {}
    try:
        record = engine.networks.resolve(mode)
    except SampanError:
        return {mode: _endpoint(container, None, "", None)}
    gateway = record.subnets[0][1] if record.subnets else None
    return {record.name: _endpoint(container, endpoint, record.id, gateway)}


def _endpoint(
    container: Container, endpoint: EndpointRecord | None, network_id: str, gateway: str | None
) -> dict[str, Any]:
    asked = next(iter(container.record.networks.values()), EndpointSettings())
    address, _, length = (endpoint.ipv4 if endpoint and endpoint.ipv4 else "").partition("/")
    address6, _, length6 = (endpoint.ipv6 if endpoint and endpoint.ipv6 else "").partition("/")
    return {
        "IPAMConfig": asked.ipam_config.wire() if asked.ipam_config else None,
        "Links": None,
        "Aliases": asked.aliases or None,
        "MacAddress": endpoint.mac if endpoint else "",
        "DriverOpts": asked.driver_opts or None,
        "GwPriority": asked.gw_priority,
        "NetworkID": network_id,
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": (gateway or "") if endpoint and address else "",
        "IPAddress": address,
        "IPPrefixLen": int(length or 0),
        "IPv6Gateway": "",
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "DNSNames": None,
    }


def _mount(point: MountPoint) -> dict[str, Any]:
    shown_mount: dict[str, Any] = {"Type": point.type}
    if point.type == "volume":
        shown_mount["Name"] = point.name
    shown_mount["Source"] = point.source
    shown_mount["Destination"] = point.destination
    if point.type == "volume":
        shown_mount["Driver"] = point.driver
    return shown_mount | {"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation}


def size_view(sizes: ContainerSizes) -> dict[str, int]:
    """Give what `size=1` adds to a container."""
    return {"SizeRw": sizes.written, "SizeRootFs": sizes.whole}


def inspect(engine: Engine, container: Container) -> dict[str, Any]:
    """Give the answer of `GET /containers/{id}/json`."""
    record, state = container.record, container.record.state
    command = record.command
    endpoint = next(iter(engine.endpoints.of(container.id)), None) if container.is_running else None
    image = engine.images.find(record.image_id)
    host = record.host.wire()
    host["NetworkMode"] = _network_mode(container)
    host["Runtime"] = record.runtime
    host["LogConfig"] = {"Type": record.log_driver, "Config": record.host.log_config.config}
    host["ShmSize"] = record.host.shm_size or DEFAULT_SHM_SIZE
    host["IpcMode"] = record.host.ipc_mode or "private"
    host["CgroupnsMode"] = "private" if private_cgroups(record) else "host"
    host["MaskedPaths"] = effective_paths(record.host.masked_paths, masked_paths(), record.host.privileged)
    host["ReadonlyPaths"] = effective_paths(record.host.readonly_paths, READONLY_PATHS, record.host.privileged)
    return {
        "Id": container.id,
        "Created": rfc3339(record.created),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": {
            "Status": state.status,
            "Running": state.is_running,
            "Paused": state.status is Status.PAUSED,
            "Restarting": state.status is Status.RESTARTING,
            "OOMKilled": state.oom_killed,
            "Dead": state.status is Status.DEAD,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": rfc3339(state.started_at),
            "FinishedAt": rfc3339(state.finished_at),
        },
        "Image": record.image_id,
        "ResolvConfPath": str(container.directories.files / "resolv.conf") if record.has_started else "",
        "HostnamePath": str(container.directories.files / "hostname") if record.has_started else "",
        "HostsPath": str(container.directories.files / "hosts") if record.has_started else "",
        "LogPath": str(container.directories.logs / f"{container.id}-json.log")
        if record.log_driver == "json-file"
        else "",
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": record.storage_driver,
        "Platform": image.os if image else "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [item.id for item in engine.execs.of(container)] or None,
        "HostConfig": host,
        "GraphDriver": {"Name": record.storage_driver, "Data": {"Snapshot": container.id}},
        "Mounts": [_mount(point) for point in record.mounts if point.type != "tmpfs"],
        "Config": record.config.wire(),
        "NetworkSettings": _network_settings(engine, container, endpoint),
    }


def _network_settings(engine: Engine, container: Container, endpoint: EndpointRecord | None) -> dict[str, Any]:
    networks = _networks(engine, container, endpoint)
    first = next(iter(networks.values()), None) or {}
    ports: dict[str, Any] = {}
    if container.is_running:
        ports = dict.fromkeys(container.record.config.exposed_ports)
        ports.update(shown(endpoint.ports, ipv6=bool(engine.proxy.port)) if endpoint is not None else {})
    return {
        "Bridge": "",
        "SandboxID": container.id if container.is_running else "",
        "SandboxKey": f"/proc/{container.record.state.pid}/ns/net" if container.is_running else "",
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{
            key: first.get(key, default)
            for key, default in (
                ("EndpointID", ""), ("Gateway", ""), ("GlobalIPv6Address", ""), ("GlobalIPv6PrefixLen", 0),
                ("IPAddress", ""), ("IPPrefixLen", 0), ("IPv6Gateway", ""), ("MacAddress", ""),
            )
        },
        "Networks": networks,
    }  # fmt: skip
