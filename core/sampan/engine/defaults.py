"""What the daemon's settings give containers that don't say otherwise. Read and checked once, when the engine opens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.api.types import HostConfig, Ulimit
from sampan.engine.init import find_init
from sampan.engine.modes import default_cgroupns
from sampan.engine.remap import load_maps
from sampan.engine.resources import DEFAULT_SHM_SIZE, check_ulimits
from sampan.engine.seccomp_profile import UNCONFINED, load_profile, resolve_profile
from sampan.linux.namespaces import IdMaps
from sampan.settings import Settings


@dataclass(frozen=True, slots=True)
class Defaults:
    """`seccomp`: a profile in Docker's form, None for the one built in, {} for none at all. `idmaps`: None without userns-remap."""

    shm_size: int = DEFAULT_SHM_SIZE
    ipc_mode: str = "private"
    cgroupns_mode: str = ""
    no_new_privileges: bool = False
    seccomp: dict[str, Any] | None = None
    ulimits: tuple[Ulimit, ...] = ()
    init: bool = False
    init_path: Path | None = None
    idmaps: IdMaps | None = None

    @classmethod
    def load(cls, settings: Settings) -> Defaults:
        """Read them. Raises `InvalidArgument` or `Unsupported` for what can't be had; the daemon stops with it."""
        check_ulimits(settings.default_ulimits)
        if settings.init:
            find_init(settings.init_path)
        return cls(
            shm_size=settings.default_shm_size,
            ipc_mode=settings.default_ipc_mode,
            cgroupns_mode=settings.default_cgroupns_mode or "",
            no_new_privileges=settings.no_new_privileges,
            seccomp=_profile(settings.seccomp_profile),
            ulimits=settings.default_ulimits,
            init=settings.init,
            init_path=settings.init_path,
            idmaps=load_maps(settings.userns_remap or ""),
        )

    def fill(self, host: HostConfig) -> None:
        """Write into a new container's configuration what it gets, so that it keeps it and `inspect` shows it. Docker's list."""
        host.memory_swap = host.memory_swap or (host.memory * 2 if host.memory > 0 else 0)
        host.pids_limit = host.pids_limit if host.pids_limit and host.pids_limit > 0 else None
        host.shm_size = host.shm_size or self.shm_size
        host.ipc_mode = host.ipc_mode or self.ipc_mode
        host.cgroupns_mode = host.cgroupns_mode or default_cgroupns(host, self.cgroupns_mode)

    def idmaps_of(self, host: HostConfig) -> IdMaps | None:
        """Give the maps of a container's user namespace, None if it has the host's."""
        return None if host.userns_mode == "host" else self.idmaps

    def init_of(self, host: HostConfig) -> Path | None:
        """Give the init that a container starts under, if any; one that is not alone in its pid namespace has none, as in Docker.

        Raises `Unsupported` if there is none on this host.
        """
        wanted = self.init if host.init is None else host.init
        return find_init(self.init_path) if wanted and not host.pid_mode else None

    def ulimits_of(self, host: HostConfig) -> Iterable[Ulimit]:
        """Give a container's own limits, and the daemon's that it does not name."""
        named = {limit.name for limit in host.ulimits}
        return (*host.ulimits, *(limit for limit in self.ulimits if limit.name not in named))


def _profile(setting: str) -> dict[str, Any] | None:
    if setting == UNCONFINED:
        return {}
    if setting in ("", "builtin"):
        return None
    profile = load_profile(setting)
    resolve_profile(profile, ())
    return profile
