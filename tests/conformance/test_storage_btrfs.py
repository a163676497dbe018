from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api.storage import Mount, SnapshotOptions, StorageContext
from sampan.linux import trees
from sampan.linux.copying import copy_tree
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.trees import in_mounts
from sampan_storage_btrfs.config import BtrfsConfig
from sampan_storage_btrfs.driver import BtrfsDriver


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs of 512 MB in a sparse file of the tests' own."""
    place = tmp_path_factory.mktemp("btrfs")
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    run("mkfs.btrfs", "--quiet", str(image))
    device = run("losetup", "--find", "--show", str(image))
    try:
        run("mount", device, str(mounted))
        try:
            yield mounted
        finally:
            run("umount", str(mounted))
    finally:
        run("losetup", "--detach", device)
        image.unlink()


def path_of(driver: BtrfsDriver, key: str) -> Path:
    return driver.directory(driver.index.get(key).number)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class TestBtrfs(StorageDriverSuite):
    driver_class = BtrfsDriver

    @pytest.fixture
    def driver_root(self, btrfs: Path) -> Iterator[Path]:
        root = btrfs / "root"
        root.mkdir(mode=0o700)
        yield root
        run("rm", "-rf", str(root))


class TestHost:
    """What is btrfs' own."""

    @pytest.fixture
    def driver(self, btrfs: Path) -> Iterator[BtrfsDriver]:
        root = btrfs / "own"
        root.mkdir()
        driver = BtrfsDriver(StorageContext(root, "own"), BtrfsConfig())
        driver.open()
        yield driver
        for info in reversed(list(driver.walk())):
            driver.remove(info.key)
        driver.close()
        run("rm", "-rf", str(root))

    def test_committed_subvolumes_are_read_only(self, driver: BtrfsDriver) -> None:
        import btrfsutil

        driver.prepare("key", None, SnapshotOptions())
        path = path_of(driver, "key")
        assert not btrfsutil.get_subvolume_read_only(path)
        driver.commit("name", "key")
        assert btrfsutil.get_subvolume_read_only(path)

    def test_a_commit_cut_off_halfway_is_undone(self, driver: BtrfsDriver) -> None:
        import btrfsutil

        driver.prepare("key", None, SnapshotOptions())
        btrfsutil.set_subvolume_read_only(path_of(driver, "key"), True)
        driver.close()
        driver.open()
        in_mounts(driver.mounts("key"), lambda root: (root / "file").touch())
        assert os.listdir(path_of(driver, "key")) == ["file"]

    def test_nested_subvolumes_go_too(self, driver: BtrfsDriver) -> None:
        import btrfsutil

        driver.prepare("key", None, SnapshotOptions())
        path = path_of(driver, "key")
        btrfsutil.create_subvolume(path / "nested")
        btrfsutil.create_subvolume(path / "nested/deeper")
        btrfsutil.set_subvolume_read_only(path / "nested/deeper", True)
        driver.remove("key")
        assert not path.exists()

    def test_usage_goes_by_what_changed(self, driver: BtrfsDriver) -> None:
        driver.prepare("key", None, SnapshotOptions())
        for number in range(2000):
            (path_of(driver, "key") / f"file{number}").write_bytes(b"x" * 5000)
        driver.commit("parent", "key")
        assert driver.usage("parent").inodes == 2001
        driver.prepare("child", "parent", SnapshotOptions())
        untouched = driver.usage("child")
        assert (untouched.bytes, untouched.inodes) == (0, 0)
        (path_of(driver, "child") / "file7").chmod(0o600)
        (path_of(driver, "child") / "file9").write_bytes(b"y" * 50_000)
        changed = driver.usage("child")
        assert (changed.bytes, changed.inodes) == (8192 + 53_248, 2)

    def test_probe_says_what_is_missing(
        self, btrfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "is not on btrfs" in BtrfsDriver.probe(tmp_path).reason
        read_only = in_mounts([Mount("bind", str(btrfs), ("bind", "ro"))], BtrfsDriver.probe)
        assert "Read-only file system" in read_only.reason
        monkeypatch.setitem(sys.modules, "btrfsutil", None)
        reason = BtrfsDriver.probe(btrfs).reason
        assert "apt-get install libbtrfsutil-dev" in reason
        assert 'pip install "sampan[btrfs]"' in reason

    def test_vfs_copies_by_reflink(self, btrfs: Path) -> None:
        source, copy = btrfs / "source", btrfs / "copy"
        source.mkdir()
        (source / "file").write_bytes(os.urandom(64 << 20))
        trees.syncfs(btrfs)
        before = os.statvfs(btrfs).f_bfree
        copy_tree(source, copy)
        trees.syncfs(btrfs)
        taken = (before - os.statvfs(btrfs).f_bfree) * os.statvfs(btrfs).f_frsize
        assert (copy / "file").read_bytes() == (source / "file").read_bytes()
        run("rm", "-rf", str(source), str(copy))
        assert taken < 1 << 20
