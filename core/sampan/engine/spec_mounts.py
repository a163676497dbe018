"""The mounts of a container's spec: those of every container, the engine's own files, the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampan.engine.init import INSIDE
from sampan.engine.records import ContainerRecord, MountPoint
from sampan.engine.resources import DEFAULT_SHM_SIZE
from sampan.engine.security_options import SecurityOptions
from sampan.engine.surroundings import Surroundings

Mount = dict[str, Any]
"""An entry of the OCI `mounts`."""


def mounts(record: ContainerRecord, around: Surroundings, security: SecurityOptions, init: Path | None) -> list[Mount]:
    """Give all mounts in order; one that the user puts somewhere takes the place of ours there."""
    taken = {point.destination for point in around.mounts}
    of_all = [mount for mount in _of_every_container(record, around, security) if not _is_taken(mount["destination"], taken)]
    options = ("rbind", "rprivate", *(("ro",) if record.host.readonly_rootfs else ()))
    own = [_mount(to, "bind", str(path), *options) for to, path in around.files.items() if to not in taken]
    if init is not None:
        own.append(_mount(INSIDE, "bind", str(init), "bind", "ro"))
    shifted = around.defaults.idmaps_of(record.host) is not None
    users = [_user_mount(point, shifted=shifted) for point in around.mounts]
    return [*of_all, *sorted([*own, *users], key=_depth)]


def root_propagation(points: Sequence[MountPoint]) -> str:
    """Give the root's propagation: mounts pass through it as far as those on it want."""
    modes = {point.propagation for point in points}
    if modes & {"shared", "rshared"}:
        return "shared"
    return "rslave" if modes & {"slave", "rslave"} else "rprivate"


def _of_every_container(record: ContainerRecord, around: Surroundings, security: SecurityOptions) -> list[Mount]:
    host = record.host
    access = "rw" if host.privileged else "ro"
    writable_cgroups = host.privileged if security.writable_cgroups is None else security.writable_cgroups
    found = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "rw" if writable_cgroups else "ro", "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]
    if around.shm is not None:
        found.append(_mount("/dev/shm", "bind", str(around.shm), "rbind", "rprivate"))
    elif host.ipc_mode != "none":
        size = host.shm_size or DEFAULT_SHM_SIZE
        found.append(_mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={size}"))
    return found


def _is_taken(destination: str, taken: set[str]) -> bool:
    """Say whether the user has put something there, or in place of the whole of /dev."""
    return destination in taken or ("/dev" in taken and destination.startswith("/dev/"))


def _depth(mount: Mount) -> int:
    """A mount must come after those on the way to it: a volume on /etc does not hide /etc/hosts."""
    return str(mount["destination"]).count("/")


def _user_mount(point: MountPoint, *, shifted: bool) -> Mount:
    """Give a mount of the user's. With `shifted` owners a volume is shown as the root is; a directory of the host's stays what it is."""
    if point.type == "tmpfs":
        return _mount(point.destination, "tmpfs", "tmpfs", *point.options)
    options = ["rbind" if point.recursive else "bind", "rw" if point.rw else "ro", point.propagation or "rprivate"]
    if not point.rw and point.recursive and point.recursive_ro:
        options.append("rro")  # beside `ro`, for a runtime that does not know it
    if shifted and point.type == "volume":
        options.append("idmap")
    return _mount(point.destination, "bind", point.source, *options)


def _mount(destination: str, kind: str, source: str, *options: str) -> Mount:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}
