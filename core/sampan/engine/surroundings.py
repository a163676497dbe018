"""What a start finds out besides the container's record, and its spec is built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.api.network import SandboxKind
from sampan.engine.defaults import Defaults
from sampan.engine.records import MountPoint
from sampan.engine.users import User


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One start.

    `files` are the engine's own files to bind: destination → path. `namespaces` are those shared with another container or
    the host: type → path to join, or "" for the host's. `environment`: variables that the container's own may replace.
    `shm`: the directory on the host that is its /dev/shm, None for one of the container's own or none at all.
    """

    user: User
    cgroups_path: str
    files: Mapping[str, Path]
    namespaces: Mapping[str, str]
    sandbox: SandboxKind
    mounts: Sequence[MountPoint]
    hostname: str
    environment: Sequence[str] = ()
    shm: Path | None = None
    defaults: Defaults = Defaults()
