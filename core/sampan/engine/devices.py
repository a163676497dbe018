"""Devices of containers: the nodes in /dev, and the rules of the cgroup. Docker's rules and words."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.types import DeviceMapping, HostConfig

Device = dict[str, Any]
"""An entry of the OCI `linux.devices`."""

Rule = dict[str, Any]
"""An entry of the OCI `linux.resources.devices`."""

DEFAULT_RULES: tuple[Rule, ...] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
    ),
    {"allow": True, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
)
"""Any node may be made, only the harmless ones opened."""

_NOT_GIVEN = {"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev", "ptmx"}

_RULE = re.compile(r"([acb]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})")


def check_devices(host: HostConfig) -> None:
    """Refuse devices that are not there, and requests that no driver answers. Raises `InvalidArgument`, `Unsupported`."""
    nodes(host)
    rules(host)
    for request in host.device_requests:
        if request.get("Driver") == "cdi":
            names = ", ".join(request.get("DeviceIDs") or ())
            raise Unsupported(
                f"give devices by CDI name ({names}): this engine reads no CDI specifications", remedy="use --device /dev/NAME"
            )
        raise Unsupported("give devices by request (--gpus): no driver for device requests is known", remedy="use --device")


def nodes(host: HostConfig) -> list[Device]:
    """Give the nodes that a container gets beside those of every container. Reads the host's."""
    found = list(_host_devices()) if host.privileged else []
    for mapping in host.devices:
        if not (host.privileged and mapping.path_on_host == (mapping.path_in_container or mapping.path_on_host)):
            found.extend(mapped_devices(mapping))
    return found


def rules(host: HostConfig) -> list[Rule]:
    """Give the rules of the container's cgroup: what `--privileged`, `--device` and `--device-cgroup-rule` make of the default."""
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    found = [dict(rule) for rule in DEFAULT_RULES]
    for mapping in host.devices:
        found += [_rule_for(device, mapping.cgroup_permissions) for device in mapped_devices(mapping)]
    return [*found, *map(parse_rule, host.device_cgroup_rules)]


def _rule_for(device: Device, access: str) -> Rule:
    return {"allow": True, "type": device["type"], "major": device["major"], "minor": device["minor"], "access": access}


def mapped_devices(mapping: DeviceMapping) -> list[Device]:
    """Give the nodes for one `--device`: a device, or all below a directory. Raises `InvalidArgument`."""
    source, target = mapping.path_on_host, mapping.path_in_container or mapping.path_on_host
    if not set(mapping.cgroup_permissions) <= set("rwm"):
        raise InvalidArgument(f"invalid device mode: {mapping.cgroup_permissions}")
    if "\0" in source + target:
        raise InvalidArgument(f"invalid device: {source!r} to {target!r}: it has a NUL in it")
    failed = f'error gathering device information while adding custom device "{source}"'
    try:
        device = _device(source, target)
    except OSError as error:
        raise InvalidArgument(f"{failed}: {os.strerror(error.errno or 0).lower()}") from error  # clients look for the words
    found = [device] if device is not None else list(_below(source, target)) if os.path.isdir(source) else []
    if not found:
        raise InvalidArgument(f"{failed}: not a device node")
    return found


def _host_devices() -> Iterator[Device]:
    """Give all device nodes of the host, for a privileged container."""
    yield from sorted(_below("/dev", "/dev", leave_out=_NOT_GIVEN), key=lambda device: str(device["path"]))


def _below(source: str, target: str, leave_out: set[str] | frozenset[str] = frozenset()) -> Iterator[Device]:
    for directory, names, files in os.walk(source):
        names[:] = sorted(name for name in names if name not in leave_out)
        for name in sorted(files):
            path = f"{directory}/{name}"
            if name in leave_out or os.path.islink(path):
                continue
            try:
                device = _device(path, target + path.removeprefix(source))
            except FileNotFoundError:
                continue  # it went away meanwhile
            if device is not None:
                yield device


def _device(source: str, target: str) -> Device | None:
    status = os.stat(source)
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else None
    if kind is None:
        return None
    return {
        "path": target,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def parse_rule(text: str) -> Rule:
    """Read a `--device-cgroup-rule` (`c 1:3 rwm`). Raises `InvalidArgument`."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    rule: Rule = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule
