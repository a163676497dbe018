"""From the OCI spec to what the driver will do: checked and frozen before anything on the host is touched.

What the spec asks for and this driver cannot do is refused here, never left out. Source: OCI runtime spec
1.2, `config.md` and `config-linux.md`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sampan.api.errors import InvalidArgument, Unsupported
from sampan.linux.mounts import MS_REC, parse_options
from sampan.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    IdMaps,
    IdRange,
)
from sampan_runtime_native.process import Process

NAMESPACES: Final = {
    "pid": CLONE_NEWPID, "mount": CLONE_NEWNS, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC, "network": CLONE_NEWNET,
    "cgroup": CLONE_NEWCGROUP, "user": CLONE_NEWUSER, "time": CLONE_NEWTIME,
}  # fmt: skip
_IPC_SYSCTLS: Final = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
     "kernel.shmmni", "kernel.shm_rmid_forced"}
)  # fmt: skip
_DEFAULT_DEVICES: Final = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_UNSUPPORTED: Final = (
    ("intelRdt", "has no Intel RDT"), ("mountLabel", "gives no SELinux label to mounts"),
    ("netDevices", "moves no network devices of the host"), ("memoryPolicy", "sets no NUMA memory policy"),
)  # fmt: skip
_PERSONALITIES: Final = {"LINUX": 0x0000, "LINUX32": 0x0008}
"""`include/uapi/linux/personality.h`."""
_CLOCKS: Final = ("monotonic", "boottime")


@dataclass(frozen=True, slots=True)
class Device:
    """A node to make, at an absolute path in the container. `mode` has the type's bits."""

    path: str
    mode: int
    major: int
    minor: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class PlannedMount:
    """An OCI mount, checked."""

    type: str
    source: str
    target: str
    options: tuple[str, ...]
    maps: IdMaps | None = None
    """How owners are shifted by the option `idmap`; None: as in the container's user namespace."""
    copy_up: bool = False
    """Whether a tmpfs begins with what is in its place (`tmpcopyup`)."""
    remount: bool = False
    """Whether what is mounted in its place already is to be changed, and nothing mounted."""

    @property
    def is_bind(self) -> bool:
        """Whether it shows a place of the host."""
        return not self.remount and (self.type == "bind" or "bind" in self.options or "rbind" in self.options)

    @property
    def is_cgroup(self) -> bool:
        """Whether it shows the container's own cgroups."""
        return self.type in ("cgroup", "cgroup2") and not (self.is_bind or self.remount)


@dataclass(frozen=True, slots=True)
class Plan:
    """A container, checked. `new` are the CLONE_NEW* flags, `join` the namespaces at a path as (flag,
    path). `maps` are those of the user namespace, None if the spec has none."""

    process: Process
    new: int
    join: tuple[tuple[int, str], ...]
    maps: IdMaps | None
    time_offsets: tuple[tuple[str, int, int], ...]
    """Clock, seconds, nanoseconds: how a new time namespace differs from the host's."""
    personality: int | None
    root: str
    root_readonly: bool
    root_propagation: int
    mounts: tuple[PlannedMount, ...]
    devices: tuple[Device, ...]
    masked: tuple[str, ...]
    readonly: tuple[str, ...]
    sysctls: tuple[tuple[str, str], ...]
    hostname: str
    domainname: str
    cgroup: str
    resources: Mapping[str, Any]
    seccomp: Mapping[str, Any] | None

    @classmethod
    def of_spec(cls, container_id: str, spec: Mapping[str, Any]) -> Plan:
        """Check an OCI configuration. Raises `InvalidArgument`, `Unsupported`."""
        linux = spec.get("linux") or {}
        for key, what in _UNSUPPORTED:
            if linux.get(key):
                raise Unsupported(f"linux.{key}: the native runtime {what}", remedy="leave it out, or use another runtime")
        if not spec.get("process"):
            raise InvalidArgument("the spec has no process")
        new, join = _namespaces(linux.get("namespaces") or ())
        root = spec.get("root") or {}
        propagation = linux.get("rootfsPropagation") or ""
        flags = parse_options((propagation,)).propagation if propagation else ()
        if propagation and not flags:
            raise InvalidArgument(f"linux.rootfsPropagation {propagation!r} is not known")
        has_uts = bool(new & CLONE_NEWUTS) or any(flag == CLONE_NEWUTS for flag, _ in join)
        if (spec.get("hostname") or spec.get("domainname")) and not has_uts:
            raise InvalidArgument(
                "a hostname needs a UTS namespace", remedy="leave it out with the host's UTS namespace"
            )
        return cls(
            Process.of_spec(spec["process"]), new, join, _maps(linux),
            _time_offsets(linux.get("timeOffsets") or {}, new), _personality(linux.get("personality")),
            root.get("path") or "", bool(root.get("readonly")),
            flags[0] & ~MS_REC if flags else 0, tuple(_mount(each) for each in spec.get("mounts") or ()),
            _devices(linux.get("devices") or ()), tuple(linux.get("maskedPaths") or ()),
            tuple(linux.get("readonlyPaths") or ()), _sysctls(linux.get("sysctl") or {}, new, join),
            spec.get("hostname") or "", spec.get("domainname") or "",
            _cgroup_path(linux.get("cgroupsPath") or container_id), linux.get("resources") or {}, linux.get("seccomp"),
        )  # fmt: skip

    @property
    def owns_cgroup(self) -> bool:
        """Whether the container's user is to own its cgroup: it has a namespace of cgroups, and may write there."""
        return bool(self.new & CLONE_NEWCGROUP) and any(
            each.is_cgroup and each.target == "/sys/fs/cgroup" and not {"ro", "rro"} & set(each.options) for each in self.mounts
        )


def _cgroup_path(path: str) -> str:
    """A relative path is below `/sampan`, as a container without a path is."""
    if ":" in path and not path.startswith("/"):
        raise Unsupported(
            f"linux.cgroupsPath {path!r}: slices and scopes of systemd are not made by this runtime",
            remedy="give a path, such as /system.slice/NAME, and run containers with the cgroupfs driver",
        )
    return path if path.startswith("/") else f"/sampan/{path}"


def _namespaces(entries: Sequence[Mapping[str, Any]]) -> tuple[int, tuple[tuple[int, str], ...]]:
    new = 0
    join: list[tuple[int, str]] = []
    for entry in entries:
        flag = NAMESPACES.get(entry["type"])
        if flag is None:
            raise Unsupported(f"the native runtime has no {entry['type']} namespaces", remedy="use runtime 'runc'")
        if flag & new or any(flag == given for given, _ in join):
            raise InvalidArgument(f"linux.namespaces: {entry['type']} is there twice")
        if entry.get("path"):
            join.append((flag, entry["path"]))
        else:
            new |= flag
    if not new & CLONE_NEWNS:
        # Nobody could take its mounts away again but by looking for them among those of others.
        raise Unsupported("a container of the native runtime always has a new mount namespace", remedy="ask for one, without a path")
    return new, tuple(join)


def _maps(entry: Mapping[str, Any]) -> IdMaps | None:
    uids, gids = (_ranges(entry.get(key) or (), key) for key in ("uidMappings", "gidMappings"))
    if bool(uids) != bool(gids):
        raise InvalidArgument("uidMappings and gidMappings come together or not at all")
    return IdMaps(uids, gids) if uids else None


def _ranges(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[IdRange, ...]:
    ranges = tuple(IdRange(each["containerID"], each["hostID"], each["size"]) for each in entries)
    if not all(each.count > 0 and min(each.inside, each.outside) >= 0 for each in ranges):
        raise InvalidArgument(f"{key}: a size is not positive or an id is negative")
    return ranges


def _mount(entry: Mapping[str, Any]) -> PlannedMount:
    target = os.path.normpath("/" + (entry.get("destination") or "").lstrip("/"))  # a relative one, as old specs have it, is from the root
    if target.strip("/") == "":
        raise InvalidArgument("mount destination is missing, or the root itself")
    given = tuple(entry.get("options") or ())
    options = tuple(option for option in given if option not in ("tmpcopyup", "remount"))
    copy_up, remount = "tmpcopyup" in given, "remount" in given
    mount = PlannedMount(entry.get("type") or "", entry.get("source") or "", target, options, _maps(entry), copy_up, remount)
    if not mount.is_bind and (mount.maps or "idmap" in options or "ridmap" in options):
        raise Unsupported(f"mount {target}: only bind mounts have shifted owners")
    if not mount.type and not mount.is_bind and not remount:
        raise InvalidArgument(f"mount {target}: neither a type nor a bind")
    if copy_up and (mount.is_bind or remount or mount.type != "tmpfs"):
        raise InvalidArgument(f"mount {target}: option tmpcopyup is for tmpfs")
    if mount.is_bind and not mount.source:
        raise InvalidArgument(f"mount {target}: a bind needs a source")
    what = "a bind mount" if mount.is_bind else "a remount" if remount else "a mount of the container's cgroups" if mount.is_cgroup else ""
    if what and (data := parse_options(options).data):
        raise InvalidArgument(f"mount {target}: {what} has no option {data[0]!r}")
    return mount


def _time_offsets(entries: Mapping[str, Mapping[str, int]], new: int) -> tuple[tuple[str, int, int], ...]:
    if entries and not new & CLONE_NEWTIME:
        raise InvalidArgument("linux.timeOffsets need a new time namespace")
    offsets = tuple((clock, each.get("secs") or 0, each.get("nanosecs") or 0) for clock, each in entries.items() if each)
    for clock, _, nanoseconds in offsets:
        if clock not in _CLOCKS or not 0 <= nanoseconds < 10**9:
            raise InvalidArgument(f"linux.timeOffsets: {clock} is no clock that can differ, or its nanoseconds are no part of a second")
    return offsets


def _personality(entry: Mapping[str, Any] | None) -> int | None:
    if entry is None:
        return None
    if entry.get("domain") not in _PERSONALITIES or entry.get("flags"):
        raise InvalidArgument(f"linux.personality {entry!r}: the domain is LINUX or LINUX32, and there are no flags")
    return _PERSONALITIES[entry["domain"]]


def _devices(entries: Sequence[Mapping[str, Any]]) -> tuple[Device, ...]:
    kinds = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
    devices = {
        f"/dev/{name}": Device(f"/dev/{name}", 0o020666, major, minor) for name, major, minor in _DEFAULT_DEVICES
    }
    for entry in entries:
        if entry["type"] not in kinds or not entry["path"].startswith("/"):
            raise InvalidArgument(f"linux.devices: {entry!r} has no known type or no absolute path")
        mode = entry.get("fileMode")
        permissions = 0o666 if mode is None else mode & 0o7777
        major, minor = (0, 0) if entry["type"] == "p" else (entry.get("major"), entry.get("minor"))
        if major is None or minor is None:
            raise InvalidArgument(f"linux.devices: {entry!r} has no numbers")
        devices[entry["path"]] = Device(
            entry["path"], kinds[entry["type"]] | permissions, major, minor,
            entry.get("uid") or 0, entry.get("gid") or 0,
        )  # fmt: skip
    return tuple(devices.values())


def _sysctls(entries: Mapping[str, str], new: int, join: Sequence[tuple[int, str]]) -> tuple[tuple[str, str], ...]:
    """Only what a namespace of the container's own holds may be set: the rest would change the host."""
    own = new
    for flag, _ in join:
        own |= flag
    for name, value in entries.items():
        dotted = name.replace("/", ".")
        if ".." in dotted or "\0" in name or value is None:
            raise InvalidArgument(f"sysctl {name!r} is not a name, or has no value")
        if dotted.startswith("net."):
            need, which = CLONE_NEWNET, "network"
        elif dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            need, which = CLONE_NEWIPC, "IPC"
        elif dotted in ("kernel.domainname", "kernel.hostname"):
            need, which = CLONE_NEWUTS, "UTS"
        else:
            raise InvalidArgument(f"sysctl {name!r} is not in a separate kernel namespace")
        if not own & need:
            raise InvalidArgument(f"sysctl {name!r} is not allowed in the host's {which} namespace")
    return tuple((name, str(value)) for name, value in entries.items())
