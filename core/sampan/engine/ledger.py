"""The byte ledger: whose is every byte under the root, in allocated bytes, as `du` counts them.

Measuring takes no lock: beside what is being written the figures are of about now. See docs/adr/0114-what-df-counts.md.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import SampanError, host_errors
from sampan.api.storage import SnapshotInfo, SnapshotKind, Usage
from sampan.engine.containers import Containers
from sampan.engine.images import Images
from sampan.engine.metadata import Metadata
from sampan.engine.records import VolumeRecord
from sampan.engine.storage import Storage, StorageDrivers
from sampan.engine.volumes import Volumes
from sampan.linux.trees import Meter
from sampan.store import snapshots

log = logging.getLogger(__name__)


class Kind(enum.StrEnum):
    """What a line of the ledger is about."""

    LAYER = "layer"
    """An image's layer in a storage driver."""
    CONTAINER = "container"
    """A container's writable layer."""
    SCRATCH = "scratch"
    """A snapshot that is neither: a layer being unpacked, a look being taken."""
    OVERHEAD = "overhead"
    """A driver's own: index, scratch directories; on btrfs also shared blocks, as often as `du` meets them."""
    BLOB = "blob"
    """Content of images as it came."""
    VOLUME = "volume"
    LOG = "log"
    """What a container's log driver keeps."""
    BUNDLE = "bundle"
    """A container's other files."""
    METADATA = "metadata"
    """The engine's database and directories."""
    OTHER = "other"
    """Nobody's; `fsck` says more."""


@dataclass(frozen=True, slots=True)
class Line:
    """One object of the ledger, `driver` being empty where none has to do with it. Allocated bytes."""

    kind: Kind
    driver: str
    name: str
    owners: tuple[str, ...]
    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """All objects under the root; on a quiet engine their `bytes` are those of `du -s --block-size=1 ROOT`."""

    root: Path
    lines: tuple[Line, ...]

    @property
    def bytes(self) -> int:
        """Allocated bytes of everything."""
        return sum(line.bytes for line in self.lines)

    @property
    def inodes(self) -> int:
        """Inodes of everything."""
        return sum(line.inodes for line in self.lines)


class ByteLedger:
    """Measures all that is under an engine's root. What committed snapshots take is remembered: they never change."""

    def __init__(
        self, root: Path, metadata: Metadata, images: Images, containers: Containers, storage: StorageDrivers,
        volumes: Volumes,
    ) -> None:  # fmt: skip
        self._root = root
        self._metadata = metadata
        self._images = images
        self._containers = containers
        self._storage = storage
        self._volumes = volumes
        self._committed: dict[tuple[str, str, float], Usage] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def measure(self) -> Ledger:
        """Measure everything under the root. Takes as long as `du`. Raises `System` if the disk can't be read."""
        volumes = await self._volume_directories()
        in_drivers = [line for storage in self._storage.opened() for line in await self._snapshots(storage)]
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, lambda: list(self._under_root(in_drivers, volumes)))
        return Ledger(self._root, (*in_drivers, *found))

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _snapshots(self, storage: Storage) -> list[Line]:
        owners = self._metadata.database.query(lambda tx: snapshots.of_driver(tx, storage.name))
        infos = await storage.call_for_long(lambda: list(storage.driver.walk()))
        used = await asyncio.gather(*(self._usage(storage, info) for info in infos))
        known = {(storage.name, info.key, info.created) for info in infos}
        self._committed = {k: v for k, v in self._committed.items() if k[0] != storage.name or k in known}
        ids = {key: tuple(owner.owner_id for owner in some) for key, some in owners.items()}
        return [
            Line(self._kind(info), storage.name, info.key, ids.get(info.key, ()), usage.bytes, usage.inodes)
            for info, usage in zip(infos, used, strict=True)
        ]

    def _kind(self, info: SnapshotInfo) -> Kind:
        if info.kind is SnapshotKind.COMMITTED:
            return Kind.LAYER
        return Kind.CONTAINER if self._containers.has(info.key) else Kind.SCRATCH

    async def _usage(self, storage: Storage, info: SnapshotInfo) -> Usage:
        key = (storage.name, info.key, info.created)
        if (known := self._committed.get(key)) is not None:
            return known
        try:
            usage = await storage.call_for_long(storage.driver.usage, info.key)
        except SampanError as error:  # removed meanwhile, or lost
            log.info("measure snapshot %s: %s", info.key, error)
            return Usage(0, 0)
        if info.kind is SnapshotKind.COMMITTED:
            self._committed[key] = usage
        return usage

    async def _volume_directories(self) -> dict[Path, VolumeRecord]:
        """Give for each volume what it has directly under its driver's directory."""
        found = {}
        for record in self._volumes.all():
            base = self._root / "volumes" / record.driver
            try:
                path = await self._volumes.mountpoint(record)
            except SampanError:
                continue
            if path is not None and path.is_relative_to(base) and path != base:
                found[base / path.relative_to(base).parts[0]] = record
        return found

    def _under_root(self, in_drivers: Iterable[Line], volumes: dict[Path, VolumeRecord]) -> Iterator[Line]:
        """Walk all that is on disk, once; of a storage driver's part only what its snapshots leave over is given."""
        meter = Meter()
        with host_errors(f"measure {self._root}"):
            yield _line(Kind.METADATA, str(self._root), meter.alone(self._root))
            for path in _listed(self._root):
                if path.name == "storage":
                    yield _line(Kind.METADATA, path.name, meter.alone(path))
                    for driver in _listed(path):
                        yield _rest(driver.name, meter.any(driver), in_drivers)
                elif path.name == "content":
                    yield from self._content(meter, path)
                elif path.name == "volumes":
                    yield from _volumes(meter, path, volumes)
                elif path.name == "containers":
                    yield from self._container_files(meter, path)
                elif path.name == "lock" or path.name.startswith("metadata.db"):
                    yield _line(Kind.METADATA, path.name, meter.any(path))
                else:
                    yield _line(Kind.OTHER, path.name, meter.any(path))

    def _content(self, meter: Meter, content: Path) -> Iterator[Line]:
        needed = self._images.blobs_needed()
        yield _line(Kind.METADATA, content.name, meter.alone(content))
        for path in _listed(content):
            if path.name != "blobs":
                yield _line(Kind.METADATA, f"content/{path.name}", meter.any(path))
                continue
            yield _line(Kind.METADATA, "content/blobs", meter.alone(path))
            for algorithm in _listed(path):
                yield _line(Kind.METADATA, f"content/blobs/{algorithm.name}", meter.alone(algorithm))
                for blob in _listed(algorithm):
                    digest = f"{algorithm.name}:{blob.name}"
                    kind = Kind.BLOB if digest in needed else Kind.OTHER
                    yield _line(kind, digest, meter.any(blob), owners=tuple(needed.get(digest, ())))

    def _container_files(self, meter: Meter, containers: Path) -> Iterator[Line]:
        yield _line(Kind.METADATA, containers.name, meter.alone(containers))
        for directory in _listed(containers):
            if not self._containers.has(directory.name):
                yield _line(Kind.OTHER, f"containers/{directory.name}", meter.any(directory))
                continue
            yield _line(Kind.LOG, directory.name, meter.any(directory / "logs"))
            rest = [meter.any(path) for path in _listed(directory) if path.name != "logs"]
            yield _line(Kind.BUNDLE, directory.name, _sum([meter.alone(directory), *rest]))


def _listed(directory: Path) -> list[Path]:
    """Give what is in a directory; nothing if it has just gone, or is none."""
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _line(kind: Kind, name: str, measured: tuple[int, int], *, driver: str = "", owners: tuple[str, ...] = ()) -> Line:
    return Line(kind, driver, name, owners, *measured)


def _sum(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _rest(driver: str, measured: tuple[int, int], in_drivers: Iterable[Line]) -> Line:
    """Give what a storage driver's directory takes beyond its snapshots."""
    own = [line for line in in_drivers if line.driver == driver]
    taken = _sum([(line.bytes, line.inodes) for line in own])
    return _line(Kind.OVERHEAD, f"storage/{driver}", (measured[0] - taken[0], measured[1] - taken[1]), driver=driver)


def _volumes(meter: Meter, base: Path, volumes: dict[Path, VolumeRecord]) -> Iterator[Line]:
    yield _line(Kind.METADATA, base.name, meter.alone(base))
    for driver in _listed(base):
        yield _line(Kind.OVERHEAD, f"volumes/{driver.name}", meter.alone(driver), driver=driver.name)
        for path in _listed(driver):
            record = volumes.get(path)
            kind, name = (Kind.VOLUME, record.name) if record else (Kind.OTHER, f"volumes/{driver.name}/{path.name}")
            yield _line(kind, name, meter.any(path), driver=driver.name)
