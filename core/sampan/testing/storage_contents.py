"""The storage suite: what a snapshot shows, whatever was done in its layers and in those under it."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings

from sampan.api.errors import Unsupported
from sampan.api.storage import SnapshotOptions, StorageCapability, StorageDriver
from sampan.testing.diffs import check_diff
from sampan.testing.idmap import check_shifted_owners
from sampan.testing.steps import Step, made_up_layers, taken
from sampan.testing.storage_ground import MEGABYTE, PLAIN, Start, claimed, make_layer
from sampan.testing.trees import Change, HandMadeLayer, base, in_mounts, picture, random_changes, rework


class ContentCases:
    """Contents across layers, limits, and use of the disk."""

    layers: ClassVar[int]

    def test_an_empty_root_is_usable(self, driver: StorageDriver) -> None:
        """Mode 0755 under any umask, as a root file system is, and a view of nothing is read-only."""
        mask = os.umask(0o077)
        try:
            driver.prepare("key", None, PLAIN)
            driver.view("view", None, PLAIN)
        finally:
            os.umask(mask)
        for key in ("key", "view"):
            assert in_mounts(driver.mounts(key), lambda root: root.stat().st_mode) & 0o7777 == 0o755
            assert in_mounts(driver.mounts(key), os.listdir) == []

    def test_every_kind_of_change_across_layers(self, driver: StorageDriver, tmp_path: Path) -> None:
        """Owners, modes, attributes, links, renames, deletions, replaced and opaque directories."""
        self._compare(driver, tmp_path, [base, rework])

    @pytest.mark.parametrize("seed", range(4))
    def test_random_changes_across_layers(self, driver: StorageDriver, tmp_path: Path, seed: int) -> None:
        """Four layers of random changes look as if made in one plain directory."""
        self._compare(driver, tmp_path, [random_changes(seed * 100 + layer) for layer in range(4)])

    @settings(
        max_examples=8, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
    )  # fmt: skip
    @given(layers=made_up_layers(4))
    def test_any_changes_across_layers(
        self, driver: StorageDriver, tmp_path: Path, layers: list[list[Step]]
    ) -> None:  # fmt: skip
        """Whatever is done in each layer looks as if done in one plain directory, and `diff` tells just that."""
        self._compare(driver, tmp_path, [taken(layer) for layer in layers])
        for info in reversed(list(driver.walk())):
            driver.remove(info.key)

    def test_a_file_changed_in_part(self, driver: StorageDriver) -> None:
        """Appended to, overwritten in the middle, cut short, mapped: the rest is the parent's, and the parent keeps its own."""
        content = os.urandom(3 * MEGABYTE)
        driver.prepare("k", None, PLAIN)

        def fill_four(root: Path) -> None:
            for name in ("appended", "overwritten", "cut", "mapped"):
                (root / name).write_bytes(content)

        def change_four(root: Path) -> None:
            with (root / "appended").open("ab") as file:
                file.write(b"end")
            with (root / "overwritten").open("r+b") as overwritten:
                overwritten.seek(MEGABYTE)
                overwritten.write(b"middle")
            os.truncate(root / "cut", 5)
            with (root / "mapped").open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
                mapped[:5] = b"first"

        in_mounts(driver.mounts("k"), fill_four)
        driver.commit("one", "k")
        driver.prepare("k", "one", PLAIN)
        in_mounts(driver.mounts("k"), change_four)
        driver.commit("two", "k")
        middle = content[:MEGABYTE] + b"middle" + content[MEGABYTE + 6 :]
        expected = {"appended": content + b"end", "overwritten": middle, "cut": content[:5], "mapped": b"first" + content[5:]}
        assert in_mounts(driver.look("two"), contents) == expected
        assert in_mounts(driver.look("one"), contents) == dict.fromkeys(expected, content)

    def test_a_directory_of_a_lower_layer_is_renamed(self, driver: StorageDriver) -> None:
        """By rename(2), or where that is refused with EXDEV as a mv(1) does it; and a file is moved out of it, and one under it."""
        make_layer(driver, "one", None, files=["dir/a", "dir/sub/b", "dir/sub/c", "other/d"])
        driver.prepare("k", "one", PLAIN)

        def move(root: Path) -> None:
            move_directory(root / "dir", root / "new")
            (root / "new/a").rename(root / "a")
            move_directory(root / "new/sub", root / "other/sub")
            (root / "dir").mkdir()
            (root / "dir/fresh").write_text("dir/fresh")

        in_mounts(driver.mounts("k"), move)
        driver.commit("two", "k")
        driver.prepare("k", "two", PLAIN)
        expected = {"a": "dir/a", "dir/fresh": "dir/fresh", "other/d": "other/d", "other/sub/b": "dir/sub/b", "other/sub/c": "dir/sub/c"}
        assert in_mounts(driver.mounts("k"), texts) == expected
        in_mounts(driver.mounts("k"), lambda root: move_directory(root / "other", root / "dir/other"))
        driver.commit("three", "k")
        expected = {path.replace("other", "dir/other"): text for path, text in expected.items()}
        assert in_mounts(driver.look("three"), texts) == expected

    def test_permissions_of_directories_over_layers(self, driver: StorageDriver) -> None:
        """Modes and owners of a directory, and of the root, go through every commit, also where only something in it changes."""

        def make(root: Path) -> None:
            for path, mode in ((root / "private", 0o700), (root / "sticky", 0o1777), (root / "group", 0o2775)):
                path.mkdir()
                path.chmod(mode)
                os.chown(path, 5, 6)
            root.chmod(0o711)

        driver.prepare("k", None, PLAIN)
        in_mounts(driver.mounts("k"), make)
        parent = "layer0"
        driver.commit(parent, "k")
        for number in (1, 2):
            driver.prepare("k", parent, PLAIN)
            in_mounts(driver.mounts("k"), lambda root: [path.joinpath("file").write_text("x") for path in root.iterdir()])
            parent = f"layer{number}"
            driver.commit(parent, "k")
        expected = {".": 0o711, "private": 0o700, "sticky": 0o1777, "group": 0o2775}
        modes = in_mounts(driver.look(parent), lambda root: {name: (root / name).stat().st_mode & 0o7777 for name in expected})
        assert modes == expected
        assert in_mounts(driver.look(parent), lambda root: (root / "group").stat()[4:6]) == (5, 6)

    def test_a_look_shows_any_snapshot_and_writes_to_none(self, driver: StorageDriver) -> None:
        """Active, view or committed, at any height, also beside the mounts for writing, and without leaving a trace."""
        make_layer(driver, "one", None, files=["a", "b"])
        make_layer(driver, "two", "one", files=["c"], deleted=["a"])
        driver.prepare("active", "two", PLAIN)
        driver.view("view", "two", PLAIN)
        driver.prepare("first", None, PLAIN)

        def write_and_look(root: Path) -> list[str]:
            (root / "mine").write_text("x")
            (root / "b").unlink()
            return sorted(in_mounts(driver.look("active"), os.listdir))

        assert in_mounts(driver.mounts("active"), write_and_look) == ["c", "mine"]
        shown = {key: sorted(in_mounts(driver.look(key), os.listdir)) for key in ("one", "two", "active", "view", "first")}
        assert shown == {"one": ["a", "b"], "two": ["b", "c"], "active": ["c", "mine"], "view": ["b", "c"], "first": []}
        for key in shown:
            assert in_mounts(driver.look(key), write_error) == errno.EROFS
        assert sorted(in_mounts(driver.mounts("active"), os.listdir)) == ["c", "mine"]

    def test_children_do_not_see_each_other(self, driver: StorageDriver) -> None:
        """Nor does the parent change."""
        make_layer(driver, "parent", None, files=["shared"])
        driver.prepare("one", "parent", PLAIN)
        driver.prepare("two", "parent", PLAIN)
        in_mounts(driver.mounts("one"), lambda root: (root / "shared").write_text("changed by one"))
        driver.view("view", "parent", PLAIN)
        for key in ("two", "view"):
            assert in_mounts(driver.mounts(key), lambda root: (root / "shared").read_text()) == "shared"

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_a_view_is_read_only(self, driver: StorageDriver, depth: int) -> None:
        """Whatever lies under it."""
        parent = None
        for number in range(depth):
            make_layer(driver, f"layer{number}", parent, files=["file"])
            parent = f"layer{number}"
        driver.view("view", parent, PLAIN)

        assert in_mounts(driver.mounts("view"), write_error) == errno.EROFS

    def test_apply(self, driver: StorageDriver, tmp_path: Path) -> None:
        """A layer written by hand, with deletions in the form asked for, shows as it should."""
        make_layer(driver, "one", None, files=["a/1", "a/2", "b/1", "b/sub/2", "c"])
        driver.prepare("k", "one", PLAIN)
        driver.apply("k", HandMadeLayer(files=["a/3", "b/new"], deleted=["a/1", "c"], opaque=["b"]))
        driver.commit("two", "k")
        driver.view("view", "two", PLAIN)
        shown = in_mounts(driver.mounts("view"), picture)
        assert sorted(path for path, entry in shown.items() if entry.data) == ["a/2", "a/3", "b/new"]
        assert not any(path.startswith("b/sub") or path == "c" for path in shown)

    def test_many_layers(self, driver: StorageDriver) -> None:
        """A tall stack works; every layer adds one file and deletes an older one."""
        parent = None
        for number in range(self.layers):
            deleted = [f"f{number - 3}"] if number >= 3 else []
            make_layer(driver, f"layer{number}", parent, files=[f"f{number}"], deleted=deleted)
            parent = f"layer{number}"
        driver.prepare("top", parent, PLAIN)
        expected = sorted(f"f{self.layers - back}" for back in (1, 2, 3))
        assert sorted(in_mounts(driver.mounts("top"), os.listdir)) == expected

    def test_volatile_works_like_any_other(self, driver: StorageDriver, start: Start) -> None:
        """It may be mounted again, and committed."""
        make_layer(driver, "parent", None, files=["below"])
        driver.prepare("key", "parent", SnapshotOptions(volatile=True))
        in_mounts(driver.mounts("key"), lambda root: (root / "one").write_text("1"))
        driver.close()
        driver = start()
        in_mounts(driver.mounts("key"), lambda root: (root / "two").write_text("2"))
        driver.commit("name", "key")
        driver.view("view", "name", PLAIN)
        assert sorted(in_mounts(driver.mounts("view"), os.listdir)) == ["below", "one", "two"]

    def test_a_size_is_enforced_or_refused(self, driver: StorageDriver) -> None:
        """With the capability QUOTA no more than the size can be written; without it a size is refused, never ignored."""
        make_layer(driver, "parent", None, files=["below"])
        options = SnapshotOptions(size=32 * MEGABYTE)
        if StorageCapability.QUOTA not in claimed(driver):
            for make in (driver.prepare, driver.view):
                with pytest.raises(Unsupported):
                    make("key", "parent", options)
            assert [info.key for info in driver.walk()] == ["parent"]
            return
        driver.prepare("limited", "parent", options)
        driver.prepare("free", "parent", PLAIN)
        wrote, error = in_mounts(driver.mounts("limited"), lambda root: fill(root, 64))
        assert error in (errno.EDQUOT, errno.ENOSPC)
        assert 16 <= wrote <= 32
        assert in_mounts(driver.mounts("free"), lambda root: fill(root, 64)) == (64, 0)
        driver.remove("free")
        in_mounts(driver.mounts("limited"), lambda root: (root / "filled").unlink())
        assert in_mounts(driver.mounts("limited"), lambda root: fill(root, 8)) == (8, 0)
        assert in_mounts(driver.mounts("limited"), lambda root: (root / "below").read_text()) == "below"

    def test_a_limit_outlives_a_restart_and_a_commit_ends_it(self, driver: StorageDriver, start: Start) -> None:
        """What is limited stays limited; a child of what was committed is not."""
        if StorageCapability.QUOTA not in claimed(driver):
            with pytest.raises(Unsupported):
                driver.prepare("key", None, SnapshotOptions(size=32 * MEGABYTE))
            return
        driver.prepare("limited", None, SnapshotOptions(size=32 * MEGABYTE))
        in_mounts(driver.mounts("limited"), lambda root: fill(root, 4))
        driver.close()
        driver = start()
        assert in_mounts(driver.mounts("limited"), lambda root: fill(root, 64))[1] in (errno.EDQUOT, errno.ENOSPC)
        in_mounts(driver.mounts("limited"), lambda root: (root / "filled").unlink())  # btrfs can't truncate at the limit
        in_mounts(driver.mounts("limited"), lambda root: fill(root, 4))
        driver.commit("layer", "limited")
        driver.prepare("child", "layer", PLAIN)
        assert in_mounts(driver.mounts("child"), lambda root: (root / "filled").stat().st_size) == 4 * MEGABYTE
        assert in_mounts(driver.mounts("child"), lambda root: fill(root, 64)) == (64, 0)

    def test_owners_are_shifted_where_that_is_claimed(self, driver: StorageDriver) -> None:
        """With the capability IDMAP a root can be shown with shifted owners; who does not claim it may be able to, and need not."""
        if StorageCapability.IDMAP in claimed(driver):
            check_shifted_owners(driver)

    def test_usage(self, driver: StorageDriver) -> None:
        """Allocated bytes and inodes without the parent's, holes for nothing, hard links once."""

        def fill(root: Path) -> None:
            (root / "big").write_bytes(os.urandom(8 * MEGABYTE))

        def add(root: Path) -> None:
            (root / "small").write_bytes(os.urandom(MEGABYTE))
            os.link(root / "small", root / "again")
            with (root / "hole").open("wb") as file:
                file.truncate(64 * MEGABYTE)

        driver.prepare("k", None, PLAIN)
        in_mounts(driver.mounts("k"), fill)
        driver.commit("parent", "k")
        driver.prepare("child", "parent", PLAIN)
        in_mounts(driver.mounts("child"), add)
        parent, child = driver.usage("parent"), driver.usage("child")
        assert 8 * MEGABYTE <= parent.bytes < 9 * MEGABYTE
        assert parent.inodes == 2
        if child.inodes == 3:  # what it has from its parent does not count: it must be the same blocks then
            assert MEGABYTE <= child.bytes < 2 * MEGABYTE
            assert StorageCapability.SHARES_BLOCKS in claimed(driver)
        else:
            assert 9 * MEGABYTE <= child.bytes < 10 * MEGABYTE
            assert child.inodes == 4

    def _compare(self, driver: StorageDriver, tmp_path: Path, changes: list[Change]) -> None:
        """Make each change in a layer of its own and in one plain directory: all pictures must be the same, and `diff` must
        tell what they show.
        """
        plain = tmp_path / "plain"
        plain.mkdir(mode=0o755)
        parent = None
        for number, change in enumerate(changes):
            change(plain)
            driver.prepare("work", parent, PLAIN)
            in_mounts(driver.mounts("work"), change)
            assert in_mounts(driver.mounts("work"), picture) == picture(plain)
            told = check_diff(driver, "work")
            parent = f"layer{number}"
            driver.commit(parent, "work")
            assert check_diff(driver, parent) == told
            for make in (driver.view, driver.prepare):
                make("child", parent, PLAIN)
                assert in_mounts(driver.mounts("child"), picture) == picture(plain)
                driver.remove("child")
        shutil.rmtree(plain)


def fill(root: Path, megabytes: int) -> tuple[int, int]:
    """Write so many megabytes; give how many could be, and the error that ended it (0: none)."""
    wrote = 0
    try:
        with (root / "filled").open("wb", buffering=0) as file:
            for _ in range(megabytes):
                if file.write(os.urandom(MEGABYTE)) != MEGABYTE:
                    continue  # the next write tells why
                os.fsync(file.fileno())
                wrote += 1
    except OSError as error:
        return wrote, error.errno or 0
    return wrote, 0


def write_error(root: Path) -> int | None:
    """Give the error that making a file meets."""
    try:
        (root / "new").touch()
    except OSError as error:
        return error.errno
    return None


def contents(root: Path) -> dict[str, bytes]:
    """Give the content of every file of the root directory."""
    return {path.name: path.read_bytes() for path in root.iterdir()}


def texts(root: Path) -> dict[str, str]:
    """Give the text of every file of the tree."""
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def move_directory(source: Path, target: Path) -> None:
    """Rename a directory, by copying where the file system can't."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)
