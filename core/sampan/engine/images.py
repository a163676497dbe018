"""Images: what is known, how it is named, how it comes in and goes out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from sampan.api.errors import Conflict, InvalidArgument, NotFound
from sampan.content import archive, importer, layout, references
from sampan.content.archive import LoadedImage
from sampan.content.blobs import BlobStore
from sampan.content.images import read_config, read_manifest
from sampan.content.layout import Listed
from sampan.content.manifests import OCI_MANIFEST, Descriptor, ImageConfig
from sampan.engine.events import EventBus
from sampan.engine.metadata import Metadata
from sampan.engine.outflow import outflow
from sampan.engine.records import ImageRecord
from sampan.engine.times import from_rfc3339
from sampan.engine.unpacking import UnpackedImages
from sampan.linux import malloc
from sampan.store import blobs as blob_ledger
from sampan.store import snapshots, tags
from sampan.store.database import Transaction
from sampan.store.snapshots import SnapshotOwner

INTAKES = 16
"""Imports and loads at once; more wait. They have threads of their own: each waits for its client, however slow."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """One line of what a removal did: a tag taken away, or an image or layer deleted."""

    untagged: str = ""
    deleted: str = ""


class Images:
    """The engine's images. A name is resolved as Docker does: tag, digest, then id or the beginning of one."""

    def __init__(self, metadata: Metadata, blobs: BlobStore, unpacked: UnpackedImages, events: EventBus) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self._unpacked = unpacked
        self._events = events
        self._changing = asyncio.Lock()
        self._arriving = 0
        self._unwanted: set[str] = set()
        self._intake = ThreadPoolExecutor(INTAKES, thread_name_prefix="image-intake")
        self.users: Callable[[str], list[tuple[str, bool]]] = lambda image_id: []
        """Gives (container id, is running) of the containers made from an image; set by the engine."""

    def resolve(self, name: str) -> ImageRecord:
        """Find an image. Raises `NotFound`, or `InvalidArgument` for a beginning that fits several."""
        return self._metadata.database.query(lambda tx: self._resolve(tx, name))

    def find(self, image_id: str) -> ImageRecord | None:
        """Give the image with this id, or None if it is gone (a forced removal leaves containers without)."""
        return self._metadata.database.query(lambda tx: self._metadata.images.find(tx, image_id))

    def _resolve(self, tx: Transaction, name: str) -> ImageRecord:
        images = self._metadata.images
        if name.startswith("sha256:") and (image := images.find(tx, name)):
            return image
        try:
            full = str(references.parse(name))
        except InvalidArgument:
            full = ""
        if full and (image_id := tags.get(tx, full)):
            return images.get(tx, image_id)
        prefix = name.removeprefix("sha256:").lower()
        if prefix and all(char in "0123456789abcdef" for char in prefix):
            keys = images.keys_with_prefix(tx, f"sha256:{prefix}")
            if len(keys) > 1:
                raise InvalidArgument(f"ambiguous image id prefix: {name}")
            if keys:
                return images.get(tx, keys[0])
        if not full:
            references.parse(name)
        shown = name if ":" in name.rpartition("/")[2] or name.startswith("sha256:") else f"{name}:latest"
        raise NotFound(f"No such image: {shown}")

    def all(self) -> list[tuple[ImageRecord, list[str]]]:
        """Give every image with its tags (familiar form), newest first."""

        def look(tx: Transaction) -> list[tuple[ImageRecord, list[str]]]:
            named = tags.everything(tx)
            return [(image, named.get(image.id, [])) for image in self._metadata.images.list(tx)]

        found = self._metadata.database.query(look)
        found.sort(key=lambda pair: -pair[0].created)
        return [(image, [references.familiar(name) for name in names]) for image, names in found]

    def tags(self, image_id: str) -> list[str]:
        """Give the tags of an image, in the form that people use."""
        names = self._metadata.database.query(lambda tx: tags.of_image(tx, image_id))
        return [references.familiar(name) for name in names]

    def blobs_needed(self) -> dict[str, list[str]]:
        """Give the digest of every blob that is needed, with the ids of the images that need it."""
        return self._metadata.database.query(blob_ledger.everything)

    def config(self, image: ImageRecord) -> ImageConfig:
        """Give the image's OCI configuration."""
        return read_config(self._blobs, image.id)

    async def import_tar(
        self, stream: BinaryIO, reference: str | None, changes: Sequence[str], message: str, platform: str | None
    ) -> ImageRecord:
        """Make an image of one layer from a tar, as `docker import` does."""
        name = str(references.parse(reference)) if reference else None
        async with self.arriving():
            take = partial(importer.import_tar, stream, self._blobs, changes, message, platform)
            loaded = await asyncio.get_running_loop().run_in_executor(self._intake, take)
            image = await self._add(loaded, [name] if name else [])
        self._emit("import", image, name)
        return image

    async def add(self, loaded: LoadedImage, name: str) -> ImageRecord:
        """Record an image whose blobs the engine made; `name` is a full reference or "". Only within `arriving`."""
        image = await self._add(loaded, [name] if name else [])
        if name:
            self._emit("tag", image, name)
        return image

    async def save(self, names: Sequence[str]) -> AsyncIterator[bytes]:
        """Give images as one archive, as `docker save` does: a repository stands for all its tags, an id for an image without.

        Raises `NotFound`; see `outflow` for later errors.
        """
        wanted = self._metadata.database.query(lambda tx: self._named(tx, names))
        for image, tagged in wanted:
            self._emit("save", image, tagged[0] if tagged else None)

        def write(fd: int) -> None:
            with os.fdopen(os.dup(fd), "wb") as out:
                archive.save([self._stored(image, tagged) for image, tagged in wanted], out, self._blobs)

        return await outflow(self._intake, write)

    def _named(self, tx: Transaction, names: Sequence[str]) -> list[tuple[ImageRecord, list[str]]]:
        """Give each image once, with the tags that were asked for."""
        found: dict[str, dict[str, None]] = {}
        owners = {tag: image_id for image_id, tagged in tags.everything(tx).items() for tag in tagged}
        for name in names:
            fitting = [tag for tag in owners if _stands_for(name, tag)]
            for tag in sorted(fitting):
                found.setdefault(owners[tag], {})[tag] = None
            if not fitting:
                found.setdefault(self._resolve(tx, name).id, {})
        return [(self._metadata.images.get(tx, image_id), list(tagged)) for image_id, tagged in found.items()]

    def _stored(self, image: ImageRecord, tagged: Sequence[str]) -> LoadedImage:
        manifest = read_manifest(self._blobs, image.manifest_digest)
        described = Descriptor(
            media_type=manifest.media_type or OCI_MANIFEST,
            digest=image.manifest_digest,
            size=self._blobs.size(image.manifest_digest),
        )
        return LoadedImage(described, image.id, tuple(image.layer_sizes), tuple(tagged))

    async def load(self, stream: BinaryIO) -> list[tuple[ImageRecord, list[str]]]:
        """Take in a `docker save` archive or an OCI layout as a tar. Gives each image with its names in it."""
        async with self.arriving():
            loaded = await asyncio.get_running_loop().run_in_executor(self._intake, archive.load, stream, self._blobs)
            return [await self._take(item) for item in loaded]

    async def _take(self, loaded: LoadedImage) -> tuple[ImageRecord, list[str]]:
        names = [str(references.parse(name)) for name in loaded.references]
        image = await self._add(loaded, names)
        self._emit("load", image, names[0] if names else None)
        return image, [references.familiar(name) for name in names]

    async def sweep(self) -> None:
        """Delete blobs that came in for an image which a crash kept from being recorded; bring the index up to date."""
        await self._suspect_all()
        await self._collect()
        async with self._changing:
            await self._write_index()

    @asynccontextmanager
    async def kept_still(self) -> AsyncIterator[None]:
        """Let no image be recorded or removed meanwhile, and no blob be deleted."""
        async with self._changing:
            yield

    @property
    def blobs_settled(self) -> bool:
        """Tell whether each blob on disk should be one that an image needs: none is coming in, none waits for deletion."""
        return not (self._arriving or self._unwanted)

    async def is_index_written(self) -> bool:
        """Tell whether the layout's index names exactly the images and tags that there are; only within `kept_still`."""
        return await asyncio.to_thread(layout.is_written, self._blobs.root, self._index())

    async def _write_index(self) -> None:
        index = self._index()
        if not await asyncio.to_thread(layout.is_written, self._blobs.root, index):
            await asyncio.to_thread(layout.write, self._blobs.root, index)

    def _index(self) -> bytes:
        def look(tx: Transaction) -> bytes:
            named, sizes = tags.everything(tx), blob_ledger.sizes(tx)
            return layout.index_of(
                Listed(
                    image.manifest_type, image.manifest_digest, sizes.get(image.manifest_digest, 0), named.get(image.id, [])
                )
                for image in self._metadata.images.list(tx)
            )

        return self._metadata.database.query(look)

    async def _suspect_all(self) -> None:
        self._unwanted.update(digest for digest, _ in await asyncio.to_thread(lambda: list(self._blobs.walk())))

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """Delete no blob meanwhile: one that comes in is there before any image needs it."""
        self._arriving += 1
        try:
            yield
        except BaseException:  # some may have come in whole
            await self._suspect_all()
            raise
        finally:
            self._arriving -= 1
            await self._collect()
            await asyncio.to_thread(malloc.give_back)

    async def _collect(self) -> None:
        """Delete blobs that no image needs, as soon as nothing is coming in."""
        async with self._changing:
            if self._arriving or not self._unwanted:
                return
            gone, self._unwanted = self._unwanted, set()
            needed = self._metadata.database.query(blob_ledger.sizes)
            await asyncio.to_thread(self._delete_blobs, [digest for digest in gone if digest not in needed])

    async def _add(self, loaded: LoadedImage, names: Sequence[str]) -> ImageRecord:
        """Record an image. One that is known keeps the blobs that it has, unless some were lost: then it takes those that came."""
        image = await asyncio.to_thread(self._record, loaded)

        def change(tx: Transaction) -> None:
            known = self._metadata.images.find(tx, image.id)
            if known is None:
                self._metadata.images.insert(tx, image)
                self._need_blobs(tx, image)
            elif not all(self._blobs.has(digest, size) for digest, size in known.blobs().items()):
                self._unwanted.update(blob_ledger.remove_image(tx, image.id))
                self._metadata.images.update(tx, image)
                self._need_blobs(tx, image)
            for name in names:
                tags.put(tx, name, image.id)

        async with self._changing:
            await self._metadata.database.write(change)
            await self._write_index()
        self._unwanted.update(image.blobs())  # what came in another form than the one that is kept
        return image

    def _need_blobs(self, tx: Transaction, image: ImageRecord) -> None:
        for digest, size in image.blobs().items():
            blob_ledger.add(tx, image.id, digest, self._blobs.size(digest) if size is None else size)

    def _record(self, loaded: LoadedImage) -> ImageRecord:
        manifest = read_manifest(self._blobs, loaded.manifest.digest)
        config = read_config(self._blobs, loaded.config_digest)
        return ImageRecord(
            id=loaded.config_digest,
            manifest_digest=loaded.manifest.digest,
            manifest_type=manifest.media_type or OCI_MANIFEST,
            created=from_rfc3339(config.created or ""),
            size=sum(loaded.layer_sizes),
            layer_sizes=list(loaded.layer_sizes),
            diff_ids=config.rootfs.diff_ids,
            layers=[(layer.digest, layer.media_type, layer.size) for layer in manifest.layers],
            architecture=config.architecture,
            os=config.os or "linux",
            config=config.config,
            loaded=time.time_ns(),
        )

    async def tag(self, source: str, reference: str) -> None:
        """Give an image one more name."""
        image = self.resolve(source)
        name = str(references.parse(reference))
        async with self._changing:
            await self._metadata.database.write(lambda tx: tags.put(tx, name, image.id))
            await self._write_index()
        self._emit("tag", image, name)

    async def remove(self, name: str, *, force: bool) -> list[Deleted]:
        """Take a name away, and with the last name the image. Errors as Docker's: `Conflict` while containers use it."""
        async with self._changing:
            image = self.resolve(name)
            names = self._metadata.database.query(lambda tx: tags.of_image(tx, image.id))
            by_id = not self._names_a_tag(name, names)
            if by_id and len(names) > 1 and not force:
                raise Conflict(
                    f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced in multiple repositories"
                )
            going = names if by_id else [str(references.parse(name))]
            last = set(going) >= set(names)
            if last:
                self._check_unused(image, force=force, by_name=not by_id)
            done = await self._remove(image, going, whole=last)
            await self._write_index()
        await self._collect()
        return done

    @staticmethod
    def _names_a_tag(name: str, names: list[str]) -> bool:
        try:
            return str(references.parse(name)) in names
        except InvalidArgument:
            return False

    def _check_unused(self, image: ImageRecord, *, force: bool, by_name: bool) -> None:
        for container_id, running in self.users(image.id):
            if running:
                text = "cannot be forced" if not by_name else "must be forced"
                if force and by_name:
                    continue
                raise Conflict(
                    f"conflict: unable to {'remove repository reference' if by_name else 'delete'} {image.id[7:19]} ({text})"
                    f" - image is being used by running container {container_id[:12]}"
                )
            if not force:
                raise Conflict(
                    f"conflict: unable to delete {image.id[7:19]} (must be forced)"
                    f" - image is being used by stopped container {container_id[:12]}"
                )

    async def _remove(self, image: ImageRecord, going: Sequence[str], *, whole: bool) -> list[Deleted]:
        in_use = bool(self.users(image.id))
        delete = whole and not in_use

        def change(tx: Transaction) -> tuple[list[str], list[SnapshotOwner]]:
            for name in going:
                tags.remove(tx, name)
            if not delete:
                return [], []
            unused = blob_ledger.remove_image(tx, image.id)
            self._metadata.images.delete(tx, image.id)
            return unused, snapshots.disown(tx, "image", image.id)

        unused, unowned = await self._metadata.database.write(change)
        await self._unpacked.forget(image.id, unowned)
        done = [Deleted(untagged=references.familiar(name)) for name in going]
        for name in going:
            self._emit("untag", image, name)
        if delete:
            self._unwanted.update(unused)
            done.append(Deleted(deleted=image.id))
            self._emit("delete", image, None)
        return done

    def _delete_blobs(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self._blobs.delete(digest)

    def _emit(self, action: str, image: ImageRecord, name: str | None) -> None:
        attributes = dict(image.config.labels)
        attributes["name"] = references.familiar(name) if name else image.id
        self._events.emit("image", action, image.id, attributes)


def _stands_for(name: str, tag: str) -> bool:
    """Tell whether a name that was given to `save` is this tag, or its repository."""
    try:
        reference = references.parse_exact(name)
    except InvalidArgument:
        return False
    return tag == str(reference) or not (reference.tag or reference.digest) and tag.rpartition(":")[0] == reference.name
