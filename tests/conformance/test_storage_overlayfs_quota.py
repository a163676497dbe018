"""The overlayfs driver with limits kept by loop files: the suite with every snapshot limited, and what is special about them.

Project quotas need another kernel: tests/vm/storage.py.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.api.errors import Unsupported
from sampan.api.storage import SnapshotOptions, StorageCapability, StorageContext, StorageDriver
from sampan.linux import loops
from sampan.linux.mounts import MS_PRIVATE, MS_REC, open_mount, open_root, set_propagation
from sampan.linux.namespaces import CLONE_NEWNS, unshare
from sampan.testing.leaks import Leaks
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.storage_ground import MEGABYTE, Start, make_layer
from sampan.testing.trees import in_mounts
from sampan_storage_overlayfs import disks
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import OverlayfsDriver

SIZE = SnapshotOptions(size=16 * MEGABYTE)


class Limiting(OverlayfsDriver):
    """Limits every snapshot."""

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        super().prepare(key, parent, dataclasses.replace(options, size=options.size or 128 * MEGABYTE))


class TestEverySnapshotLimited(StorageDriverSuite):
    driver_class = Limiting
    driver_settings = {"quota": "loop"}
    layers = 8  # each is made on a loop file and copied out of it

    @pytest.mark.parametrize("operation", ["prepare", "commit", "remove"])
    def test_kill_between_any_two_steps(
        self, driver: StorageDriver, driver_root: Path, start: Start, operation: str
    ) -> None:
        """The others have no step of their own here."""
        super().test_kill_between_any_two_steps(driver, driver_root, start, operation)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OverlayfsDriver]:
    leaks = Leaks.before(mark=str(tmp_path))
    driver = started(tmp_path)
    yield driver
    driver.close()
    cleaner = started(tmp_path)
    for info in reversed(list(cleaner.walk())):
        cleaner.remove(info.key)
    assert list(cleaner.check()) == []
    cleaner.close()
    assert os.listdir(tmp_path / "snapshots") == os.listdir(tmp_path / "disks") == []
    leaks.check()


def started(root: Path) -> OverlayfsDriver:
    driver = OverlayfsDriver(StorageContext(root, "quota"), OverlayfsConfig(quota="loop"))
    driver.open()
    return driver


def devices(root: Path) -> list[str]:
    return [device.path for device in loops.devices() if device.file.startswith(f"{root}/")]


def write(content: str) -> Callable[[Path], int]:
    return lambda root: (root / "file").write_text(content)


def read(root: Path) -> str:
    return (root / "file").read_text()


def in_child(action: Callable[[], None]) -> None:
    """Run `action` in a child, which is then killed."""
    if (pid := os.fork()) == 0:
        try:
            action()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_it_is_claimed_where_it_is_set(driver: OverlayfsDriver, tmp_path: Path) -> None:
    assert StorageCapability.QUOTA in driver.capabilities()
    plain = OverlayfsDriver(StorageContext(tmp_path, "quota"), OverlayfsConfig())
    assert StorageCapability.QUOTA not in plain.capabilities()


def test_a_container_outlives_the_daemon(driver: OverlayfsDriver, tmp_path: Path) -> None:
    """The daemon is killed while a container has the snapshot mounted: there is one file system before, while and after."""
    make_layer(driver, "layer", None, files=["below"])
    driver.prepare("key", "layer", SIZE)
    with open_root(driver.mounts("key")) as container:
        file = os.open("file", os.O_RDWR | os.O_CREAT, dir_fd=container)
        os.write(file, b"written before")
        in_child(lambda: started(tmp_path).mounts("key"))
        again = started(tmp_path)
        assert len(devices(tmp_path)) == 1
        with open_root(again.look("key")) as look:
            assert read_at(look, "file") == b"written before"
        again.close()
        assert len(devices(tmp_path)) == 1  # the container's
        again = started(tmp_path)
        os.write(file, b", and after")
        with open_root(again.look("key")) as look:
            assert read_at(look, "file") == b"written before, and after"
        assert len(devices(tmp_path)) == 1
        os.close(file)
        again.close()
    driver.close()
    assert devices(tmp_path) == []
    again = started(tmp_path)
    assert in_mounts(again.mounts("key"), read) == "written before, and after"
    again.close()


def read_at(directory: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


def test_another_mount_namespace_sees_the_same_file_system(driver: OverlayfsDriver, tmp_path: Path) -> None:
    """A daemon that was started again may have another one, without the mounts of the first."""
    driver.prepare("key", None, SIZE)
    in_mounts(driver.mounts("key"), write("first"))
    mounts = driver.mounts("key")

    def elsewhere() -> None:
        unshare(CLONE_NEWNS)
        set_propagation("/", MS_PRIVATE | MS_REC)
        other = started(tmp_path)
        other.close()
        assert not (tmp_path / "snapshots/1/fs").exists()
        other.open()
        assert other.mounts("key") == mounts
        (tmp_path / "snapshots/1/fs/file").write_text("second")
        assert len(devices(tmp_path)) == 1

    in_child(elsewhere)
    assert in_mounts(driver.mounts("key"), read) == "second"
    assert len(devices(tmp_path)) == 1


def test_after_a_reboot_it_is_mounted_again(driver: OverlayfsDriver, tmp_path: Path) -> None:
    """A reboot leaves the file and nothing else, as `close` does when nobody uses it."""
    driver.prepare("key", None, SIZE)
    mounts = driver.mounts("key")
    in_mounts(mounts, write("kept"))
    driver.close()
    assert devices(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    driver.open()
    assert driver.mounts("key") == mounts
    assert in_mounts(mounts, read) == "kept"


def test_what_is_removed_while_it_is_used_is_named_and_goes(driver: OverlayfsDriver, tmp_path: Path) -> None:
    driver.prepare("key", None, SIZE)
    held = open_mount(driver.mounts("key")[0])
    driver.remove("key")
    [device] = devices(tmp_path)
    assert [damage.subject for damage in driver.check()] == [device]
    os.close(held)
    assert list(driver.check()) == []
    assert devices(tmp_path) == []


def test_a_commit_makes_an_ordinary_directory(driver: OverlayfsDriver, tmp_path: Path) -> None:
    make_layer(driver, "layer", None, files=["a/1", "b/1", "c"])
    driver.prepare("key", "layer", SIZE)

    def change(root: Path) -> None:
        (root / "c").unlink()
        shutil.rmtree(root / "b")
        (root / "b").mkdir()
        (root / "new").write_bytes(b"x" * MEGABYTE)
        os.setxattr(root / "new", "user.large", b"y" * 3000)
        os.link(root / "new", root / "link")

    in_mounts(driver.mounts("key"), change)
    told = list(driver.diff("key"))
    driver.commit("top", "key")
    assert devices(tmp_path) == os.listdir(tmp_path / "disks") == []
    assert not (tmp_path / "snapshots/2").is_mount()
    assert list(driver.diff("top")) == told
    driver.view("view", "top", SnapshotOptions())
    assert in_mounts(driver.mounts("view"), lambda root: sorted(os.listdir(root))) == ["a", "b", "link", "new"]
    assert in_mounts(driver.mounts("view"), lambda root: os.listdir(root / "b")) == []
    assert in_mounts(driver.mounts("view"), lambda root: (root / "new").stat().st_nlink) == 2


def test_what_is_deleted_is_given_back(driver: OverlayfsDriver) -> None:
    driver.prepare("key", None, SIZE)
    empty = driver.usage("key").bytes
    in_mounts(driver.mounts("key"), lambda root: (root / "file").write_bytes(os.urandom(8 * MEGABYTE)))
    assert driver.usage("key").bytes - empty > 7 * MEGABYTE
    in_mounts(driver.mounts("key"), lambda root: (root / "file").unlink())
    driver.usage("key")  # writes back, and with that the kernel tells the device what is free
    assert driver.usage("key").bytes - empty < 4 * MEGABYTE


def test_most_of_the_size_can_be_used(driver: OverlayfsDriver) -> None:
    driver.prepare("key", None, SIZE)
    free = in_mounts(driver.mounts("key"), lambda root: os.statvfs(root).f_bavail * os.statvfs(root).f_frsize)
    assert 13.5 * MEGABYTE < free < 16 * MEGABYTE
    driver.prepare("least", None, SnapshotOptions(size=disks.MINIMUM))
    in_mounts(driver.mounts("least"), lambda root: (root / "file").write_bytes(bytes(MEGABYTE // 2)))


@pytest.mark.parametrize("size", [1, 4096, disks.MINIMUM - 1])
def test_what_is_too_small(driver: OverlayfsDriver, size: int) -> None:
    with pytest.raises(Unsupported, match="at least 1048576"):
        driver.prepare("key", None, SnapshotOptions(size=size))
    assert list(driver.walk()) == []


def test_what_the_host_has_no_room_for(driver: OverlayfsDriver, tmp_path: Path) -> None:
    """A size that no file can have: the error says so, and nothing is left."""
    with pytest.raises(Exception, match="File too large|mkfs.ext4"):
        driver.prepare("key", None, SnapshotOptions(size=1 << 62))
    assert os.listdir(tmp_path / "disks") == os.listdir(tmp_path / "snapshots") == []


def test_without_mkfs_it_is_refused(driver: OverlayfsDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path: None)
    assert StorageCapability.QUOTA not in driver.capabilities()
    with pytest.raises(Unsupported, match="install e2fsprogs"):
        driver.prepare("key", None, SIZE)


def test_without_the_setting_it_is_refused_with_both_remedies(driver: OverlayfsDriver, tmp_path: Path) -> None:
    driver.prepare("limited", None, SIZE)
    in_mounts(driver.mounts("limited"), write("kept"))
    driver.close()
    other = OverlayfsDriver(StorageContext(tmp_path, "quota"), OverlayfsConfig())
    other.open()
    with pytest.raises(Unsupported, match="prjquota.*pquota.*CONFIG_QUOTA.*quota = \"loop\""):
        other.prepare("key", None, SIZE)
    assert in_mounts(other.mounts("limited"), read) == "kept"  # what is limited stays so
    other.close()


def test_a_file_that_no_snapshot_owns_is_named_and_deleted(driver: OverlayfsDriver, tmp_path: Path) -> None:
    orphan = tmp_path / "disks/77.ext4"
    orphan.write_bytes(bytes(4096))
    assert [(damage.subject, damage.repairable) for damage in driver.check()] == [(str(orphan), True)]
    assert len(list(driver.repair())) == 1
    assert not orphan.exists()


def test_a_damaged_file_system_is_an_error(driver: OverlayfsDriver, tmp_path: Path) -> None:
    driver.prepare("key", None, SIZE)
    driver.close()
    (tmp_path / "disks/1.ext4").write_bytes(bytes(16 * MEGABYTE))
    driver.open()
    for call in (driver.mounts, driver.look, driver.usage):
        with pytest.raises(Exception, match="mount the file system of snapshot 'key'.*ext4"):
            call("key")
    driver.remove("key")


def test_errno_of_a_full_one(driver: OverlayfsDriver) -> None:
    make_layer(driver, "layer", None, files=["below"])
    driver.prepare("key", "layer", SIZE)

    def fill(root: Path) -> int | None:
        try:
            (root / "file").write_bytes(bytes(17 * MEGABYTE))
        except OSError as error:
            return error.errno
        return None

    assert in_mounts(driver.mounts("key"), fill) == errno.ENOSPC
