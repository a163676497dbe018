"""From a container's record to the OCI spec of one start. Pure but for reading the host's device nodes."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.api.network import SandboxKind
from sampan.engine import isolation
from sampan.engine.records import ContainerRecord, MountPoint
from sampan.engine.resources import DEFAULT_SHM_SIZE, linux_resources
from sampan.engine.users import User

OCI_VERSION = "1.0.2"
"""The oldest version that has all we write: older runtimes refuse a newer one by its number alone (crun 1.8)."""
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a start has found out besides the record.

    `files` are the engine's own files to bind: destination → path. `namespaces` are those shared with another container or
    the host: type → path to join, or "" for the host's. `environment`: variables that the container's own may replace.
    """

    user: User
    cgroups_path: str
    private_cgroup_namespace: bool
    files: Mapping[str, Path]
    namespaces: Mapping[str, str]
    sandbox: SandboxKind
    mounts: Sequence[MountPoint]
    hostname: str
    environment: Sequence[str] = ()


def build(record: ContainerRecord, around: Surroundings) -> Spec:
    """Give the whole spec."""
    host = record.host
    granted, _ = isolation.container_capabilities(host)
    security = isolation.parse_security_options(host.security_opt)
    resources = linux_resources(host)
    resources["devices"] = _device_rules(record)
    linux: Spec = {
        "namespaces": _namespaces(around),
        "cgroupsPath": around.cgroups_path,
        "resources": resources,
        "devices": _devices(record),
        "maskedPaths": isolation.effective_paths(host.masked_paths, isolation.masked_paths(), host.privileged),
        "readonlyPaths": isolation.effective_paths(host.readonly_paths, isolation.READONLY_PATHS, host.privileged),
        "sysctl": _sysctls(record, around),
        "rootfsPropagation": _root_propagation(around.mounts),
    }
    if profile := isolation.seccomp(host, security, granted):
        linux["seccomp"] = profile
    spec: Spec = {
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "process": {
            "terminal": record.config.tty,
            "user": oci_user(around.user),
            "args": record.command,
            "env": environment(record, around.user, tty=record.config.tty, found=around.environment),
            "cwd": record.config.working_dir or "/",
            "capabilities": capability_sets(granted, around.user),
            "rlimits": _rlimits(record),
            "noNewPrivileges": security.no_new_privileges,
            "oomScoreAdj": host.oom_score_adj,
        },
        "mounts": _mounts(record, around),
        "linux": linux,
        "annotations": dict(host.annotations),
    }
    if record.config.tty and any(host.console_size):
        spec["process"]["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    if security.apparmor:
        spec["process"]["apparmorProfile"] = security.apparmor
    if around.namespaces.get("uts") != "":
        spec["hostname"] = around.hostname
        if record.config.domainname:
            spec["domainname"] = record.config.domainname
    return spec


def environment(
    record: ContainerRecord, user: User, *, tty: bool, found: Sequence[str] = (), extra: Sequence[str] = ()
) -> list[str]:
    """Give the environment: defaults, `found`, the container's, then `extra`; the later of two with one name wins."""
    variables: dict[str, str] = {}
    defaults = [DEFAULT_PATH, f"HOSTNAME={record.config.hostname}", *(["TERM=xterm"] if tty else [])]
    for item in [*defaults, *found, *record.config.env, *extra]:
        name, separator, _ = item.partition("=")
        if separator:
            variables.pop(name, None)
            variables[name] = item
        else:
            variables.pop(name, None)
    variables.setdefault("HOME", f"HOME={user.home}")
    return list(variables.values())


def oci_user(user: User) -> Spec:
    """Give the OCI `process.user` object."""
    result: Spec = {"uid": user.uid, "gid": user.gid}
    if user.groups:
        result["additionalGids"] = list(user.groups)
    return result


def capability_sets(granted: Sequence[str], user: User) -> Spec:
    """Give the OCI `process.capabilities`: a process that is not root has them in its bounding set only, as Docker's do."""
    held = list(granted) if user.uid == 0 else []
    return {"bounding": list(granted), "effective": held, "permitted": held}


_NUMBERED_SIGNAL = re.compile(r"(RTMIN(?=\+)|RTMAX(?=-)|)([+-]?[0-9]{1,3})\Z")
_SIGNAL_BASES = {"": 0, "RTMIN": signal.SIGRTMIN, "RTMAX": signal.SIGRTMAX}


def stop_signal(text: str | None) -> int:
    """Read a signal's name or number. Raises `InvalidArgument` in Docker's words."""
    if not text:
        return signal.SIGTERM
    name = text.upper().removeprefix("SIG")
    number = 0
    if match := _NUMBERED_SIGNAL.match(name):
        base, offset = match.groups()
        number = _SIGNAL_BASES[base] + int(offset)
    elif f"SIG{name}" in signal.Signals.__members__:
        number = signal.Signals[f"SIG{name}"]
    if not 0 < number <= signal.SIGRTMAX or (name.startswith("RT") and number < signal.SIGRTMIN):
        raise InvalidArgument(f"invalid signal: {text}")
    return number


def _namespaces(around: Surroundings) -> list[Spec]:
    wanted = ["mount", "pid", "ipc", "uts"]
    if around.sandbox is SandboxKind.OWN:
        wanted.append("network")
    if around.private_cgroup_namespace:
        wanted.append("cgroup")
    namespaces: list[Spec] = []
    for kind in wanted:
        path = around.namespaces.get(kind)
        if path is None:
            namespaces.append({"type": kind})
        elif path:
            namespaces.append({"type": kind, "path": path})
    return namespaces


def _mounts(record: ContainerRecord, around: Surroundings) -> list[Spec]:
    host = record.host
    access = "rw" if host.privileged else "ro"
    mounts: list[Spec] = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", access, "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]
    if around.namespaces.get("ipc") is None:
        size = host.shm_size or DEFAULT_SHM_SIZE
        mounts.append(_mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={size}"))
    elif around.namespaces["ipc"] == "":
        mounts.append(_mount("/dev/shm", "bind", "/dev/shm", "rbind", "rprivate"))
    taken = {point.destination for point in around.mounts}
    mounts = [mount for mount in mounts if mount["destination"] not in taken]
    options = ("rbind", "rprivate", *(("ro",) if host.readonly_rootfs else ()))
    own = [_mount(to, "bind", str(path), *options) for to, path in around.files.items() if to not in taken]
    return [*mounts, *sorted([*own, *map(_user_mount, around.mounts)], key=_depth)]


def _depth(mount: Spec) -> int:
    """A mount must come after those on the way to it: a volume on /etc does not hide /etc/hosts."""
    return str(mount["destination"]).count("/")


def _mount(destination: str, kind: str, source: str, *options: str) -> Spec:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _user_mount(point: MountPoint) -> Spec:
    if point.type == "tmpfs":
        return _mount(point.destination, "tmpfs", "tmpfs", *point.options)
    options = ["rbind", "rw" if point.rw else "ro", point.propagation or "rprivate"]
    return _mount(point.destination, "bind", point.source, *options)


def _root_propagation(mounts: Sequence[MountPoint]) -> str:
    modes = {point.propagation for point in mounts}
    if modes & {"shared", "rshared"}:
        return "shared"
    return "rslave" if modes & {"slave", "rslave"} else "rprivate"


def _devices(record: ContainerRecord) -> list[Spec]:
    devices = isolation.host_devices() if record.host.privileged else []
    for mapping in record.host.devices:
        devices.extend(isolation.mapped_device(mapping))
    return devices


def _device_rules(record: ContainerRecord) -> list[Spec]:
    if record.host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = [dict(rule) for rule in isolation.DEVICE_RULES]
    for mapping in record.host.devices:
        for device in isolation.mapped_device(mapping):
            rules.append(
                {
                    "allow": True,
                    "type": device["type"],
                    "major": device["major"],
                    "minor": device["minor"],
                    "access": mapping.cgroup_permissions,
                }
            )
    rules.extend(isolation.device_rule(text) for text in record.host.device_cgroup_rules)
    return rules


def _sysctls(record: ContainerRecord, around: Surroundings) -> dict[str, str]:
    values = dict(record.host.sysctls)
    if around.sandbox is SandboxKind.OWN and around.namespaces.get("network") is None:
        values.setdefault("net.ipv4.ip_unprivileged_port_start", "0")
        values.setdefault("net.ipv4.ping_group_range", "0 2147483647")
    return values


def _rlimits(record: ContainerRecord) -> list[Spec]:
    unlimited = 2**64 - 1
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": unlimited if limit.soft < 0 else limit.soft,
            "hard": unlimited if limit.hard < 0 else limit.hard,
        }
        for limit in record.host.ulimits
    ]
