"""The engine's tables over the store, and the ids that belong to this root."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from sampan.engine.records import ContainerRecord, EndpointRecord, ImageRecord, NetworkRecord, VolumeRecord
from sampan.store import settings as stored
from sampan.store import tables
from sampan.store.database import Database
from sampan.store.tables import Table

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The open database and a table for each kind of record. `engine_id`: 8 hex digits, for the life of the root."""

    database: Database
    engine_id: str
    containers: Table[ContainerRecord]
    images: Table[ImageRecord]
    networks: Table[NetworkRecord]
    endpoints: Table[EndpointRecord]
    volumes: Table[VolumeRecord]

    @classmethod
    async def open(cls, path: Path) -> Metadata:
        """Open or make the database. Errors as `Database.open`."""
        database = Database.open(path)
        engine_id = await database.write(lambda tx: stored.get_or_put(tx, "engine_id", secrets.token_hex(4)))
        return cls(
            database,
            engine_id,
            Table(tables.CONTAINERS, ContainerRecord),
            Table(tables.IMAGES, ImageRecord),
            Table(tables.NETWORKS, NetworkRecord),
            Table(tables.ENDPOINTS, EndpointRecord),
            Table(tables.VOLUMES, VolumeRecord),
        )

    async def rebooted(self) -> bool:
        """Say whether the host was booted since this root was last open, and note the boot that is now."""
        boot = BOOT_ID.read_text().strip()
        before = self.database.query(lambda tx: stored.get(tx, "boot_id"))
        if before != boot:
            await self.database.write(lambda tx: stored.put(tx, "boot_id", boot))
        return before is not None and before != boot
