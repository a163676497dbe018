"""The namespaces that a container has together with the host, or with a running container. Docker's rules and words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import Conflict, InvalidArgument, NotFound, host_errors
from sampan.api.types import HostConfig
from sampan.engine import shm
from sampan.engine.container import Container
from sampan.engine.modes import CONTAINER

_FILES = {"network": "net", "pid": "pid", "ipc": "ipc"}
"""Names below /proc/PID/ns of the kinds that can be a container's."""

HOST_SHM = Path("/dev/shm")

_SHOWN = {"network": "network", "pid": "PID", "ipc": "IPC", "uts": "UTS"}


@dataclass(frozen=True, slots=True)
class Sharing:
    """`paths`: kind → path to join, or "" for the host's. `others`: whose they are, by kind. `shm`: its directory for /dev/shm."""

    paths: Mapping[str, str]
    others: Mapping[str, Container]
    shm: Path | None = None

    def open_userns(self) -> int:
        """Give a descriptor of the user namespace that owns what is shared with other containers; -1 if nothing is.

        For a container that has a user namespace. Raises `Conflict` where the others' are not one and the same of their own.
        """
        owner = -1
        for kind, other in self.others.items():
            path = f"/proc/{other.record.state.pid}/ns/user"
            with host_errors(f"open the user namespace of container {other.record.name}"):
                if os.stat(path).st_ino == os.stat("/proc/self/ns/user").st_ino:
                    _give_up(owner)
                    raise Conflict(
                        f"join the {_SHOWN[kind]} namespace of container {other.record.name}: it is in the host's user namespace",
                        remedy="add --userns=host",
                    )
                if owner >= 0 and os.stat(path).st_ino != os.fstat(owner).st_ino:
                    _give_up(owner)
                    names = " and ".join(dict.fromkeys(each.record.name for each in self.others.values()))
                    raise Conflict(f"join namespaces of containers {names}: they are in different user namespaces")
                owner = owner if owner >= 0 else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return owner


def _give_up(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def share(container: Container, find: Callable[[str], Container]) -> Sharing:
    """Find what a container that starts shares. Raises `InvalidArgument`, `Conflict` for others that are not there or don't run."""
    host = container.record.host
    paths: dict[str, str] = {}
    others: dict[str, Container] = {}
    for kind, mode in _modes(host).items():
        if mode == "host" and kind != "network":
            paths[kind] = ""
        elif mode.startswith(CONTAINER):
            others[kind] = other = _running(kind, mode.removeprefix(CONTAINER), find)
            paths[kind] = f"/proc/{other.record.state.pid}/ns/{_FILES[kind]}"
    return Sharing(paths, others, _shm(container, find))


def _modes(host: HostConfig) -> dict[str, str]:
    return {"pid": host.pid_mode, "ipc": host.ipc_mode, "uts": host.uts_mode, "network": host.network_mode}


def _running(kind: str, name: str, find: Callable[[str], Container]) -> Container:
    failed = f"failed to join {_SHOWN[kind]} namespace"
    try:
        other = find(name)
    except NotFound as error:
        raise InvalidArgument(f"{failed}: {error.message}") from error
    if not other.is_running:
        raise Conflict(f"{failed}: cannot join {_SHOWN[kind]} namespace of a non running container: {other.id}")
    return other


def _shm(container: Container, find: Callable[[str], Container]) -> Path | None:
    """Give the directory that is the container's /dev/shm, unless it gets one of its own or none."""
    mode = container.record.host.ipc_mode
    if mode == "shareable":
        return container.directories.shm
    return HOST_SHM if mode == "host" else _shm_of(find(mode.removeprefix(CONTAINER)), find) if mode.startswith(CONTAINER) else None


def _shm_of(donor: Container, find: Callable[[str], Container]) -> Path:
    """Give the /dev/shm of a container whose IPC another joins; it may have joined a third's itself."""
    directory = _shm(donor, find)
    if directory is None:
        raise InvalidArgument(
            f"failed to join IPC namespace: container {donor.id}: non-shareable IPC"
            " (hint: use IpcMode:shareable for the donor container)"
        )
    return directory if directory == HOST_SHM else shm.check(directory, donor.record.name)
