from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from sampan.api.storage import ChangeKind, SnapshotOptions, StorageCapability, StorageContext, StorageDriver
from sampan.linux.cursor import Cursor
from sampan.testing.diffs import Told, check_changes, check_diff, told
from sampan.testing.steps import Step, made_up_layers, taken
from sampan.testing.trees import HandMadeLayer, base, in_mounts, random_changes, rework
from sampan_storage_overlayfs.driver import OverlayfsDriver
from sampan_storage_vfs.driver import VfsDriver

PLAIN = SnapshotOptions()


class Comparing(OverlayfsDriver):
    """overlayfs with the contract's own diff, which compares whole trees."""

    diff = StorageDriver.diff


DRIVERS = (OverlayfsDriver, Comparing, VfsDriver)


def opened(cls: type[StorageDriver], root: Path) -> StorageDriver:
    root.mkdir()
    driver = cls(StorageContext(root, "diffs"), cls.config_model()())
    driver.open()
    return driver


@pytest.fixture(params=DRIVERS, ids=lambda cls: cls.__name__)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    driver = opened(request.param, tmp_path / "root")
    yield driver
    driver.close()


def layer(driver: StorageDriver, name: str, parent: str | None, change: Callable[[Path], object]) -> None:
    driver.prepare("k", parent, PLAIN)
    in_mounts(driver.mounts("k"), change)
    driver.commit(name, "k")


def test_overlayfs_claims_it() -> None:
    assert StorageCapability.NATIVE_DIFF in OverlayfsDriver.probe(Path("/tmp")).capabilities


def test_every_kind_of_change(driver: StorageDriver) -> None:
    first, second = check_changes(driver, [base, rework])
    assert {kind for _, kind in first} == {ChangeKind.ADDED}
    assert {kind for _, kind in second} == {ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED}
    assert (b"", ChangeKind.MODIFIED) in second
    assert (b"keep/deep/er", ChangeKind.DELETED) in second  # hidden by an opaque directory
    assert (b"keep/deep/er/a", ChangeKind.DELETED) not in second
    assert (b"etc/sticky", ChangeKind.MODIFIED) in second
    assert (b"null/file", ChangeKind.ADDED) in second


@pytest.mark.parametrize("seed", range(3))
def test_random_changes(driver: StorageDriver, seed: int) -> None:
    check_changes(driver, [random_changes(seed * 10 + number) for number in range(4)])


def without_links(layers: list[list[Step]]) -> list[list[Step]]:
    """Copying up takes a file's links apart, so with them the trees of the drivers differ, and rightly what is told of them."""
    return [[step for step in layer if step.verb != "link"] for layer in layers]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A place where a commit need not wait for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@settings(
    max_examples=5, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(layers=made_up_layers(3))
def test_made_up_changes(memory: Path, layers: list[list[Step]]) -> None:
    """The same from overlayfs, from overlayfs by comparing, and from vfs; each is right for its own trees anyway."""
    answers: dict[type[StorageDriver], list[Told]] = {}
    for cls in DRIVERS:
        driver = opened(cls, memory / cls.__name__)
        try:
            made = layers if cls is not VfsDriver else without_links(layers)
            answers[cls] = check_changes(driver, [taken(layer) for layer in made])
        finally:
            driver.close()
            shutil.rmtree(memory / cls.__name__)
    assert answers[OverlayfsDriver] == answers[Comparing]


def test_what_is_touched_and_left_as_it_was(driver: StorageDriver) -> None:
    """overlayfs copies all of these up."""

    def touch(root: Path) -> None:
        (root / "bin/su").chmod(0o4755)
        with (root / "etc/passwd").open("r+b") as file:
            file.read()
        status = (root / "etc").stat()
        (root / "etc/new").touch()
        (root / "etc/new").unlink()
        os.utime(root / "etc", ns=(0, status.st_mtime_ns))
        os.chown(root / "keep/deep", 0, 0)

    assert check_changes(driver, [base, touch])[1] == []


def test_a_file_with_other_contents_and_all_else_as_it_was(driver: StorageDriver) -> None:
    def forge(root: Path) -> None:
        status = (root / "etc/passwd").stat()
        (root / "etc/passwd").write_bytes(bytes(status.st_size))
        os.utime(root / "etc/passwd", ns=(status.st_atime_ns, status.st_mtime_ns))

    told = check_changes(driver, [base, forge])[1]
    assert (b"etc/passwd", ChangeKind.MODIFIED) in told


def test_new_links_of_an_old_file(driver: StorageDriver) -> None:
    """The file is told as linked, so that a layer has both names; a layer can't link to a name below it."""

    def link(root: Path) -> None:
        os.link(root / "bin/su", root / "bin/again")
        (root / "one").mkdir()
        os.link(root / "bin/su", root / "one/more")

    told = check_changes(driver, [base, link])[1]
    assert (b"bin/su", ChangeKind.LINKED) in told
    assert {(b"bin/again", ChangeKind.ADDED), (b"one/more", ChangeKind.ADDED)} < set(told)


def test_directories_replaced_over_three_layers(driver: StorageDriver) -> None:
    """Opaque over opaque, a directory in place of a file in place of a directory, and what comes back after its deletion."""

    def fill(root: Path) -> None:
        for name in ("a/b/c/d", "f", "g/h"):
            (root / name).mkdir(parents=True)
            (root / name / "x").touch()

    def replace(root: Path) -> None:
        shutil.rmtree(root / "a")
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/y").touch()
        shutil.rmtree(root / "f")
        (root / "f").touch()
        shutil.rmtree(root / "g")

    def replace_again(root: Path) -> None:
        shutil.rmtree(root / "a/b")
        (root / "a/b/c/d").mkdir(parents=True)
        (root / "f").unlink()
        (root / "f/x").mkdir(parents=True)
        (root / "g/h").mkdir(parents=True)

    _, second, third = check_changes(driver, [fill, replace, replace_again])
    assert {(b"a/b/c", ChangeKind.DELETED), (b"g", ChangeKind.DELETED), (b"a/b/y", ChangeKind.ADDED)} < set(second)
    assert {(b"a/b/y", ChangeKind.DELETED), (b"f/x", ChangeKind.ADDED), (b"g/h", ChangeKind.ADDED)} < set(third)


def test_an_applied_layer(driver: StorageDriver) -> None:
    """Deletions of names that are there, and of one that is not; an opaque directory with a new one in it."""
    driver.prepare("k", None, PLAIN)
    driver.apply("k", HandMadeLayer(files=["a/1", "a/sub/2", "b/3", "c"]))
    assert {kind for _, kind in check_diff(driver, "k")} == {ChangeKind.ADDED}
    driver.commit("one", "k")
    driver.prepare("k", "one", PLAIN)
    driver.apply("k", HandMadeLayer(files=["a/sub/new"], deleted=["c"], opaque=["a"]))
    told = check_diff(driver, "k")
    assert [path for path, kind in told if kind is ChangeKind.DELETED] == [b"a/1", b"a/sub/2", b"c"]


def test_views_and_empty_snapshots_change_nothing(driver: StorageDriver) -> None:
    driver.prepare("first", None, PLAIN)
    assert told(driver, "first") == []
    check_changes(driver, [base, rework])
    driver.view("view", "layer1", PLAIN)
    driver.view("view of the first", "layer0", PLAIN)
    driver.prepare("empty", "layer1", PLAIN)
    driver.view("nothing", None, PLAIN)
    for key in ("view", "view of the first", "empty", "nothing"):
        assert check_diff(driver, key) == []


def test_while_it_is_mounted_and_written(driver: StorageDriver) -> None:
    """What is written meanwhile may be told or not; all that was there before is."""
    driver.prepare("k", None, PLAIN)
    in_mounts(driver.mounts("k"), base)
    driver.commit("one", "k")
    driver.prepare("k", "one", PLAIN)

    def write(root: Path) -> list[Told]:
        found = []
        for number in range(20):
            (root / f"before{number}").touch()
            answer = []
            for change in driver.diff("k"):
                answer.append((change.path, change.kind))
                shutil.rmtree(root / "etc/busy", ignore_errors=True)
                (root / "etc/busy/deep").mkdir(parents=True)
            found.append(answer)
        return found

    for number, answer in enumerate(in_mounts(driver.mounts("k"), write)):
        assert {(f"before{i}".encode(), ChangeKind.ADDED) for i in range(number + 1)} <= set(answer)


class TestOverlay:
    """What lies in an upper directory, by whoever's hand."""

    @pytest.fixture
    def overlay(self, tmp_path: Path) -> Iterator[OverlayfsDriver]:
        driver = opened(OverlayfsDriver, tmp_path / "root")
        assert isinstance(driver, OverlayfsDriver)
        driver.prepare("k", None, PLAIN)
        driver.apply("k", HandMadeLayer(files=["dir/a", "dir/sub/b", "other/c", "file"]))
        driver.commit("one", "k")
        driver.prepare("k", "one", PLAIN)
        yield driver
        driver.close()

    def compared(self, driver: OverlayfsDriver) -> Told:
        return [(change.path, change.kind) for change in StorageDriver.diff(driver, "k")]

    def test_whiteouts_as_attributes(self, overlay: OverlayfsDriver) -> None:
        """A form that layers of other engines may have: an empty file in a directory whose opacity is `x`."""
        upper = overlay.directory(2) / "fs"
        shutil.copytree(overlay.directory(1) / "fs/dir", upper / "dir", ignore=lambda *_: ["a", "sub"])
        shutil.copystat(overlay.directory(1) / "fs/dir", upper / "dir")
        (upper / "dir/a").touch()
        os.setxattr(upper / "dir/a", "trusted.overlay.whiteout", b"")
        os.setxattr(upper / "dir", "trusted.overlay.opaque", b"x")
        shown = in_mounts(overlay.look("k"), lambda root: sorted(os.listdir(root / "dir")))
        assert shown == ["sub"]
        assert (b"dir/a", ChangeKind.DELETED) in check_diff(overlay, "k")
        assert check_diff(overlay, "k") == self.compared(overlay)

    def test_an_opaque_root_hides_what_the_kernel_says(self, overlay: OverlayfsDriver) -> None:
        os.setxattr(overlay.directory(2) / "fs", "trusted.overlay.opaque", b"y")
        assert check_diff(overlay, "k") == self.compared(overlay)

    def test_a_whiteout_of_nothing(self, overlay: OverlayfsDriver) -> None:
        os.mknod(overlay.directory(2) / "fs/nothing", stat.S_IFCHR, os.makedev(0, 0))
        assert (b"nothing", ChangeKind.DELETED) not in check_diff(overlay, "k")

    def test_its_cost_goes_by_the_changes(self, overlay: OverlayfsDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tree of 3,000 files of which one is new: no more than a few are looked at."""

        def fill(root: Path) -> None:
            for number in range(3000):
                (root / f"f{number}").touch()

        in_mounts(overlay.mounts("k"), fill)
        overlay.commit("two", "k")
        overlay.prepare("k", "two", PLAIN)
        in_mounts(overlay.mounts("k"), lambda root: (root / "dir/new").touch())
        looked: list[bytes] = []
        stat_of = Cursor.stat
        monkeypatch.setattr(Cursor, "stat", lambda self, name: (looked.append(name), stat_of(self, name))[1])
        assert (b"dir/new", ChangeKind.ADDED) in told(overlay, "k")
        assert sorted(set(looked)) == [b"dir", b"new"]
