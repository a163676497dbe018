"""What takes the space: the figures of `docker system df`, and the byte ledger, which says whose every byte under the root is.

Two measures, never mixed in one figure (docs/adr/0114-what-df-counts.md): an image's size is the bytes of the files in its
layers, as Docker tells it and the same with every driver; all else is allocated bytes (`st_blocks * 512`), as `du` tells it.

Measuring takes no lock and runs in the drivers' own threads: beside what is being written the figures are of about now.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sampan.api.errors import NotFound, SampanError, host_errors
from sampan.api.storage import SnapshotInfo, SnapshotKind, Usage
from sampan.content.manifests import chain_ids
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.images import Images
from sampan.engine.metadata import Metadata
from sampan.engine.records import ImageRecord, VolumeRecord
from sampan.engine.storage import Storage, StorageDrivers
from sampan.engine.volumes import Volumes
from sampan.linux.trees import Meter, measure
from sampan.store import snapshots

log = logging.getLogger(__name__)

UNKNOWN = -1
"""Docker's word for a size that can't be measured: a lost snapshot, a volume that is not a directory here."""


THREADS = 2
"""Trees outside the storage drivers that are measured at once; what else waits for threads doesn't wait for these."""

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Sizes of all images together, each layer once, and for each image what it shares with others."""

    layers: int
    shared: dict[str, int]


@dataclass(frozen=True, slots=True)
class ContainerSizes:
    """What a container has written, and that with its image; `UNKNOWN` where its snapshot is out of reach, or gone."""

    written: int
    whole: int


class DiskUse:
    """Measures an engine's objects. What committed snapshots take is remembered: they never change."""

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
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="measure")

    # ------------------------------------------------------------------ Docker's figures

    def images(self) -> ImageSizes:
        """Add up the images' layers."""
        images = [image for image, _ in self._images.all()]
        stacks = {image.id: _sized_layers(image) for image in images}
        users = Counter(chain_id for stack in stacks.values() for chain_id in stack)
        sizes = {chain_id: size for stack in stacks.values() for chain_id, size in stack.items()}
        shared = {
            image_id: sum(size for chain_id, size in stack.items() if users[chain_id] > 1)
            for image_id, stack in stacks.items()
        }
        return ImageSizes(sum(sizes.values()), shared)

    async def containers(self, containers: Sequence[Container]) -> list[ContainerSizes]:
        """Measure what each container has written."""
        written = await asyncio.gather(*map(self._written, containers))
        images = {image.id: image.size for image, _ in self._images.all()}
        return [
            ContainerSizes(size, UNKNOWN if size == UNKNOWN else size + images.get(container.record.image_id, 0))
            for container, size in zip(containers, written, strict=True)
        ]

    async def _written(self, container: Container) -> int:
        try:
            storage = await self._storage.get(container.record.storage_driver)
            return (await storage.call_for_long(storage.driver.usage, container.id)).bytes
        except SampanError as error:
            log.warning("measure container %s: %s", container.id[:12], error)
            return UNKNOWN

    async def volumes(self, records: Sequence[VolumeRecord]) -> list[int]:
        """Measure what is in each volume; `UNKNOWN` for one without a directory here."""
        return await asyncio.gather(*map(self._in_volume, records))

    async def _in_volume(self, record: VolumeRecord) -> int:
        try:
            path = await self._volumes.mountpoint(record)
            if path is None:
                return UNKNOWN
            return (await self._run(partial(_measure, path))).bytes
        except SampanError as error:
            log.warning("measure volume %s: %s", record.name, error)
            return UNKNOWN

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ the ledger

    async def ledger(self) -> Ledger:
        """Measure everything under the root. Takes as long as `du`. Raises `System` if the disk can't be read."""
        volumes = await self._volume_directories()
        in_drivers = [line for storage in self._storage.opened() for line in await self._snapshots(storage)]
        found = await self._run(lambda: list(self._under_root(in_drivers, volumes)))
        return Ledger(self._root, (*in_drivers, *found))

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


def _sized_layers(image: ImageRecord) -> dict[str, int]:
    sizes = image.layer_sizes or [size for _, _, size in image.layers]
    return dict(zip(chain_ids(image.diff_ids), sizes, strict=True))


def _measure(path: Path) -> Usage:
    with host_errors(f"measure {path}"):
        try:
            return Usage(*measure(path))
        except FileNotFoundError as error:
            raise NotFound(f"measure {path}: it is not there") from error


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
