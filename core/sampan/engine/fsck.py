"""`sampan system fsck`: every orphan and every loss in the engine's storage, named, and mended where nothing is lost by it.

It runs while containers run and images come in. What is under way is known to the part of the engine that does it, and is
not judged; and since records and disk can't be read in one moment, a fault counts only if a second look finds it too.
See docs/adr/0115-fsck-beside-a-working-engine.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from sampan.api.errors import SampanError
from sampan.engine.engine import Engine
from sampan.engine.faults import Fault, Look, lasting
from sampan.engine.fsck_content import ContentCheck
from sampan.engine.fsck_files import ContainerCheck, StrayCheck, VolumeCheck
from sampan.engine.fsck_networks import NetworkCheck
from sampan.store.database import Transaction

log = logging.getLogger(__name__)

ROUNDS = 4
"""To mend one fault may uncover another: a container's record without an owner, then its snapshot."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was mended, what is damaged now, and what could not be looked at, with the reason."""

    mended: tuple[Fault, ...]
    damage: tuple[Fault, ...]
    skipped: tuple[str, ...]


class Fsck:
    """The check of one engine. One runs at a time; more wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    async def check(self, *, deep: bool = False) -> Report:
        """Tell what is wrong, changing nothing. `deep` reads all content and verifies its digests."""
        async with self._turn:
            return await self._examine((), deep=deep)

    async def repair(self, *, deep: bool = False) -> Report:
        """Mend what can be mended without losing what an object owns."""
        async with self._turn:
            mended: list[Fault] = []
            for _ in range(ROUNDS):
                faults = [fault for fault in (await self._examine((), deep=False)).damage if fault.mend is not None]
                done = [fault for fault in faults if await _mended(fault)]
                mended += done
                if not done:
                    break
            return await self._examine(tuple(mended), deep=deep)

    async def _examine(self, mended: tuple[Fault, ...], *, deep: bool) -> Report:
        content = ContentCheck(self._engine.metadata, self._engine.images, self._engine.blobs)
        looks = await self._looks(content)
        damage: list[Fault] = []
        skipped: list[str] = []
        for look in looks:
            first = await look()
            skipped += first.skipped
            if first.faults:
                again = set((await look()).faults)
                damage += [fault for fault in first.faults if fault in again]
        if deep:
            damage += await content.verify()
        return Report(mended, tuple(dict.fromkeys(damage)), tuple(dict.fromkeys(skipped)))

    async def _looks(self, content: ContentCheck) -> list[Callable[[], Awaitable[Look]]]:
        engine = self._engine
        states = await engine.storage.states()
        strays = StrayCheck(engine.settings, {state.name for state in states}, engine.registry.names("volume"))
        containers = ContainerCheck(engine.settings, engine.metadata.engine_id, engine.containers)
        networks = NetworkCheck(
            engine.networks, engine.endpoints, engine.sandboxes, engine.connections, engine.containers
        )
        drivers = [partial(self._storage, state.name) for state in states if state.state == "open"]
        closed = [(state.name, state.reason) for state in states if state.name in engine.storage.unavailable]
        unavailable = partial(_unavailable, closed)
        return [
            self._metadata,
            content.look,
            *drivers,
            unavailable,
            containers.look,
            VolumeCheck(engine.volumes).look,
            networks.look,
            strays.look,
        ]

    async def _metadata(self) -> Look:
        def read(tx: Transaction) -> list[str]:
            return [text for (text,) in tx.execute("PRAGMA quick_check(10)") if text != "ok"]

        wrong = await self._engine.metadata.database.read(read)
        remedy = "put back a copy of the database, or begin with a new root"
        return Look(tuple(lasting("metadata", "metadata.db", text, remedy) for text in wrong))

    async def _storage(self, name: str) -> Look:
        area = f"storage {name}"
        repair = partial(self._engine.storage.repair, name)
        faults = []
        for finding in await self._engine.storage.check(name):
            damage = finding.damage
            faults.append(Fault(area, damage, repair if damage.repairable else None))
        return Look(tuple(faults))


async def _unavailable(drivers: list[tuple[str, str]]) -> Look:
    remedy = "make the driver work again, or remove what uses it with force"
    return Look(
        tuple(
            lasting(f"storage {name}", name, f"it has data here and is not available: {why}", remedy)
            for name, why in drivers
        )
    )


async def _mended(fault: Fault) -> bool:
    assert fault.mend is not None
    try:
        await fault.mend()
    except SampanError as error:
        log.warning("mend %s %s (%s): %s", fault.area, fault.damage.subject, fault.damage.problem, error)
        return False
    log.info("mended %s %s: %s: %s", fault.area, fault.damage.subject, fault.damage.problem, fault.damage.remedy)
    return True
