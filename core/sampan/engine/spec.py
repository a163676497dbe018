"""From a container's record to the OCI spec of one start. Pure but for reading the host's device nodes."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Any

from sampan.api.errors import InvalidArgument
from sampan.api.network import SandboxKind
from sampan.engine import devices, isolation
from sampan.engine.defaults import Defaults
from sampan.engine.init import under_init
from sampan.engine.modes import has_private_cgroups
from sampan.engine.reach import lowered, raised
from sampan.engine.records import ContainerRecord
from sampan.engine.resources import linux_resources
from sampan.engine.security_options import parse_security_options
from sampan.engine.spec_mounts import mounts, root_propagation
from sampan.engine.surroundings import Surroundings
from sampan.engine.users import User
from sampan.linux.namespaces import IdRange

OCI_VERSION = "1.0.2"
"""The oldest version that has all we write: older runtimes refuse a newer one by its number alone (crun 1.8)."""
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Spec = dict[str, Any]


def build(record: ContainerRecord, around: Surroundings) -> Spec:
    """Give the whole spec."""
    host = record.host
    granted, _ = isolation.container_capabilities(host)
    defaults = around.defaults
    security = parse_security_options(host.security_opt, no_new_privileges=defaults.no_new_privileges)
    init = defaults.init_of(host)
    resources = linux_resources(host)
    resources["devices"] = devices.rules(host)
    linux: Spec = {
        "namespaces": _namespaces(record, around),
        "cgroupsPath": around.cgroups_path,
        "resources": resources,
        "devices": devices.nodes(host),
        "maskedPaths": isolation.effective_paths(host.masked_paths, isolation.masked_paths(), host.privileged),
        "readonlyPaths": isolation.effective_paths(host.readonly_paths, isolation.READONLY_PATHS, host.privileged),
        "sysctl": _sysctls(record, around),
        "rootfsPropagation": root_propagation(around.mounts),
    }
    if idmaps := defaults.idmaps_of(host):
        linux["uidMappings"], linux["gidMappings"] = _mappings(idmaps.uids), _mappings(idmaps.gids)
    if profile := isolation.seccomp(host, security, granted, defaults.seccomp):
        linux["seccomp"] = profile
    spec: Spec = {
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "process": {
            "terminal": record.config.tty,
            "user": oci_user(around.user),
            "args": under_init(record.command) if init else record.command,
            "env": environment(record, around.user, tty=record.config.tty, found=around.environment),
            "cwd": record.config.working_dir or "/",
            "capabilities": capability_sets(granted, around.user),
            "rlimits": rlimits(record, defaults),
            "noNewPrivileges": security.no_new_privileges,
            "oomScoreAdj": raised(host.oom_score_adj),
        },
        "mounts": mounts(record, around, security, init),
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


def _namespaces(record: ContainerRecord, around: Surroundings) -> list[Spec]:
    wanted = ["mount", "pid", "ipc", "uts"]
    if around.sandbox is SandboxKind.OWN:
        wanted.append("network")
    if has_private_cgroups(record.host):
        wanted.append("cgroup")
    if around.defaults.idmaps_of(record.host):
        wanted.append("user")
    namespaces: list[Spec] = []
    for kind in wanted:
        path = around.namespaces.get(kind)
        if path is None:
            namespaces.append({"type": kind})
        elif path:
            namespaces.append({"type": kind, "path": path})
    return namespaces


def _mappings(ranges: Sequence[IdRange]) -> list[Spec]:
    return [{"containerID": each.inside, "hostID": each.outside, "size": each.count} for each in ranges]


def _sysctls(record: ContainerRecord, around: Surroundings) -> dict[str, str]:
    """Docker's: any port may be opened, and any user may ping, but for user namespaces, whose groups the kernel refuses there."""
    values = dict(record.host.sysctls)
    if around.sandbox is SandboxKind.OWN and around.namespaces.get("network") is None:
        values.setdefault("net.ipv4.ip_unprivileged_port_start", "0")
        if not around.defaults.idmaps_of(record.host):
            values.setdefault("net.ipv4.ping_group_range", "0 2147483647")
    return values


def rlimits(record: ContainerRecord, defaults: Defaults) -> list[Spec]:
    """Give the OCI `process.rlimits`, for the first process and later ones."""
    unlimited = 2**64 - 1
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": unlimited if limit.soft < 0 else limit.soft,
            "hard": unlimited if limit.hard < 0 else limit.hard,
        }
        for limit in map(lowered, defaults.ulimits_of(record.host))
    ]
