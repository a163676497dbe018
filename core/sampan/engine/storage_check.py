"""What the storage drivers have compared with what the records say: orphans, what is lost, what the ledger has wrong."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sampan.api.storage import Damage, SnapshotInfo
from sampan.engine.metadata import Metadata
from sampan.store import snapshots
from sampan.store.database import Transaction
from sampan.store.snapshots import SnapshotOwner


class Mismatch(enum.StrEnum):
    """Which way a driver and the records differ."""

    ORPHAN = "orphan"
    """A snapshot that no container and no image owns."""
    LOST = "lost"
    """A snapshot that is owned and is not there."""
    STRAY = "stray"
    """An owner in the ledger that is no more, or has its snapshot in another driver."""
    UNRECORDED = "unrecorded"
    """A container whose snapshot the ledger doesn't have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a driver. `mismatch` is None for what the driver itself found; `owner` is whose it is."""

    driver: str
    damage: Damage
    mismatch: Mismatch | None = None
    owner: SnapshotOwner | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """What the store says of snapshots: the ledger, containers by id with their driver, and the ids of the images."""

    owners: Collection[SnapshotOwner]
    containers: Mapping[str, str]
    images: Collection[str]

    def owned(self, driver: str, infos: Sequence[SnapshotInfo]) -> set[str]:
        """Give the keys of the snapshots in a driver that a container or an image has, or builds on."""
        keys = {owner.key for owner in self.owners if owner.driver == driver and self.is_true(owner)}
        keys |= {key for key, used in self.containers.items() if used == driver}
        for info in reversed(infos):
            if info.key in keys and info.parent is not None:
                keys.add(info.parent)
        return keys

    def is_true(self, owner: SnapshotOwner) -> bool:
        """Tell whether an owner in the ledger is there, and has its snapshot in that driver."""
        if owner.owner_kind == "container":
            return self.containers.get(owner.owner_id) == owner.driver
        return owner.owner_id in self.images


def read_records(metadata: Metadata) -> Records:
    """Give what the store says now."""

    def look(tx: Transaction) -> Records:
        return Records(
            snapshots.everything(tx),
            {record.id: record.storage_driver for record in metadata.containers.list(tx)},
            {image.id for image in metadata.images.list(tx)},
        )

    return metadata.database.query(look)


def compare(driver: str, infos: Sequence[SnapshotInfo], records: Records) -> Iterator[Finding]:
    """Tell where the snapshots of a driver, as its `walk` gives them, and the records differ; children before parents."""
    owned = records.owned(driver, infos)
    for info in reversed(infos):
        if info.key not in owned:
            damage = Damage(info.key, "no container and no image owns it", "remove it", repairable=True)
            yield Finding(driver, damage, Mismatch.ORPHAN)
    keys = {info.key for info in infos}
    for owner in records.owners:
        if owner.driver == driver:
            yield from _check_owner(owner, keys, records)
    recorded = {owner.key for owner in records.owners if owner.driver == driver}
    for container_id, used in sorted(records.containers.items()):
        if used == driver and container_id not in recorded:
            owner = SnapshotOwner(driver, container_id, "container", container_id)
            damage = Damage(container_id, "the ledger does not have this container's snapshot", "enter it", repairable=True)
            yield Finding(driver, damage, Mismatch.UNRECORDED, owner)


def _check_owner(owner: SnapshotOwner, keys: Collection[str], records: Records) -> Iterator[Finding]:
    who = f"{owner.owner_kind} {owner.owner_id.removeprefix('sha256:')[:12]}"
    if not records.is_true(owner):
        damage = Damage(owner.key, f"the ledger gives it to {who}, which does not have it", "forget that", repairable=True)
        yield Finding(owner.driver, damage, Mismatch.STRAY, owner)
    elif owner.key in keys:
        return
    elif owner.owner_kind == "image":
        damage = Damage(owner.key, f"a layer of {who} is not there", "forget it: it is unpacked when needed", repairable=True)
        yield Finding(owner.driver, damage, Mismatch.LOST, owner)
    else:
        damage = Damage(owner.key, f"the files of {who} are not there", "remove the container", repairable=False)
        yield Finding(owner.driver, damage, Mismatch.LOST, owner)
