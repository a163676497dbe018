from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ground.disks import new_disk
from sampan.api.storage import SnapshotOptions, StorageCapability, StorageContext
from sampan.linux import trees
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.storage_ground import claimed
from sampan.testing.trees import base, in_mounts, picture
from sampan_storage_vfs.config import VfsConfig
from sampan_storage_vfs.driver import VfsDriver

PLAIN = SnapshotOptions()
MEGABYTE = 1 << 20


class TestVfs(StorageDriverSuite):
    driver_class = VfsDriver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[VfsDriver]:
    driver = VfsDriver(StorageContext(tmp_path, "own"), VfsConfig())
    driver.open()
    yield driver
    driver.close()


def test_orphans_and_losses_are_mended(driver: VfsDriver) -> None:
    for key in ("lost", "layer"):
        driver.prepare(key, None, PLAIN)
    driver.commit("lost layer", "layer")
    for key in ("lost", "lost layer"):
        shutil.rmtree(driver.directory(driver.index.get(key).number))
    orphans = [driver.directory(999), driver.directory(7).with_name("7.removed")]
    for orphan in orphans:
        (orphan / "directory").mkdir(parents=True)
    expected = {**dict.fromkeys(map(str, orphans), True), "lost": True, "lost layer": False}
    assert {damage.subject: damage.repairable for damage in driver.check()} == expected
    assert {damage.subject for damage in driver.repair()} == {*map(str, orphans), "lost"}
    assert [damage.subject for damage in driver.check()] == ["lost layer"]
    assert [info.key for info in driver.walk()] == ["lost layer"]
    assert os.listdir(driver.directories) == []


def test_shifted_owners_are_claimed(driver: VfsDriver) -> None:
    assert StorageCapability.IDMAP in claimed(driver)


def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path) -> None:
    """On btrfs a copy of 64 MB takes next to nothing, and is whole."""
    with new_disk(tmp_path / "btrfs", "btrfs", 256 * MEGABYTE) as disk:
        driver = VfsDriver(StorageContext(disk.place, "own"), VfsConfig())
        driver.open()
        assert StorageCapability.SHARES_BLOCKS in claimed(driver)

        def fill(root: Path) -> None:
            base(root)
            (root / "big").write_bytes(os.urandom(64 * MEGABYTE))

        driver.prepare("key", None, PLAIN)
        in_mounts(driver.mounts("key"), fill)
        driver.commit("layer", "key")
        before = free(disk.place)
        driver.prepare("child", "layer", PLAIN)
        assert before - free(disk.place) < MEGABYTE
        assert in_mounts(driver.mounts("child"), picture) == in_mounts(driver.look("layer"), picture)
        driver.close()


def test_blocks_are_not_said_to_be_shared_elsewhere(tmp_path: Path) -> None:
    with new_disk(tmp_path / "ext4", "ext4", 16 * MEGABYTE) as disk:
        for place in (disk.place, Path("/dev/shm")):
            assert StorageCapability.SHARES_BLOCKS not in VfsDriver.probe(place).capabilities


def free(place: Path) -> int:
    trees.syncfs(place)
    space = os.statvfs(place)
    return space.f_bfree * space.f_frsize
