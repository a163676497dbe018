from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ground.disks import new_disk
from sampan.api.errors import SampanError, Unsupported
from sampan.api.storage import ChangeKind, Mount, SnapshotOptions, StorageCapability, StorageContext, StorageDriver
from sampan.linux import trees
from sampan.testing.diffs import check_changes, check_diff, told
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.storage_ground import claimed
from sampan.testing.trees import base, in_mounts, random_changes, rework
from sampan_storage_btrfs.config import BtrfsConfig
from sampan_storage_btrfs.driver import BtrfsDriver

PLAIN = SnapshotOptions()
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs of the tests' own, without quotas."""
    with new_disk(tmp_path_factory.mktemp("btrfs") / "mounted", "btrfs", 512 * MEGABYTE) as disk:
        yield disk.place


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs for which the first driver turns simple quotas on."""
    with new_disk(tmp_path_factory.mktemp("counting") / "mounted", "btrfs", 512 * MEGABYTE) as disk:
        yield disk.place


@contextmanager
def opened(root: Path, **settings: Any) -> Iterator[BtrfsDriver]:
    """A driver, and its snapshots removed afterwards."""
    import btrfsutil

    root.mkdir(exist_ok=True)
    driver = BtrfsDriver(StorageContext(root, "own"), BtrfsConfig.model_validate(settings))
    driver.open()
    try:
        yield driver
    finally:
        for info in reversed(list(driver.walk())):
            driver.remove(info.key)
        btrfsutil.sync(root)
        wait_until(lambda: not btrfsutil.deleted_subvolumes(root))
        driver.close()
        run("rm", "-rf", str(root))


def qgroups(place: Path) -> set[str]:
    """Give the quota groups of the file system, as btrfs-progs tells them."""
    lines = run("btrfs", "qgroup", "show", "--raw", "--sync", str(place)).splitlines()
    return {line.split()[0] for line in lines if line[:1].isdigit()}


def fill(root: Path, name: str = "filled", megabytes: int = 24) -> str:
    """Write until it is enough; give the error's name."""
    try:
        with (root / name).open("wb", buffering=0) as file:
            for _ in range(megabytes):
                file.write(os.urandom(MEGABYTE))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def wait_until(settled: Callable[[], bool]) -> None:
    """Wait for the kernel's cleaner."""
    deadline = time.monotonic() + 30
    while not settled():
        assert time.monotonic() < deadline, "the kernel is not done, or something is left behind"
        time.sleep(0.02)


def read_all(root: Path) -> None:
    for file in root.iterdir():
        file.read_bytes()


def as_by_default(driver: StorageDriver, key: str) -> list[tuple[bytes, ChangeKind]]:
    return [(change.path, change.kind) for change in StorageDriver.diff(driver, key)]


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


class Patient(BtrfsDriver):
    """Waits, when its last snapshot is gone, for the kernel to free its blocks: then no record of a quota group may be left."""

    def close(self) -> None:
        import btrfsutil

        with suppress(SampanError):
            if not list(self.walk()):
                btrfsutil.sync(self.context.root)
                wait_until(lambda: not btrfsutil.deleted_subvolumes(self.context.root))
        super().close()


class TestBtrfsWithQuotas(StorageDriverSuite):
    driver_class = Patient
    driver_settings = {"quotas": True}

    @pytest.fixture
    def driver_root(self, counting: Path) -> Iterator[Path]:
        root = counting / "root"
        root.mkdir(mode=0o700)
        yield root
        run("rm", "-rf", str(root))
        wait_until(lambda: qgroups(counting) == {"0/5"})

    def test_the_capability_is_claimed(self, driver: StorageDriver) -> None:
        assert StorageCapability.QUOTA in claimed(driver)


class TestHost:
    """What is btrfs' own."""

    @pytest.fixture
    def driver(self, btrfs: Path) -> Iterator[BtrfsDriver]:
        with opened(btrfs / "own") as driver:
            yield driver

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
        """Read-only ones and such as hold others too, and those of a committed snapshot."""
        import btrfsutil

        for name in ("key", "other"):
            driver.prepare(name, None, PLAIN)
            path = path_of(driver, name)
            (path / "directory").mkdir()
            btrfsutil.create_subvolume(path / "directory/nested")
            btrfsutil.create_subvolume(path / "directory/nested/deeper")
            for nested in ("directory/nested/deeper", "directory/nested"):
                btrfsutil.set_subvolume_read_only(path / nested, True)
        driver.commit("committed", "key")
        paths = [path_of(driver, name) for name in ("committed", "other")]
        driver.remove("committed")
        driver.remove("other")
        assert not any(path.exists() for path in paths)
        assert list(btrfsutil.SubvolumeIterator(driver.context.root, top=5)) == []

    def test_orphans_and_losses_are_mended(self, driver: BtrfsDriver) -> None:
        import btrfsutil

        for key in ("lost", "layer"):
            driver.prepare(key, None, PLAIN)
        driver.commit("lost layer", "layer")
        for key in ("lost", "lost layer"):
            driver.delete(path_of(driver, key))
        subvolume, directory = driver.directory(999), driver.directory(998)
        btrfsutil.create_subvolume(subvolume)
        btrfsutil.create_subvolume(subvolume / "nested")
        btrfsutil.set_subvolume_read_only(subvolume, True)
        (directory / "in").mkdir(parents=True)
        found = {damage.subject: damage.repairable for damage in driver.check()}
        assert found == {str(subvolume): True, str(directory): True, "lost": True, "lost layer": False}
        assert {damage.subject for damage in driver.repair()} == {str(subvolume), str(directory), "lost"}
        assert [damage.subject for damage in driver.check()] == ["lost layer"]
        assert [info.key for info in driver.walk()] == ["lost layer"]
        assert os.listdir(driver.directories) == []

    def test_shifted_owners_are_claimed(self, driver: BtrfsDriver) -> None:
        assert StorageCapability.IDMAP in claimed(driver)

    def test_usage_goes_by_what_changed(self, driver: BtrfsDriver) -> None:
        driver.prepare("key", None, SnapshotOptions())
        for number in range(2000):
            (path_of(driver, "key") / f"file{number}").write_bytes(b"x" * 5000)
        driver.commit("parent", "key")
        assert driver.usage("parent").inodes == 2001
        driver.prepare("child", "parent", SnapshotOptions())
        in_mounts(driver.mounts("child"), read_all)  # times of access are no changes
        untouched = driver.usage("child")
        assert (untouched.bytes, untouched.inodes) == (0, 0)
        (path_of(driver, "child") / "file7").chmod(0o600)
        (path_of(driver, "child") / "file9").write_bytes(b"y" * 50_000)
        changed = driver.usage("child")
        assert (changed.bytes, changed.inodes) == (8192 + 53_248, 2)

    def test_probe_says_what_is_missing(self, btrfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "is not on btrfs" in BtrfsDriver.probe(tmp_path).reason
        read_only = in_mounts([Mount("bind", str(btrfs), ("bind", "ro"))], BtrfsDriver.probe)
        assert "Read-only file system" in read_only.reason
        monkeypatch.setitem(sys.modules, "btrfsutil", None)
        reason = BtrfsDriver.probe(btrfs).reason
        assert "apt-get install libbtrfsutil-dev" in reason
        assert 'pip install "sampan[btrfs]"' in reason

    def test_deep_trees_are_removed(self, btrfs: Path) -> None:
        """A directory on btrfs does not list what came into it after it was opened."""
        (btrfs / "tree/a/b/c/d/e").mkdir(parents=True)
        (btrfs / "tree/a/b/c/d/e/file").touch()
        trees.remove(btrfs / "tree")
        assert not list(btrfs.glob("tree*"))


class TestNativeDiff:
    """Always what comparing whole trees tells, and what pictures of both tell."""

    @pytest.fixture
    def driver(self, btrfs: Path) -> Iterator[BtrfsDriver]:
        with opened(btrfs / "diffs") as driver:
            yield driver

    def test_it_is_claimed(self, btrfs: Path) -> None:
        assert StorageCapability.NATIVE_DIFF in BtrfsDriver.probe(btrfs).capabilities

    def test_every_kind_of_change(self, driver: BtrfsDriver) -> None:
        check_changes(driver, [base, rework])
        assert told(driver, "layer1") == as_by_default(driver, "layer1")

    @pytest.mark.parametrize("seed", range(8))
    def test_random_changes(self, driver: BtrfsDriver, seed: int) -> None:
        check_changes(driver, [base, *(random_changes(seed * 10 + number) for number in range(3)), shuffled(seed)])
        for info in driver.walk():
            assert told(driver, info.key) == as_by_default(driver, info.key)

    def test_links_of_a_moved_directory(self, driver: BtrfsDriver) -> None:
        """Nothing was done to the file: only its directory has another name now, or one above that."""

        def first(root: Path) -> None:
            (root / "a/b/c").mkdir(parents=True)
            (root / "a/b/c/file").write_text("x")
            (root / "a/b/c/alone").write_text("x")
            os.link(root / "a/b/c/file", root / "elsewhere")

        def second(root: Path) -> None:
            (root / "a").rename(root / "z")

        _, moved = check_changes(driver, [first, second])
        assert (b"elsewhere", ChangeKind.LINKED) in moved
        assert (b"z/b/c/alone", ChangeKind.ADDED) in moved

    def test_directories_change_places(self, driver: BtrfsDriver) -> None:
        def first(root: Path) -> None:
            for name in "ab":
                (root / name / "in").mkdir(parents=True)
                (root / name / "in" / f"only {name}").write_text(name)
                (root / name / "in/both").write_text(name)

        def second(root: Path) -> None:
            (root / "a").rename(root / "c")
            (root / "b").rename(root / "a")
            (root / "c").rename(root / "b")

        check_changes(driver, [first, second])

    def test_many_links_and_long_names(self, driver: BtrfsDriver) -> None:
        """More names than one item of the tree holds."""

        def first(root: Path) -> None:
            (root / "file").write_text("x")
            for number in range(300):
                os.link(root / "file", root / f"{number:0>200}")

        _, changed = check_changes(driver, [first, lambda root: (root / "file").chmod(0o600)])
        assert len(changed) == 301

    def test_deep_trees(self, driver: BtrfsDriver) -> None:
        def first(root: Path) -> None:
            fd = os.open(root, os.O_RDONLY)
            for _ in range(1500):
                os.mkdir("directory", dir_fd=fd)
                fd, above = os.open("directory", os.O_RDONLY, dir_fd=fd), fd
                os.close(above)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            os.close(fd)

        def second(root: Path) -> None:
            fd = os.open(root, os.O_RDONLY)
            for _ in range(1500):
                fd, above = os.open("directory", os.O_RDONLY, dir_fd=fd), fd
                os.close(above)
            os.chmod("file", 0o600, dir_fd=fd)
            os.close(fd)

        driver.prepare("k", None, PLAIN)
        in_mounts(driver.mounts("k"), first)
        driver.commit("parent", "k")
        driver.prepare("child", "parent", PLAIN)
        in_mounts(driver.mounts("child"), second)
        path = b"/".join([b"directory"] * 1500 + [b"file"])
        assert told(driver, "child") == [(path, ChangeKind.MODIFIED)] == as_by_default(driver, "child")

    def test_subvolumes_made_by_a_container(self, driver: BtrfsDriver) -> None:
        """Their own trees say what changed in them, so all is compared."""
        import btrfsutil

        def first(root: Path) -> None:
            btrfsutil.create_subvolume(root / "nested")
            (root / "nested/file").write_text("x")

        driver.prepare("k", None, PLAIN)
        in_mounts(driver.mounts("k"), first)
        driver.commit("parent", "k")
        driver.prepare("child", "parent", PLAIN)
        assert (b"nested/file", ChangeKind.DELETED) in check_diff(driver, "child")
        in_mounts(driver.mounts("child"), lambda root: btrfsutil.create_subvolume(root / "mine"))
        assert (b"mine", ChangeKind.ADDED) in check_diff(driver, "child")

    def test_a_diff_changes_nothing(self, driver: BtrfsDriver) -> None:
        """Not even times of access, which would count as changed inodes."""
        driver.prepare("k", None, PLAIN)
        in_mounts(driver.mounts("k"), base)
        driver.commit("parent", "k")
        driver.prepare("child", "parent", PLAIN)
        in_mounts(driver.mounts("child"), lambda root: (root / "etc/passwd").write_text("other"))
        before = driver.usage("child")
        assert told(driver, "child") == told(driver, "child")
        assert driver.usage("child") == before

    def test_views(self, driver: BtrfsDriver) -> None:
        driver.prepare("k", None, PLAIN)
        in_mounts(driver.mounts("k"), base)
        driver.commit("parent", "k")
        driver.view("view", "parent", PLAIN)
        driver.view("empty", None, PLAIN)
        assert told(driver, "view") == told(driver, "empty") == []


def shuffled(seed: int):  # type: ignore[no-untyped-def]
    """Give a change that moves, links and deletes what is there, directories above all."""

    def change(root: Path) -> None:
        dice = random.Random(seed)
        for number in range(25):
            paths = sorted(path for path in root.rglob("*"))
            one, other = dice.choice(paths), dice.choice([root, *paths])
            target = (other if other.is_dir() and not other.is_symlink() else other.parent) / f"new{number}"
            try:
                match dice.choice(["move", "move", "replace", "link", "delete"]):
                    case "move":
                        one.rename(target)
                    case "replace":
                        one.rename(other)
                    case "link":
                        os.link(one, target, follow_symlinks=False)
                    case "delete":
                        one.unlink()
            except OSError:  # into itself, over a full directory, a directory's link
                continue

    return change


class TestQuotas:
    """Simple quotas are used, classic ones are left alone, and nothing is turned on unasked."""

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Iterator[Path]:
        with new_disk(tmp_path / "mounted", "btrfs", 256 * MEGABYTE) as disk:
            yield disk.place

    def test_none_are_turned_on_unasked(self, fresh: Path) -> None:
        with opened(fresh / "root") as driver:
            assert StorageCapability.QUOTA not in claimed(driver)
            for make in (driver.prepare, driver.view):
                with pytest.raises(Unsupported, match=r"quotas = true under \[storage.btrfs\]"):
                    make("key", None, SnapshotOptions(size=MEGABYTE))
        with pytest.raises(subprocess.CalledProcessError):
            qgroups(fresh)

    def test_classic_ones_are_left_alone(self, fresh: Path) -> None:
        run("btrfs", "quota", "enable", str(fresh))
        with opened(fresh / "root", quotas=True) as driver:
            assert StorageCapability.QUOTA not in claimed(driver)
            with pytest.raises(Unsupported, match="classic qgroups on"):
                driver.prepare("key", None, SnapshotOptions(size=MEGABYTE))
            driver.prepare("key", None, PLAIN)
            assert {group for group in qgroups(fresh) if not group.startswith("0/")} == set()
        assert quota_mode(fresh) == "qgroup"

    def test_simple_ones_are_used_without_being_set(self, fresh: Path) -> None:
        with opened(fresh / "first", quotas=True):
            pass
        assert quota_mode(fresh) == "squota"
        with opened(fresh / "root") as driver:
            assert StorageCapability.QUOTA in claimed(driver)
            driver.prepare("key", None, SnapshotOptions(size=8 * MEGABYTE))
            assert in_mounts(driver.mounts("key"), fill) == "EDQUOT"
        assert quota_mode(fresh) == "squota"
        assert qgroups(fresh) == {"0/5"}

    def test_a_limit_survives_a_restart_and_a_mount(self, fresh: Path) -> None:
        with opened(fresh / "root", quotas=True) as driver:
            driver.prepare("key", None, SnapshotOptions(size=8 * MEGABYTE))
            driver.close()
            run("mount", "-o", "remount,ro", str(fresh))
            run("mount", "-o", "remount,rw", str(fresh))
            driver.open()
            assert in_mounts(driver.mounts("key"), fill) == "EDQUOT"

    def test_subvolumes_in_a_limited_one_are_no_way_out(self, fresh: Path) -> None:
        import btrfsutil

        def evade(root: Path) -> tuple[str, str]:
            btrfsutil.create_subvolume(root / "nested")
            return fill(root / "nested"), fill(root)

        with opened(fresh / "root", quotas=True) as driver:
            driver.prepare("key", None, SnapshotOptions(size=8 * MEGABYTE))
            assert in_mounts(driver.mounts("key"), evade) == ("EDQUOT", "EDQUOT")
        assert qgroups(fresh) == {"0/5"}

    def test_children_have_no_limit(self, fresh: Path) -> None:
        with opened(fresh / "root", quotas=True) as driver:
            driver.prepare("key", None, SnapshotOptions(size=8 * MEGABYTE))
            in_mounts(driver.mounts("key"), lambda root: fill(root, "first", 4))
            driver.commit("layer", "key")
            driver.prepare("free", "layer", PLAIN)
            assert in_mounts(driver.mounts("free"), fill) == ""
            driver.prepare("limited", "layer", SnapshotOptions(size=8 * MEGABYTE))
            assert in_mounts(driver.mounts("limited"), lambda root: fill(root, "more", 6)) == ""
            assert in_mounts(driver.mounts("limited"), fill) == "EDQUOT"

    def test_groups_of_others_stay(self, fresh: Path) -> None:
        """Nobody is in them, but they are not ours."""
        import btrfsutil

        with opened(fresh / "root", quotas=True) as driver:
            run("btrfs", "qgroup", "create", "1/9999", str(fresh))
            run("btrfs", "qgroup", "create", "2/9999", str(fresh))
            driver.prepare("key", None, SnapshotOptions(size=8 * MEGABYTE))
            driver.remove("key")
            driver.close()
            driver.open()
        btrfsutil.sync(fresh)
        assert qgroups(fresh) == {"0/5", "1/9999", "2/9999"}

    def test_blocks_shared_elsewhere_keep_a_group_until_they_go(self, fresh: Path) -> None:
        import btrfsutil

        with opened(fresh / "root", quotas=True) as driver:
            driver.prepare("key", None, PLAIN)
            path = path_of(driver, "key")
            number = btrfsutil.subvolume_id(path)
            fill(path, "file", 4)
            run("cp", "--reflink=always", str(path / "file"), str(fresh / "copy"))
            driver.remove("key")
            driver.close()
            assert qgroups(fresh) == {"0/5", f"0/{number}"}
            (fresh / "copy").unlink()

            def swept() -> bool:
                btrfsutil.sync(fresh)
                driver.open()
                driver.close()
                return qgroups(fresh) == {"0/5"}

            wait_until(swept)
            driver.open()


def quota_mode(place: Path) -> str:
    """Give how the kernel counts, from sysfs."""
    buffer = bytearray(1024)  # BTRFS_IOC_FS_INFO: struct btrfs_ioctl_fs_info_args
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x8400941F, buffer)
    finally:
        os.close(fd)
    digits = struct.unpack_from("=2Q16s", buffer)[2].hex()
    uuid = "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])
    return (Path("/sys/fs/btrfs") / uuid / "qgroups/mode").read_text().strip()
