"""What takes the space, in the figures of `docker system df`.

Two measures, never mixed in one figure (docs/adr/0114-what-df-counts.md): an image's size is the bytes of the files in its
layers, as Docker tells it and the same with every driver; all else is allocated bytes (`st_blocks * 512`), as `du` tells it.

Measuring takes no lock: beside what is being written the figures are of about now.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sampan.api.errors import NotFound, SampanError, host_errors
from sampan.content.manifests import chain_ids
from sampan.engine.container import Container
from sampan.engine.images import Images
from sampan.engine.records import ImageRecord, VolumeRecord
from sampan.engine.storage import StorageDrivers
from sampan.engine.volumes import Volumes
from sampan.linux import trees

log = logging.getLogger(__name__)

UNKNOWN = -1
"""Docker's word for a size that can't be measured: a lost snapshot, a volume that is not a directory here."""

THREADS = 2
"""Volumes that are measured at once; what else waits for threads doesn't wait for these."""


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
    """Measures images, containers and volumes."""

    def __init__(self, images: Images, storage: StorageDrivers, volumes: Volumes) -> None:
        self._images = images
        self._storage = storage
        self._volumes = volumes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="measure")

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
            return await asyncio.get_running_loop().run_in_executor(self._threads, _allocated, path)
        except SampanError as error:
            log.warning("measure volume %s: %s", record.name, error)
            return UNKNOWN

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _sized_layers(image: ImageRecord) -> dict[str, int]:
    sizes = image.layer_sizes or [size for _, _, size in image.layers]
    return dict(zip(chain_ids(image.diff_ids), sizes, strict=True))


def _allocated(path: Path) -> int:
    with host_errors(f"measure {path}"):
        try:
            return trees.measure(path)[0]
        except FileNotFoundError as error:
            raise NotFound(f"measure {path}: it is not there") from error
