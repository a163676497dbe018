"""The storage suite: which snapshots there may be, and what each is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.errors import Conflict, InvalidArgument, NotFound, SampanError
from sampan.api.storage import SnapshotKind, SnapshotOptions, StorageContext, StorageDriver
from sampan.testing.storage_ground import PLAIN, Start, files_under, make_layer, told
from sampan.testing.trees import HandMadeLayer, in_mounts

HOSTILE_KEYS = (
    "../x", "a/b", "/", ".", "..", " ", "-rf", "a\nb", "index.db", "1", "x" * 255, "é" * 127, "日本語",
    "sha256:0123", "a,lowerdir+=/etc", "a:b\\c", "%s{}", "'; DROP TABLE snapshot; --",
)  # fmt: skip
MALFORMED_KEYS = ("", "a\0b", "x" * 256, "é" * 128, "\udcff")


class RuleCases:
    """States, names, parents; what is refused, and with which error."""

    driver_class: ClassVar[type[StorageDriver]]
    driver_settings: ClassVar[dict[str, Any]]

    def test_probe_leaves_nothing_and_never_raises(self, driver_root: Path, driver: StorageDriver) -> None:
        """A probe looks and goes."""
        before = files_under(driver_root)
        assert self.driver_class.probe(driver_root).supported
        assert files_under(driver_root) == before
        assert isinstance(self.driver_class.probe(Path("/proc/no/such/place")).reason, str)

    def test_unknown_setting_is_refused(self) -> None:
        """A misspelt setting is an error and not ignored."""
        with pytest.raises(ValueError, match="no_such_setting"):
            self.driver_class.config_model().model_validate({"no_such_setting": 1})

    def test_construction_touches_nothing(self, driver_root: Path) -> None:
        """`open` is the first effect on the host."""
        config = self.driver_class.config_model().model_validate(self.driver_settings)
        self.driver_class(StorageContext(driver_root, "conformance"), config)
        assert files_under(driver_root) == []

    def test_open_and_close_are_idempotent(self, driver: StorageDriver) -> None:
        """Twice is as once."""
        driver.open()
        driver.prepare("a", None, PLAIN)
        driver.open()
        assert driver.stat("a").key == "a"
        driver.close()
        driver.close()

    def test_prepare_commit_prepare(self, driver: StorageDriver) -> None:
        """A commit renames: the key is gone, the name can be a parent."""
        driver.prepare("key", None, PLAIN)
        assert told(driver, "key") == ("key", None, SnapshotKind.ACTIVE)
        driver.commit("name", "key")
        with pytest.raises(NotFound):
            driver.stat("key")
        assert told(driver, "name") == ("name", None, SnapshotKind.COMMITTED)
        driver.prepare("key", "name", PLAIN)
        driver.view("view", "name", PLAIN)
        assert told(driver, "key") == ("key", "name", SnapshotKind.ACTIVE)
        assert told(driver, "view") == ("view", "name", SnapshotKind.VIEW)

    def test_a_taken_name_is_a_conflict(self, driver: StorageDriver) -> None:
        """Keys and names share one space."""
        driver.prepare("key", None, PLAIN)
        driver.prepare("other", None, PLAIN)
        driver.commit("name", "other")
        for make in (driver.prepare, driver.view):
            for taken in ("key", "name"):
                with pytest.raises(Conflict):
                    make(taken, None, PLAIN)
        for taken in ("key", "name"):
            with pytest.raises(Conflict):
                driver.commit(taken, "key")
        assert driver.stat("key").kind is SnapshotKind.ACTIVE

    def test_only_the_committed_are_parents(self, driver: StorageDriver) -> None:
        """An active snapshot or a view is no parent, and neither is nothing."""
        driver.prepare("active", None, PLAIN)
        driver.view("view", None, PLAIN)
        for make in (driver.prepare, driver.view):
            for parent in ("active", "view"):
                with pytest.raises(InvalidArgument):
                    make("child", parent, PLAIN)
            with pytest.raises(NotFound):
                make("child", "nothing", PLAIN)
        with pytest.raises(NotFound):
            driver.stat("child")

    def test_only_the_active_are_committed(self, driver: StorageDriver) -> None:
        """A view or a committed snapshot can't be committed."""
        driver.prepare("active", None, PLAIN)
        driver.commit("committed", "active")
        driver.view("view", "committed", PLAIN)
        for key in ("committed", "view"):
            with pytest.raises(Conflict):
                driver.commit("again", key)
            with pytest.raises(Conflict):
                driver.apply(key, HandMadeLayer(files=["file"]))
        with pytest.raises(NotFound):
            driver.commit("again", "active")

    def test_a_committed_snapshot_has_no_mounts(self, driver: StorageDriver) -> None:
        """It must not change; a view is taken of it."""
        make_layer(driver, "name", None)
        with pytest.raises(Conflict):
            driver.mounts("name")

    def test_what_is_not_there(self, driver: StorageDriver) -> None:
        """Each operation says `NotFound`."""
        calls: list[Callable[[str], object]] = [
            driver.stat, driver.mounts, driver.look, driver.remove, driver.usage,
            lambda key: driver.commit("name", key), lambda key: driver.apply(key, HandMadeLayer()),
            lambda key: list(driver.diff(key)),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(NotFound, match="nothing"):
                call("nothing")

    def test_remove_wants_the_children_gone(self, driver: StorageDriver) -> None:
        """A parent stays while a child is there, of any kind."""
        make_layer(driver, "parent", None)
        for make in (driver.prepare, driver.view):
            make("child", "parent", PLAIN)
            with pytest.raises(Conflict):
                driver.remove("parent")
            driver.remove("child")
        driver.remove("parent")
        with pytest.raises(NotFound):
            driver.remove("parent")

    def test_a_removed_key_is_free_and_comes_back_empty(self, driver: StorageDriver) -> None:
        """Nothing of the old one shows."""
        driver.prepare("key", None, PLAIN)
        driver.apply("key", HandMadeLayer(files=["old"]))
        driver.remove("key")
        driver.prepare("key", None, PLAIN)
        assert in_mounts(driver.mounts("key"), os.listdir) == []

    def test_walk_gives_parents_first(self, driver: StorageDriver) -> None:
        """Any order that has this, and each once."""
        make_layer(driver, "z", None)
        make_layer(driver, "m", "z")
        make_layer(driver, "a", "m")
        driver.view("0", "m", PLAIN)
        seen: list[str] = []
        for info in driver.walk():
            assert info.parent is None or info.parent in seen
            seen.append(info.key)
        assert sorted(seen) == ["0", "a", "m", "z"]

    def test_labels_are_kept(self, driver: StorageDriver, start: Start) -> None:
        """Through a commit and a restart too."""
        labels = {"org.example/ä": "a\nb", "empty": ""}
        driver.prepare("key", None, SnapshotOptions(labels=labels))
        assert dict(driver.stat("key").labels) == labels
        driver.commit("name", "key")
        driver.close()
        assert dict(start().stat("name").labels) == labels

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_a_key_is_opaque(self, driver: StorageDriver, start: Start, key: str) -> None:
        """Any string without NUL up to 255 bytes; none is a path."""
        driver.prepare("k", None, PLAIN)
        driver.apply("k", HandMadeLayer(files=["file"]))
        driver.commit(key, "k")
        driver.view("child", key, PLAIN)
        assert in_mounts(driver.mounts("child"), os.listdir) == ["file"]
        driver.close()
        again = start()
        assert again.stat("child").parent == key
        again.remove("child")
        again.remove(key)
        again.prepare(key, None, PLAIN)
        assert in_mounts(again.mounts(key), os.listdir) == []

    @pytest.mark.parametrize("key", MALFORMED_KEYS, ids=ascii)
    def test_a_malformed_key_is_refused(self, driver: StorageDriver, key: str) -> None:
        """As a key and as a name."""
        for make in (driver.prepare, driver.view):
            with pytest.raises(InvalidArgument):
                make(key, None, PLAIN)
        driver.prepare("key", None, PLAIN)
        with pytest.raises(InvalidArgument):
            driver.commit(key, "key")
        assert [info.key for info in driver.walk()] == ["key"]

    def test_stat_and_walk_tell_the_same(self, driver: StorageDriver) -> None:
        """For every kind, at every moment of a life, the creation time kept by a commit."""
        make_layer(driver, "one", None, files=["file"])
        driver.prepare("active", "one", SnapshotOptions(labels={"a": "b"}))
        driver.view("view", "one", PLAIN)
        assert {info.key: info for info in driver.walk()} == {key: driver.stat(key) for key in ("one", "active", "view")}
        born = driver.stat("active").created
        driver.commit("two", "active")
        assert driver.stat("two").created == born
        assert driver.stat("two") in list(driver.walk())

    def test_a_grandparent_stays(self, driver: StorageDriver) -> None:
        """A snapshot in the middle of a stack can't be removed; from the top down all can."""
        make_layer(driver, "bottom", None, files=["a"])
        make_layer(driver, "middle", "bottom", files=["b"])
        make_layer(driver, "top", "middle", files=["c"])
        for key in ("bottom", "middle"):
            with pytest.raises(Conflict):
                driver.remove(key)
        driver.prepare("active", "top", PLAIN)
        assert sorted(in_mounts(driver.mounts("active"), os.listdir)) == ["a", "b", "c"]
        for key in ("active", "top", "middle", "bottom"):
            driver.remove(key)
        assert list(driver.walk()) == []

    def test_a_closed_driver_answers_nothing(self, driver: StorageDriver, start: Start) -> None:
        """Each operation is an error of the contract, and open brings all back."""
        driver.prepare("key", None, PLAIN)
        driver.close()
        calls: list[Callable[[], object]] = [
            lambda: driver.stat("key"), lambda: list(driver.walk()), lambda: driver.prepare("new", None, PLAIN),
            lambda: driver.mounts("key"), lambda: driver.commit("name", "key"), lambda: driver.remove("key"),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(SampanError):
                call()
        driver.open()
        assert told(driver, "key") == ("key", None, SnapshotKind.ACTIVE)
        assert [info.key for info in driver.walk()] == ["key"]

    def test_nothing_is_damaged(self, driver: StorageDriver) -> None:
        """`check` finds nothing in a sound store, `repair` mends nothing, and both leave it as it is."""
        make_layer(driver, "one", None, files=["file"])
        driver.prepare("active", "one", PLAIN)
        driver.view("view", "one", PLAIN)
        assert list(driver.check()) == []
        assert list(driver.repair()) == []
        assert sorted(info.key for info in driver.walk()) == ["active", "one", "view"]
