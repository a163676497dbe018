from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from sampan import plugins
from sampan.api.storage import SnapshotOptions
from sampan.engine.metadata import Metadata
from sampan.engine.storage import StorageDrivers
from sampan.settings import Settings


def test_a_repair_looks_again_at_each_orphan_before_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may come back to a layer that was nobody's, while the repair removes another."""

    async def main() -> None:
        metadata = await Metadata.open(tmp_path / "metadata.db")
        storage = StorageDrivers(Settings(root=tmp_path, storage_driver="vfs"), plugins.discover(), metadata)
        await storage.open()
        driver = (await storage.get("vfs")).driver
        for key in ("one", "two"):
            driver.prepare(key, None, SnapshotOptions())
        remove = driver.remove
        with ExitStack() as coming_back:

            def remove_and_come_back(key: str) -> None:
                remove(key)
                coming_back.enter_context(storage.changing("vfs", "one" if key == "two" else "two"))

            monkeypatch.setattr(driver, "remove", remove_and_come_back)
            assert len(await storage.repair("vfs")) == 1
            assert len(list(driver.walk())) == 1
        await storage.close()
        metadata.database.close()

    asyncio.run(main())
