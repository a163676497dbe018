"""What storage can't show on every kernel: project quotas on ext4 and xfs. Run in the VM, by `make test-vm`.

Everything is on file systems in loop files of /tmp, which is the VM's own.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api.errors import Unavailable, Unsupported
from sampan.api.storage import SnapshotOptions, StorageCapability, StorageContext
from sampan.linux import project_quota
from sampan.linux.files import opened_directory
from sampan.linux.project_quota import ProjectUse
from sampan.testing.storage import StorageDriverSuite
from sampan.testing.storage_ground import MEGABYTE, PLAIN, claimed, make_layer
from sampan.testing.trees import in_mounts
from sampan_storage_overlayfs.config import OverlayfsConfig
from sampan_storage_overlayfs.driver import OverlayfsDriver

FIRST = 5000
NOTHING = ProjectUse(limit=0, bytes=0, inodes=0)
QUICK = (
    "test_a_size_is_enforced_or_refused", "test_a_limit_outlives_a_restart_and_a_commit_ends_it", "test_usage",
    "test_prepare_commit_prepare",
)  # fmt: skip
TALL = ("test_many_layers", "test_every_kind_of_change_across_layers", "test_a_view_is_read_only")
"""Cases of the suite that an emulated CPU has the time for."""


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def filesystem(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with project quotas on."""
    place = tmp_path_factory.mktemp(request.param)
    file, directory = place / "file", place / "mounted"
    directory.mkdir()
    with file.open("wb") as new:
        new.truncate(400 * MEGABYTE)
    subprocess.run(["modprobe", "loop"], check=True)
    features = ["-O", "project,quota"] if request.param == "ext4" else []
    subprocess.run([f"mkfs.{request.param}", "-q", *features, file], check=True)
    subprocess.run(["mount", "-o", "loop,prjquota", file, directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def use_of(place: Path, project: int) -> ProjectUse:
    with opened_directory(place) as fd:
        return project_quota.get_use(fd, project)


def wait_until_free(place: Path, project: int) -> None:
    """Wait for xfs, which takes deleted inodes apart in the background; limits go at once."""
    assert use_of(place, project).limit == 0
    wait_until_used(place, project, NOTHING)


def wait_until_used(place: Path, project: int, use: ProjectUse) -> None:
    """Wait for xfs likewise."""
    deadline = time.monotonic() + 20
    while use_of(place, project) != use:
        assert time.monotonic() < deadline
        os.sync()


def project_of(place: Path) -> int:
    with opened_directory(place) as fd:
        return project_quota.get_project(fd)


def start(root: Path, first: int = FIRST, last: int = FIRST) -> OverlayfsDriver:
    root.mkdir(exist_ok=True)
    driver = OverlayfsDriver(StorageContext(root, root.name), OverlayfsConfig(project_ids=(first, last)))
    driver.open()
    return driver


class TestSuite(StorageDriverSuite):
    """The suite's rules, with snapshots limited by project."""

    driver_class = OverlayfsDriver

    @pytest.fixture
    def driver_root(self, filesystem: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
        root = filesystem / "suite"
        root.mkdir(mode=0o700)
        yield root
        subprocess.run(["rm", "-r", root], check=True)


class TestOlderKernel(StorageDriverSuite):
    """Without `lowerdir+` (before Linux 6.8) a stack is mounted in another way."""

    driver_class = OverlayfsDriver
    layers = 200


for suite, cases in ((TestSuite, QUICK), (TestOlderKernel, TALL)):
    for name in dir(StorageDriverSuite):
        if name.startswith("test_") and name not in cases:
            setattr(suite, name, None)


def test_a_number_is_taken_and_given_back(filesystem: Path) -> None:
    driver = start(filesystem / "taken")
    assert StorageCapability.QUOTA in claimed(driver)
    make_layer(driver, "layer", None, files=["file"])
    assert use_of(filesystem, FIRST) == NOTHING
    driver.prepare("limited", "layer", SnapshotOptions(size=20 * MEGABYTE))
    directory = driver.directory(2)
    assert {project_of(directory), project_of(directory / "fs"), project_of(directory / "work")} == {FIRST}
    assert use_of(filesystem, FIRST).limit == 19 * MEGABYTE
    free = in_mounts(driver.mounts("limited"), lambda root: os.statvfs(root).f_blocks * os.statvfs(root).f_frsize)
    assert free == 19 * MEGABYTE  # and one to be mounted again when it is full
    with pytest.raises(Unavailable, match="in use"):
        driver.prepare("more", "layer", SnapshotOptions(size=20 * MEGABYTE))
    driver.prepare("plain", "layer", PLAIN)
    assert project_of(driver.directory(4) / "fs") == 0
    driver.remove("limited")
    wait_until_free(filesystem, FIRST)
    driver.prepare("more", "layer", SnapshotOptions(size=20 * MEGABYTE))
    for key in ("more", "plain", "layer"):
        driver.remove(key)
    driver.close()


def test_a_number_of_somebody_else_is_left_alone(filesystem: Path) -> None:
    """One has files and no limit, one a limit and no files, one belongs to another engine."""
    mine, other = start(filesystem / "mine", FIRST, FIRST + 3), start(filesystem / "other", FIRST + 2, FIRST + 2)
    theirs = filesystem / "theirs"
    theirs.mkdir()
    with opened_directory(theirs) as fd:
        project_quota.set_project(fd, FIRST)
        project_quota.set_limit(fd, FIRST + 1, 7 * MEGABYTE)
    (theirs / "file").write_bytes(bytes(MEGABYTE))
    other.prepare("other", None, SnapshotOptions(size=8 * MEGABYTE))
    os.sync()
    neighbours = [use_of(filesystem, FIRST + number) for number in range(3)]
    assert [use.inodes > 0 or use.limit > 0 for use in neighbours] == [True] * 3
    mine.prepare("mine", None, SnapshotOptions(size=9 * MEGABYTE))
    assert project_of(mine.directory(1)) == FIRST + 3
    with pytest.raises(Unavailable):
        mine.prepare("more", None, SnapshotOptions(size=9 * MEGABYTE))
    mine.remove("mine")
    mine.close()
    assert [use_of(filesystem, FIRST + number) for number in range(3)] == neighbours
    other.remove("other")
    other.close()
    subprocess.run(["rm", "-r", theirs], check=True)
    with opened_directory(filesystem) as fd:
        project_quota.set_limit(fd, FIRST + 1, 0)


def test_after_a_crash_only_ours_is_cleared(filesystem: Path) -> None:
    """What a killed daemon had begun: a limited directory that no snapshot owns, and one whose number it had not made sure of."""
    root = filesystem / "crash"
    driver = start(root)
    driver.prepare("limited", None, SnapshotOptions(size=8 * MEGABYTE))
    driver.index.forget("limited")
    unsure = driver.directory(2)
    unsure.mkdir()
    with opened_directory(unsure) as fd:
        project_quota.set_project(fd, FIRST + 1)
        project_quota.set_limit(fd, FIRST + 1, 7 * MEGABYTE)  # its owner's
    driver.close()
    driver = start(root)
    driver.close()
    wait_until_free(filesystem, FIRST)
    wait_until_used(filesystem, FIRST + 1, ProjectUse(7 * MEGABYTE, 0, 0))
    assert os.listdir(root / "snapshots") == []
    with opened_directory(filesystem) as fd:
        project_quota.set_limit(fd, FIRST + 1, 0)


def test_what_is_too_small(filesystem: Path) -> None:
    driver = start(filesystem / "small")
    with pytest.raises(Unsupported, match="the least is"):
        driver.prepare("key", None, SnapshotOptions(size=1000))
    wait_until_free(filesystem, FIRST)
    driver.prepare("key", None, SnapshotOptions(size=4 * MEGABYTE))

    def fill(root: Path) -> int | None:
        try:
            (root / "file").write_bytes(bytes(4 * MEGABYTE))
        except OSError as error:
            return error.errno
        return None

    assert in_mounts(driver.mounts("key"), fill) in (errno.EDQUOT, errno.ENOSPC)
    driver.remove("key")
    driver.close()


def test_without_project_quotas_a_size_is_refused(tmp_path: Path) -> None:
    driver = start(tmp_path / "none")
    assert StorageCapability.QUOTA not in claimed(driver)
    with pytest.raises(Unsupported, match='quota = "loop"'):
        driver.prepare("key", None, SnapshotOptions(size=8 * MEGABYTE))
    driver.close()
