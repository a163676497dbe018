"""`docker commit`: what a container changed becomes a layer, and with its configuration a new image.

Source of the rules: moby's `daemon/commit.go` and `image.NewChildImage`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sampan.api.errors import Conflict, NotFound, SampanError, Unsupported
from sampan.api.storage import Change, StorageDriver
from sampan.api.types import ContainerConfig, HealthConfig
from sampan.content import references
from sampan.content.blobs import BlobStore
from sampan.content.changes import apply_changes
from sampan.content.images import LoadedImage, put_config, put_manifest
from sampan.content.layer_writer import WrittenLayer, store_layer
from sampan.content.manifests import Descriptor, ImageConfig
from sampan.engine import rootfs
from sampan.engine.changes import only_mtime_differs, without_places
from sampan.engine.container import Container
from sampan.engine.containers import Containers, attributes
from sampan.engine.events import EventBus
from sampan.engine.images import Images
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.records import ImageRecord, Status
from sampan.engine.storage import StorageDrivers
from sampan.engine.times import rfc3339

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """What the caller of a commit may say.

    `reference`: the image's name, "" for none. `config`: instead of the container's own; what it leaves open comes from the
    container. `changes`: Dockerfile instructions on top. `pause`: freeze a running container meanwhile.
    """

    reference: str = ""
    comment: str = ""
    author: str = ""
    config: ContainerConfig | None = None
    changes: Sequence[str] = ()
    pause: bool = True


class Commits:
    """Makes images of containers."""

    def __init__(
        self, containers: Containers, images: Images, storage: StorageDrivers, lifecycle: Lifecycle, blobs: BlobStore,
        events: EventBus,
    ) -> None:  # fmt: skip
        self._containers = containers
        self._images = images
        self._storage = storage
        self._lifecycle = lifecycle
        self._blobs = blobs
        self._events = events

    async def commit(self, container: Container, options: CommitOptions) -> ImageRecord:
        """Make an image of a container. Changes in its volumes are not in it.

        Raises `InvalidArgument` for a malformed name or change, `NotFound` if its image is gone, `Conflict` if the container
        is being removed. Nothing is left of one that fails.
        """
        self._check(container)
        name = str(references.parse(options.reference)) if options.reference else ""
        own = container.record.config
        config = inherited(apply_changes(options.config or own, options.changes), own)
        base = self._images.find(container.record.image_id)
        if base is None:
            raise NotFound(f"No such image: {container.record.image_id}")
        async with self._images.arriving():
            layer, written = await self._layer(container, pause=options.pause)
            loaded = await asyncio.to_thread(self._image, container, base, config, options, layer, written)
            image = await self._images.add(loaded, name)
        shown = references.familiar(name) if name else ""
        more = {"comment": options.comment, "imageID": image.id, "imageRef": shown}
        self._events.emit("container", "commit", container.id, attributes(container.record) | more)
        return image

    def _check(self, container: Container) -> None:
        if container.status is Status.REMOVING or container.when_removed().done():
            raise Conflict(f"You cannot commit container {container.id} which is being removed")
        if container.status is Status.DEAD:
            raise Conflict(f"You cannot commit container {container.id} which is Dead")

    async def _layer(self, container: Container, *, pause: bool) -> tuple[Descriptor, WrittenLayer]:
        """Store what the container changed. `Conflict` if it is removed or moved meanwhile: what was read is not all."""
        storage = await self._storage.get(container.record.storage_driver)
        async with self._frozen(container, pause=pause):
            try:
                with container.reading(storage.name):
                    stored = await storage.call_for_long(_store, storage.driver, container.id, self._blobs)
            except Conflict:
                self._check(container)
                raise
        self._check(container)
        return stored

    @asynccontextmanager
    async def _frozen(self, container: Container, *, pause: bool) -> AsyncIterator[None]:
        """Freeze a running container; one whose runtime can't is read as it runs."""
        if not pause or container.status is not Status.RUNNING:
            yield
            return
        try:
            await self._lifecycle.pause(container)
        except Unsupported as error:
            log.warning("commit %s while it runs: %s", container.id[:12], error)
            yield
            return
        except Conflict:  # paused by another, or ended just now
            yield
            return
        try:
            yield
        finally:
            try:
                await self._lifecycle.unpause(container)
            except SampanError as error:  # ended, or thawed by another
                log.info("commit %s: not thawed: %s", container.id[:12], error)

    def _image(
        self, container: Container, base: ImageRecord, config: ContainerConfig, options: CommitOptions,
        layer: Descriptor, written: WrittenLayer,
    ) -> LoadedImage:  # fmt: skip
        """Store configuration and manifest. A container that changed nothing adds no layer, as with Docker."""
        whole = self._images.config(base)
        is_empty = written.diff_id == EMPTY_LAYER
        layers = [Descriptor(media_type=kind, digest=digest, size=size) for digest, kind, size in base.layers]
        sizes, diff_ids = list(base.layer_sizes), list(base.diff_ids)
        if not is_empty:
            layers.append(layer)
            sizes.append(written.files_size)
            diff_ids.append(written.diff_id)
        created = rfc3339(time.time_ns())
        step = {
            "created": created,
            "created_by": " ".join(container.record.config.cmd or []),
            **({"author": options.author} if options.author else {}),
            **({"comment": options.comment} if options.comment else {}),
            **({"empty_layer": True} if is_empty else {}),
        }
        document = {
            **_platform(base, whole),
            "created": created,
            **({"author": options.author} if options.author else {}),
            "config": config.model_dump(by_alias=True, exclude_defaults=True),
            "history": [*(old.model_dump(exclude_defaults=True) for old in whole.history), step],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        described = put_config(self._blobs, document)
        return LoadedImage(put_manifest(self._blobs, described, layers), described.digest, tuple(sizes), ())


EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""Digest of a tar of nothing but its end."""


def _platform(base: ImageRecord, whole: ImageConfig) -> dict[str, str]:
    found = {"architecture": base.architecture, "os": base.os}
    return found | ({"variant": whole.variant} if whole.variant else {})


def _store(driver: StorageDriver, key: str, blobs: BlobStore) -> tuple[Descriptor, WrittenLayer]:
    with rootfs.opened(driver.look(key)) as root:
        return store_layer(root, _changes(driver, key), blobs)


def _changes(driver: StorageDriver, key: str) -> Iterator[Change]:
    """Give what the container changed. The root comes with any of it; alone it counts if more than its mtime differs."""
    root: Change | None = None
    for change in without_places(driver, key):
        if not change.path:
            root = change
            continue
        if root is not None:
            yield root
            root = None
        yield change
    if root is not None and not only_mtime_differs(driver, key, b"."):
        yield root


def inherited(config: ContainerConfig, own: ContainerConfig) -> ContainerConfig:
    """Give `config` with what it leaves open taken from the container's own, by Docker's rules."""
    config = config.model_copy(deep=True)
    config.user = config.user or own.user
    config.working_dir = config.working_dir or own.working_dir
    config.stop_signal = config.stop_signal or own.stop_signal
    config.exposed_ports = {**own.exposed_ports, **config.exposed_ports}
    config.volumes = {**own.volumes, **config.volumes}
    config.labels = {**own.labels, **config.labels}
    names = {item.partition("=")[0] for item in config.env}
    config.env = [*config.env, *(item for item in own.env if item.partition("=")[0] not in names)]
    if not config.entrypoint:
        config.cmd = config.cmd or own.cmd
        config.entrypoint = own.entrypoint if config.entrypoint is None else config.entrypoint
    config.healthcheck = _health(config.healthcheck, own.healthcheck)
    return config


def _health(check: HealthConfig | None, own: HealthConfig | None) -> HealthConfig | None:
    """Fill what one check leaves open from the other."""
    if check is None or own is None:
        return check or own
    return own.model_copy(update=check.model_dump(exclude_defaults=True))
