"""What a container may do: capabilities, masked paths, devices, seccomp. The defaults are Docker's.

Sources: Docker's documentation of default capabilities and of the seccomp profile; the masked and read-only paths are those
that moby 28 masks (GHSA-6fw5-f8r9-fgfm and GHSA-jq35-85cj-fj4p among the reasons).
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.api.types import DeviceMapping, HostConfig
from sampan.engine.seccomp_profile import default_seccomp, load_profile, resolve_profile
from sampan.linux import capabilities

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@cache
def masked_paths() -> tuple[str, ...]:
    """Give the paths that a container must not read, as they are on this host."""
    return (
        "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
        "/sys/firmware", *sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")),
    )  # fmt: skip


def effective_paths(asked: list[str] | None, default: Sequence[str], privileged: bool) -> list[str]:
    """Give the paths to mask or to make read-only: those asked for, else the default, for a privileged container none."""
    if asked is not None:
        return asked
    return [] if privileged else list(default)


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """The parsed `--security-opt`s. `seccomp` is None for the default, {} for unconfined."""

    no_new_privileges: bool = False
    seccomp: dict[str, Any] | None = None
    seccomp_unconfined: bool = False
    apparmor: str = ""


def parse_security_options(options: list[str]) -> SecurityOptions:
    """Read `--security-opt`s as Docker does. Raises `InvalidArgument`."""
    no_new_privileges = False
    seccomp: dict[str, Any] | None = None
    unconfined = False
    apparmor = ""
    for option in options:
        if option in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"):
            no_new_privileges = True
            continue
        key, separator, value = option.partition("=" if "=" in option else ":")
        if not separator:
            raise InvalidArgument(f"invalid --security-opt 1: {option!r}")
        if key == "no-new-privileges" and value == "false":
            no_new_privileges = False
        elif key == "seccomp":
            unconfined = value == "unconfined"
            seccomp = None if value in ("unconfined", "builtin") else _client_profile(value)
        elif key == "apparmor":
            apparmor = "" if value == "unconfined" else value
        elif key == "label":
            if value != "disable":
                raise Unsupported(f"security option {option!r}: this host has no SELinux", remedy="use label=disable")
        elif key in ("systempaths", "writable-cgroups"):
            raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
        else:
            raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return SecurityOptions(no_new_privileges, seccomp, unconfined, apparmor)


def _client_profile(text: str) -> dict[str, Any]:
    """Read a profile that a client sent, in Docker's form. It is never the name of a file of the host."""
    if not text.lstrip().startswith("{"):
        raise InvalidArgument(f"decoding seccomp profile failed: {text[:64]!r} is not a JSON object",
                              remedy="send the profile's text, as the docker client does")  # fmt: skip
    try:
        profile = load_profile(text)
        resolve_profile(profile, ())
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {type(error).__name__}: {error}") from error
    return profile


def _capability(name: str, field: str) -> str:
    full = name.upper()
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in capabilities.NAMES:
        raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')
    return full


@cache
def available_capabilities() -> frozenset[str]:
    """Give the capabilities that this daemon has and so can give."""
    return frozenset(capabilities.names(capabilities.current().effective))


def container_capabilities(host: HostConfig) -> tuple[list[str], list[str]]:
    """Give the capabilities of the container's processes, and warnings for those the daemon itself lacks."""
    add = [item.upper() for item in host.cap_add]
    drop = [item.upper() for item in host.cap_drop]
    everything = list(capabilities.NAMES)
    if host.privileged:
        wanted = everything
    else:
        names_added = {_capability(item, "CapAdd") for item in add if item != "ALL"}
        names_dropped = {_capability(item, "CapDrop") for item in drop if item != "ALL"}
        base = everything if "ALL" in add else [] if "ALL" in drop else list(DEFAULT_CAPABILITIES)
        wanted = [name for name in everything if (name in base and name not in names_dropped) or name in names_added]
        if "ALL" in add:
            wanted = [name for name in everything if name not in names_dropped]
    given = [name for name in wanted if name in available_capabilities()]
    missing = [name for name in wanted if name not in available_capabilities()]
    if not missing:
        return given, []
    return given, [f"The daemon itself lacks {', '.join(missing)}: the container does not get it"]


def seccomp(host: HostConfig, options: SecurityOptions, granted: list[str]) -> dict[str, Any] | None:
    """Give the OCI `linux.seccomp` object, or None for none."""
    if host.privileged or options.seccomp_unconfined:
        return None
    if options.seccomp is not None:
        return resolve_profile(options.seccomp, frozenset(granted))
    return default_seccomp(frozenset(granted), os.uname().machine)


DEVICE_RULES: tuple[dict[str, Any], ...] = (
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
"""The cgroup's device rules: any node may be made, only the harmless ones opened."""

_NOT_GIVEN = {"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev", "ptmx"}


def host_devices() -> list[dict[str, Any]]:
    """Give all device nodes of the host, for a privileged container."""
    found: list[dict[str, Any]] = []
    for directory, names, files in os.walk("/dev"):
        names[:] = [name for name in names if name not in _NOT_GIVEN]
        for name in files:
            path = f"{directory}/{name}"
            if name in _NOT_GIVEN or os.path.islink(path):
                continue
            device = _device(path, path)
            if device is not None:
                found.append(device)
    return sorted(found, key=lambda device: str(device["path"]))


def _device(source: str, target: str) -> dict[str, Any] | None:
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


def mapped_device(mapping: DeviceMapping) -> list[dict[str, Any]]:
    """Give the nodes for one `--device`: a device, or all in a directory. Raises `InvalidArgument`."""
    source, target = mapping.path_on_host, mapping.path_in_container or mapping.path_on_host
    if not set(mapping.cgroup_permissions) <= set("rwm"):
        raise InvalidArgument(f"invalid device mode: {mapping.cgroup_permissions}")
    if "\0" in source + target:
        raise InvalidArgument(f"invalid device: {source!r} to {target!r}: it has a NUL in it")
    try:
        if os.path.isdir(source):
            inside = [_device(f"{source}/{name}", f"{target}/{name}") for name in sorted(os.listdir(source))]
            return [device for device in inside if device is not None]
        device = _device(source, target)
    except OSError as error:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{source}": {error.strerror}'
        ) from error
    if device is None:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{source}": not a device node'
        )
    return [device]


def device_rule(text: str) -> dict[str, Any]:
    """Read a `--device-cgroup-rule` (`c 1:3 rwm`). Raises `InvalidArgument`."""
    try:
        kind, numbers, access = text.split()
        major, minor = numbers.split(":")
        if kind not in "acb" or not set(access) <= set("rwm"):
            raise ValueError
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        if major != "*":
            rule["major"] = int(major)
        if minor != "*":
            rule["minor"] = int(minor)
    except ValueError:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'") from None
    return rule
