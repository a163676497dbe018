"""The rest of fsck: containers' directories, volumes, cgroups, and what has no business under root and state directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from sampan.api.errors import host_errors
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.faults import Fault, Look, lasting, mendable
from sampan.engine.records import Status
from sampan.engine.volumes import Volumes
from sampan.linux import cgroups, trees
from sampan.linux.cgroup_layout import OWN_HIERARCHY
from sampan.settings import Settings

ROOT_FILES = ("lock", "metadata.db", "metadata.db-wal", "metadata.db-shm", "metadata.db-journal")
ROOT_DIRECTORIES = ("content", "containers", "storage", "volumes")
FILE_SYSTEMS_OWN = "lost+found"
"""What ext4 has in its root, where the engine's root is a file system of its own."""
STATE_NAMES = ("lock", "containers", "network", "netd.sock", "proxy-port", "runtimes", OWN_HIERARCHY)
MOVE_IT = "look what it is, and move it out of there"


class ContainerCheck:
    """Containers' directories under root and state directory, and their cgroups, against the containers that there are."""

    def __init__(self, settings: Settings, engine_id: str, containers: Containers) -> None:
        self._settings = settings
        self._containers = containers
        self._group = f"{settings.cgroup_parent.rstrip('/')}/{engine_id}"

    async def look(self) -> Look:
        """Tell what is wrong. A container that is being made or removed is not judged."""
        before = self._judged()
        root, state = self._settings.root / "containers", self._settings.state / "containers"
        known = set(before) | self._containers.being_made()
        faults = []
        for directory in (root, state):
            with host_errors(f"look into {directory}"):
                names = await asyncio.to_thread(os.listdir, directory)
            faults += [
                _orphan("containers", directory / name, "no container has it") for name in self._unknown(names, known)
            ]
        for container in before.values():
            found = await asyncio.to_thread(_losses, container)
            if self._judged().get(container.id) is container:
                faults += found
        groups = await asyncio.to_thread(self._groups)
        faults += [self._orphan_group(name) for name in self._unknown(groups, known)]
        return Look(tuple(faults))

    def _judged(self) -> dict[str, Container]:
        return {c.id: c for c in self._containers.all() if c.status is not Status.REMOVING}

    def _unknown(self, names: Iterable[str], known: Collection[str]) -> list[str]:
        """Give those names that are no container's, neither before the look nor now."""
        now = self._containers.being_made()
        return sorted(
            name for name in names if name not in known and name not in now and not self._containers.has(name)
        )

    def _groups(self) -> set[str]:
        bases = [Path(root + self._group) for root in cgroups.detect().roots]
        return {entry.name for base in bases if base.is_dir() for entry in base.iterdir() if entry.is_dir()}

    def _orphan_group(self, name: str) -> Fault:
        group = cgroups.Cgroup(f"{self._group}/{name}")
        if pids := group.procs():
            running = " ".join(map(str, pids[:8]))
            problem = f"no container has it, and in it there are {len(pids)} processes"
            return lasting("cgroups", group.path, problem, f"look at them, and end them: {running}")
        return mendable(
            "cgroups", group.path, "no container has it", "remove it", partial(asyncio.to_thread, group.remove)
        )


class VolumeCheck:
    """Volumes' directories against the records."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    async def look(self) -> Look:
        """Tell what is wrong. Contents are never deleted: what no record names becomes a volume."""
        found = await self._volumes.compare()
        faults = [
            lasting("volumes", record.name, f"driver {record.driver} has nothing of it",
                    "put its directory back from a copy, or remove the volume")
            for record in found.lost
        ]  # fmt: skip
        for driver, name in found.unknown:
            adopt = partial(self._volumes.adopt, driver, name)
            faults.append(
                mendable("volumes", name, f"driver {driver} has it, and no record", "record it as a volume", adopt)
            )
        for path in found.leftovers:
            if path.name.startswith("."):  # how the driver names what it makes or removes; nothing is under way now
                faults.append(_orphan("volumes", path, "a removal was cut off"))
            else:
                faults.append(lasting("volumes", str(path), "it is no volume", MOVE_IT))
        return Look(tuple(faults))


class StrayCheck:
    """Names under the root and the state directory that the engine didn't give."""

    def __init__(self, settings: Settings, drivers: Collection[str], volume_drivers: Collection[str]) -> None:
        self._settings = settings
        self._drivers = drivers
        self._volume_drivers = volume_drivers

    async def look(self) -> Look:
        """Tell what is there."""
        with host_errors(f"look into {self._settings.root}"):
            return Look(tuple(await asyncio.to_thread(lambda: list(self._strays()))))

    def _strays(self) -> Iterator[Fault]:
        root, state = self._settings.root, self._settings.state
        for directory, known in (
            (root, (*ROOT_FILES, *ROOT_DIRECTORIES, FILE_SYSTEMS_OWN)),
            (state, STATE_NAMES),
            (root / "storage", self._drivers),
            (root / "volumes", self._volume_drivers),
        ):
            for path in sorted(directory.iterdir()) if directory.is_dir() else []:
                if path.name not in known:
                    yield lasting("strays", str(path), "the engine did not put it there", MOVE_IT)


def _losses(container: Container) -> list[Fault]:
    who, directories = f"container {container.id[:12]}", container.directories
    faults = []
    missing = [path for path in (directories.root, directories.bundle, directories.logs) if not path.is_dir()]
    if missing:
        problem, remedy = f"{missing[0]} is not there", "make it again, empty; what was in it, the log perhaps, is lost"
        faults.append(mendable("containers", who, problem, remedy, partial(asyncio.to_thread, _make, missing)))
    if container.is_running and not directories.state.is_dir():
        faults.append(lasting("containers", who, f"it runs, and {directories.state} is not there", "stop and start it"))
    return faults


def _make(missing: list[Path]) -> None:
    for path in missing:
        with host_errors(f"make {path}"):
            path.mkdir(mode=0o710, parents=True, exist_ok=True)


def _orphan(area: str, path: Path, problem: str) -> Fault:
    return mendable(area, str(path), problem, "delete it", partial(asyncio.to_thread, _delete, path))


def _delete(path: Path) -> None:
    with host_errors(f"delete {path}"):
        if path.is_dir() and not path.is_symlink():
            trees.remove(path)
        else:
            path.unlink(missing_ok=True)
