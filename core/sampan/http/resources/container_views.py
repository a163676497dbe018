"""A container as the API shows it: a line of the list, and the whole of an inspect."""

from __future__ import annotations

import ipaddress
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sampan.api.types import EndpointSettings
from sampan.engine.container import Container
from sampan.engine.container_networks import plain_mode
from sampan.engine.engine import Engine
from sampan.engine.isolation import READONLY_PATHS, effective_paths, masked_paths
from sampan.engine.modes import has_private_cgroups
from sampan.engine.naming import dns_names
from sampan.engine.ports import shown
from sampan.engine.records import ContainerState, EndpointRecord, MountPoint, NetworkRecord, Status
from sampan.engine.resources import DEFAULT_SHM_SIZE
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
    return {
        "Id": container.id,
        "Names": [f"/{record.name}", *_linked_names(engine, container)],
        "Image": record.config.image,
        "ImageID": record.image_id,
        "Command": shlex.join(record.command)
        if any(" " in part for part in record.command)
        else " ".join(record.command),
        "Created": record.created // 10**9,
        "Ports": _port_list(engine, container),
        "Labels": record.config.labels,
        "State": record.state.status,
        "Status": status_text(record.state),
        "HostConfig": {"NetworkMode": plain_mode(record.host.network_mode)},
        "NetworkSettings": {"Networks": _networks(engine, container)},
        "Mounts": [_mount(point) for point in record.mounts if point.type != "tmpfs"],
    }


def _linked_names(engine: Engine, container: Container) -> list[str]:
    """Give the names by which others know a container that they are linked to."""
    return [
        f"/{other.record.name}/{alias}"
        for other in engine.containers.all()
        for target_id, alias in other.record.links
        if target_id == container.id
    ]


def _port_list(engine: Engine, container: Container) -> list[dict[str, Any]]:
    ports: list[dict[str, Any]] = []
    published = _published(engine, container)
    for port, bindings in published.items():
        number, _, protocol = port.partition("/")
        for binding in bindings:
            public = {"PublicPort": int(binding["HostPort"])} if binding["HostPort"] else {}
            ports.append({"IP": binding["HostIp"], "PrivatePort": int(number), **public, "Type": protocol})
    for port in _exposed(engine, container):
        if port not in published:
            number, _, protocol = port.partition("/")
            ports.append({"PrivatePort": int(number), "Type": protocol})
    return ports


def _exposed(engine: Engine, container: Container) -> Sequence[str]:
    """Give the ports that a container could publish: none of one that leads out by no network, as on the host's own."""
    leads_out = container.is_running and any(endpoint.gateway_for for endpoint in engine.endpoints.of(container.id))
    return list(container.record.config.exposed_ports) if leads_out else []


def _published(engine: Engine, container: Container) -> Mapping[str, list[dict[str, str]]]:
    if not container.is_running:
        return {}
    published = (port for endpoint in engine.endpoints.of(container.id) for port in endpoint.ports)
    return shown(published, ipv6=bool(engine.proxy.port))


def _networks(engine: Engine, container: Container) -> dict[str, Any]:
    """Give a container's networks by name; one that has been removed is still told, for the next start needs it."""
    up = engine.endpoints.of(container.id) if container.is_running else []
    view = {}
    for name, asked in container.record.networks.items():
        network = engine.networks.find_named(name)
        endpoint = next((item for item in up if network and item.network_id == network.id), None)
        view[name] = _endpoint(container, asked, network, endpoint)
    return view


def _endpoint(
    container: Container, asked: EndpointSettings, network: NetworkRecord | None, endpoint: EndpointRecord | None
) -> dict[str, Any]:
    address, _, length = (endpoint.ipv4 if endpoint and endpoint.ipv4 else "").partition("/")
    address6, _, length6 = (endpoint.ipv6 if endpoint and endpoint.ipv6 else "").partition("/")
    return {
        "IPAMConfig": _asked_addresses(asked),
        "Links": asked.links or None,
        "Aliases": asked.aliases or None,
        "MacAddress": endpoint.mac if endpoint else "",
        "DriverOpts": asked.driver_opts or None,
        "GwPriority": asked.gw_priority,
        "NetworkID": network.id if network else "",
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": _gateway(network, address),
        "IPAddress": address,
        "IPPrefixLen": int(length or 0),
        "IPv6Gateway": _gateway(network, address6),
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "DNSNames": list(dns_names(container.record, network)) or None if network else None,
    }


def _asked_addresses(asked: EndpointSettings) -> dict[str, Any] | None:
    """Give IPAMConfig as it was asked for; the fields without a wish are left out, as Docker does."""
    if asked.ipam_config is None:
        return None
    return {key: value for key, value in asked.ipam_config.wire().items() if value}


def _gateway(network: NetworkRecord | None, address: str) -> str:
    """Give the gateway by which an address leads out; "" in an internal network."""
    if network is None or network.internal or not address:
        return ""
    ip = ipaddress.ip_address(address)
    return next((gateway for prefix, gateway in network.subnets if gateway and ip in ipaddress.ip_network(prefix)), "")


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
    image = engine.images.find(record.image_id)
    host = record.host.wire()
    host["NetworkMode"] = plain_mode(record.host.network_mode)
    host["Links"] = _links(engine, container)
    host["Runtime"] = record.runtime
    host["LogConfig"] = {"Type": record.log_driver, "Config": record.host.log_config.config}
    host["ShmSize"] = record.host.shm_size or DEFAULT_SHM_SIZE
    host["IpcMode"] = record.host.ipc_mode or "private"
    host["CgroupnsMode"] = "private" if has_private_cgroups(record.host) else "host"
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
        "NetworkSettings": _network_settings(engine, container),
    }


def _links(engine: Engine, container: Container) -> list[str] | None:
    """Give the links on the default bridge as `/TARGET:/NAME/ALIAS`."""
    targets = [(engine.containers.find(target_id), alias) for target_id, alias in container.record.links]
    return [f"/{target.record.name}:/{container.record.name}/{alias}" for target, alias in targets if target] or None


def _network_settings(engine: Engine, container: Container) -> dict[str, Any]:
    networks = _networks(engine, container)
    bridge = networks.get("bridge") or {}  # what old clients read, who know of one network only
    ports: dict[str, Any] = {**dict.fromkeys(_exposed(engine, container)), **_published(engine, container)}
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
            key: bridge.get(key, default)
            for key, default in (
                ("EndpointID", ""), ("Gateway", ""), ("GlobalIPv6Address", ""), ("GlobalIPv6PrefixLen", 0),
                ("IPAddress", ""), ("IPPrefixLen", 0), ("IPv6Gateway", ""), ("MacAddress", ""),
            )
        },
        "Networks": networks,
    }  # fmt: skip
