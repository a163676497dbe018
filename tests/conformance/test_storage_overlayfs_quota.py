"""The overlayfs driver with limits kept by loop files: the suite with every snapshot limited, and what is special about them.

Project quotas need another kernel: tests/vm/storage.py.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sampan.api.errors import Unsupported
from sampan.api.storage import SnapshotOptions, StorageCapability, StorageContext
from sampan.linux import loops
from sampan.linux.mounts import MS_PRIVATE, MS_REC, open_mount, open_root, set_propagation
from sampan.linux.namespaces import CLONE_NEWNS, unshare
from sampan.testing.killing import killed_before_line
from sampan.testing.leaks import Leaks
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.storage_ground import MEGABYTE, claimed, make_layer
from sampan.testing.trees import in_mounts
from sampan_storage_overlayfs import disks
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import OverlayfsDriver

SIZE = SnapshotOptions(size=16 * MEGABYTE)
SMALL = SnapshotOptions(size=2 * MEGABYTE)


class Limiting(OverlayfsDriver):
    """Limits every snapshot."""

    def prepare(self, key: str, parent: str | None, options: SnapshotOptions) -> None:
        super().prepare(key, parent, dataclasses.replace(options, size=options.size or 128 * MEGABYTE))


@pytest.fixture
def memory() -> Iterator[Path]:
    """Give a directory on a tmpfs, where a sync costs nothing: who is killed leaves what is in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        root = Path(directory) / "root"
        root.mkdir(mode=0o700)
        yield root


class TestEverySnapshotLimited(StorageDriverSuite):
    driver_class = Limiting
    driver_settings = {"quota": "loop"}
    layers = 8  # each is made on a loop file and copied out of it

    @pytest.fixture
    def driver_root(self, memory: Path) -> Path:
        return memory
    test_kill_between_any_two_steps = None  # the one below does it with one snapshot: here it would take minutes


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OverlayfsDriver]:
    with leaving_nothing(tmp_path) as driver:
        yield driver


@contextmanager
def leaving_nothing(root: Path) -> Iterator[OverlayfsDriver]:
    leaks = Leaks.before(mark=str(root))
    driver = started(root)
    yield driver
    driver.close()
    cleaner = started(root)
    for info in reversed(list(cleaner.walk())):
        cleaner.remove(info.key)
    assert list(cleaner.check()) == []
    cleaner.close()
    assert os.listdir(root / "snapshots") == os.listdir(root / "disks") == []
    leaks.check()


def started(root: Path) -> OverlayfsDriver:
    driver = OverlayfsDriver(StorageContext(root, "quota"), OverlayfsConfig(quota="loop"))
    driver.open()
    return driver


def devices(root: Path) -> list[str]:
    return [device.path for device in loops.devices() if device.file.startswith(f"{root}/")]


def check_no_device(root: Path) -> None:
    """The kernel may take a moment after the last user has gone."""
    deadline = time.monotonic() + 5
    while found := devices(root):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


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
    assert StorageCapability.QUOTA in claimed(driver)
    plain = OverlayfsDriver(StorageContext(tmp_path, "quota"), OverlayfsConfig())
    assert StorageCapability.QUOTA not in claimed(plain)


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
    check_no_device(tmp_path)
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
    check_no_device(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    driver.open()
    assert driver.mounts("key") == mounts
    assert in_mounts(mounts, read) == "kept"


OPERATIONS: dict[str, Callable[[OverlayfsDriver], None]] = {
    "prepare": lambda driver: driver.prepare("key", None, SMALL),
    "commit": lambda driver: driver.commit("layer", "key"),
    "remove": lambda driver: driver.remove("key"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kill_between_any_two_steps(memory: Path, operation: str) -> None:
    """The daemon is killed anywhere in an operation, and the next one somewhere in its repair; the one after finds all or nothing."""
    with leaving_nothing(memory) as driver:
        for number in range(1, 1000):
            if operation != "prepare":
                driver.prepare("key", None, SMALL)
                (driver.directory(driver.index.get("key").number) / "fs/file").write_text("kept")
            driver.close()
            was_killed = killed_before_line(number, lambda: started(memory), OPERATIONS[operation])
            killed_before_line(1 + number % 80, lambda: None, lambda _: started(memory))
            driver.open()
            assert list(driver.check()) == [], f"killed before line {number}"
            keys = [info.key for info in driver.walk()]
            assert keys in FOUND[operation][was_killed], f"killed before line {number}"
            for key in keys:
                with open_root(driver.look(key)) as root:
                    kept = os.listdir(root) and read_at(root, "file")
                assert kept == ([] if operation == "prepare" else b"kept"), f"killed before line {number}"
                is_limited = driver.directory(driver.index.get(key).number).is_mount()
                assert is_limited is (key == "key"), f"killed before line {number}"
                driver.remove(key)
            if not was_killed:
                assert number > 20
                return
    raise AssertionError(f"{operation} did not end within 1000 lines")


FOUND: dict[str, dict[bool, list[list[str]]]] = {
    "prepare": {True: [[], ["key"]], False: [["key"]]},
    "commit": {True: [["key"], ["layer"]], False: [["layer"]]},
    "remove": {True: [["key"], []], False: [[]]},
}
"""What there may be after each operation, killed or not."""


def test_what_is_removed_while_it_is_used_is_named_and_goes(driver: OverlayfsDriver, tmp_path: Path) -> None:
    driver.prepare("key", None, SIZE)
    held = open_mount(driver.mounts("key")[0])
    driver.remove("key")
    [device] = devices(tmp_path)
    assert [damage.subject for damage in driver.check()] == [device]
    os.close(held)
    assert list(driver.check()) == []
    check_no_device(tmp_path)


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
    check_no_device(tmp_path)
    assert os.listdir(tmp_path / "disks") == []
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
    ends = time.monotonic() + 30
    while driver.usage("key").bytes - empty >= MEGABYTE:  # it writes back; ext4 then discards in a worker of its own
        assert time.monotonic() < ends, f"{driver.usage('key').bytes - empty} bytes are still held"
        time.sleep(0.01)


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
    assert StorageCapability.QUOTA not in claimed(driver)
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


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_a_full_one_can_be_mounted_and_emptied(driver: OverlayfsDriver, what: str) -> None:
    driver.prepare("making", None, SnapshotOptions())
    in_mounts(driver.mounts("making"), lambda root: [(root / f"image's {number}").touch() for number in range(3)])
    driver.commit("image", "making")
    driver.prepare("full", "image", SMALL)

    def fill(root: Path) -> None:
        number = 0
        with suppress(OSError):
            while True:
                (root / str(number)).write_bytes(bytes(1024) if what == "blocks" else b"")
                number += 1

    def delete(root: Path) -> list[str]:
        (root / "image's 1").unlink()
        for path in root.glob("[0-9]*"):
            path.unlink()
        return sorted(os.listdir(root))

    for _ in range(2):  # what was kept back is kept back again
        in_mounts(driver.mounts("full"), fill)
        assert in_mounts(driver.mounts("full"), delete) == ["image's 0", "image's 2"]
        in_mounts(driver.mounts("full"), lambda root: (root / "image's 1").touch())


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
