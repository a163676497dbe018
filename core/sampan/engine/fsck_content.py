"""The images' part of fsck: what the metadata says of images, tags and blobs, against the blobs on disk."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sampan.api.errors import host_errors
from sampan.content.blobs import BlobStore
from sampan.engine.faults import Fault, Look, lasting, mendable
from sampan.engine.images import Images
from sampan.engine.metadata import Metadata
from sampan.engine.records import ImageRecord
from sampan.store import blobs as blob_ledger
from sampan.store import tags
from sampan.store.database import Transaction

AREA = "images"
AGAIN = "load the image again"
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Records:
    """What the metadata says, at one moment. `ledger`: (image id, digest) of each blob that is needed, with its size."""

    images: dict[str, ImageRecord]
    tags: dict[str, list[str]]
    ledger: dict[tuple[str, str], int]

    @property
    def sizes(self) -> dict[str, int]:
        return {digest: size for (_, digest), size in self.ledger.items()} | {
            digest: size for image in self.images.values() for digest, size in image.blobs().items() if size is not None
        }

    @property
    def users(self) -> dict[str, list[str]]:
        """Give the images that need each blob, by what the images say themselves."""
        found: dict[str, list[str]] = {}
        for image in self.images.values():
            for digest in image.blobs():
                found.setdefault(digest, []).append(image.id)
        return found


@dataclass(frozen=True, slots=True)
class _Disk:
    """What lies in the store: bytes by digest, files that are coming in, and everything that has no business there."""

    blobs: dict[str, int]
    incoming: tuple[Path, ...]
    strays: tuple[Path, ...]


class ContentCheck:
    """Compares and mends. Beside images that come in, nothing that may be theirs is judged."""

    def __init__(self, metadata: Metadata, images: Images, blobs: BlobStore) -> None:
        self._metadata = metadata
        self._images = images
        self._blobs = blobs

    async def look(self) -> Look:
        """Tell what is wrong, by names and sizes."""
        async with self._images.kept_still():
            settled = self._images.blobs_settled
            with host_errors(f"look into {self._blobs.root}"):
                disk = await asyncio.to_thread(self._read_disk)
            records = self._metadata.database.query(self._read_records)
            settled = settled and self._images.blobs_settled
            index_written = await self._images.is_index_written()
        faults = [*self._ledger_faults(records), *self._losses(records, disk), *map(_stray, disk.strays)]
        if not index_written:
            index = str(self._blobs.root / "index.json")
            faults.append(mendable(AREA, index, "it does not name the images that there are", "write it", self._images.sweep))
        if not settled:
            return Look(tuple(faults), ("blobs that no image needs: images are coming in or going",))
        return Look((*faults, *self._orphans(records, disk)))

    async def verify(self) -> list[Fault]:
        """Read every blob that is needed, and tell those whose content is not what their digest says."""
        users = self._metadata.database.query(self._read_records).users
        wrong = await asyncio.to_thread(lambda: [digest for digest in users if not self._is_intact(digest)])
        current = self._metadata.database.query(self._read_records).users
        problem = "its content is not what its digest says"
        return [
            _damaged(digest, problem, current[digest], f"delete {self._blobs.path(digest)}, then {AGAIN}")
            for digest in wrong
            if digest in current
        ]

    # ------------------------------------------------------------------ reading

    def _read_records(self, tx: Transaction) -> _Records:
        images = {image.id: image for image in self._metadata.images.list(tx)}
        return _Records(images, tags.everything(tx), blob_ledger.rows(tx))

    def _read_disk(self) -> _Disk:
        root = self._blobs.root
        places = (root, root / "blobs", root / "blobs" / "sha256")
        own = {"blobs", "ingest", "oci-layout", "index.json"}
        strays = [path for path in root.iterdir() if path.name not in own]
        strays += [path for path in places[1].iterdir() if path.name != "sha256"]
        strays += [path for path in places[2].iterdir() if not _HEX64.fullmatch(path.name) or not path.is_file()]
        return _Disk(dict(self._blobs.walk()), tuple(sorted((root / "ingest").iterdir())), tuple(sorted(strays)))

    def _is_intact(self, digest: str) -> bool:
        """Tell whether a blob is what it should be; one that is not there is not this check's."""
        try:
            with self._blobs.path(digest).open("rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        except FileNotFoundError:
            return True

    # ------------------------------------------------------------------ judging

    def _ledger_faults(self, records: _Records) -> Iterator[Fault]:
        for image in records.images.values():
            for digest, size in image.blobs().items():
                if (image.id, digest) not in records.ledger:
                    problem = f"the ledger does not say that image {_short(image.id)} needs it"
                    yield mendable(AREA, digest, problem, "enter it", partial(self._enter, image.id, digest, size))
        for image_id, digest in records.ledger:
            if image_id not in records.images:
                problem = f"the ledger says that image {_short(image_id)} needs it, which is not there"
                yield mendable(AREA, digest, problem, "forget that", partial(self._forget_image, image_id))
        for image_id, names in records.tags.items():
            if image_id not in records.images:
                for name in names:
                    problem = f"it names image {_short(image_id)}, which is not there"
                    yield mendable(AREA, f"tag {name}", problem, "take it away", partial(self._untag, name))

    def _losses(self, records: _Records, disk: _Disk) -> Iterator[Fault]:
        users, sizes = records.users, records.sizes
        for digest in sorted(users):
            if digest not in disk.blobs:
                yield _damaged(digest, "it is not there", users[digest], AGAIN)
            elif sizes.get(digest, disk.blobs[digest]) != disk.blobs[digest]:
                yield _damaged(digest, f"it has {disk.blobs[digest]} bytes, not {sizes[digest]}", users[digest], AGAIN)

    def _orphans(self, records: _Records, disk: _Disk) -> Iterator[Fault]:
        needed = records.users.keys() | {digest for _, digest in records.ledger}
        for digest in sorted(disk.blobs.keys() - needed):
            yield mendable(AREA, digest, "no image needs it", "delete it", self._images.sweep)
        for path in disk.incoming:
            yield mendable(AREA, str(path), "it is half of a blob, and nothing is coming in", "delete it",
                           partial(asyncio.to_thread, path.unlink, missing_ok=True))  # fmt: skip

    # ------------------------------------------------------------------ mending

    async def _enter(self, image_id: str, digest: str, size: int | None) -> None:
        if size is None:
            size = await asyncio.to_thread(self._blobs.size, digest)
        await self._metadata.database.write(lambda tx: blob_ledger.add(tx, image_id, digest, size))

    async def _forget_image(self, image_id: str) -> None:
        await self._metadata.database.write(lambda tx: blob_ledger.remove_image(tx, image_id))

    async def _untag(self, name: str) -> None:
        await self._metadata.database.write(lambda tx: tags.remove(tx, name))


def _damaged(digest: str, problem: str, images: Iterable[str], remedy: str) -> Fault:
    return lasting(AREA, digest, f"{problem}; it is needed by image {', '.join(map(_short, images))}", remedy)


def _stray(path: Path) -> Fault:
    return lasting(AREA, str(path), "it is no part of the store", "look what it is, and move it out of the root")


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12]
