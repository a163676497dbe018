"""The conformance suite for storage drivers. Subclass it, name your class, and run pytest as root:

    from sampan.testing.storage import StorageDriverSuite
    from sampan_storage_zfs.driver import ZfsDriver

    class TestZfs(StorageDriverSuite):
        driver_class = ZfsDriver

Override the fixture `driver_root` if the driver needs a file system of a certain kind. After every test the
suite removes all snapshots and compares the files under the root with those of an empty driver: what no
snapshot owns is a leak.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sampan.api.errors import Conflict, InvalidArgument, NotFound, Unsupported
from sampan.api.storage import (
    SnapshotInfo,
    SnapshotKind,
    SnapshotOptions,
    StorageCapability,
    StorageContext,
    StorageDriver,
)
from sampan.testing.leaks import Leaks
from sampan.testing.trees import Change, HandMadeLayer, base, in_mounts, picture, random_changes, rework

PLAIN = SnapshotOptions()
HOSTILE_KEYS = (
    "../x", "a/b", "/", ".", "..", " ", "-rf", "a\nb", "index.db", "1", "x" * 255, "é" * 127, "日本語",
    "sha256:0123", "a,lowerdir+=/etc", "a:b\\c", "%s{}", "'; DROP TABLE snapshot; --",
)  # fmt: skip
MALFORMED_KEYS = ("", "a\0b", "x" * 256, "é" * 128, "\udcff")
MEGABYTE = 1 << 20
LINES = 2000

Start = Callable[[], StorageDriver]


class StorageDriverSuite:
    """Every rule of `sampan.api.storage`."""

    driver_class: ClassVar[type[StorageDriver]]
    driver_settings: ClassVar[dict[str, Any]] = {}
    """What stands in `[storage.NAME]`."""
    require_supported: ClassVar[bool] = True
    """Fail where the probe says no; False skips with its reason."""
    layers: ClassVar[int] = 128
    """A height of stack that must work."""

    @pytest.fixture
    def driver_root(self, tmp_path: Path) -> Path:
        """Give the directory that will be `StorageContext.root`; it must be there, and empty."""
        root = tmp_path / "root"
        root.mkdir(mode=0o700)
        return root

    @pytest.fixture
    def start(self, driver_root: Path) -> Iterator[Start]:
        """Give a function that opens a new driver on the same root, as a daemon does that starts again.

        It closes the one before.
        """
        started: list[StorageDriver] = []

        def start() -> StorageDriver:
            for earlier in started:
                earlier.close()
            config = self.driver_class.config_model().model_validate(self.driver_settings)
            driver = self.driver_class(StorageContext(driver_root, "conformance"), config)
            started.append(driver)
            driver.open()
            return driver

        yield start
        for driver in started:
            driver.close()

    @pytest.fixture
    def driver(self, driver_root: Path, start: Start) -> Iterator[StorageDriver]:
        """Give an opened driver; afterwards nothing may be left of the test's snapshots."""
        probe = self.driver_class.probe(driver_root)
        if not probe.supported:
            (pytest.fail if self.require_supported else pytest.skip)(probe.reason)
        leaks = Leaks.before(mark=str(driver_root))
        empty = start()
        empty.close()
        files = _files(driver_root)
        driver = start()
        yield driver
        driver.close()
        cleaner = start()
        for info in reversed(list(cleaner.walk())):
            cleaner.remove(info.key)
        assert list(cleaner.walk()) == []
        cleaner.close()
        assert _files(driver_root) == files
        leaks.check()

    # The class itself

    def test_probe_leaves_nothing_and_never_raises(self, driver_root: Path, driver: StorageDriver) -> None:
        """A probe looks and goes."""
        before = _files(driver_root)
        assert self.driver_class.probe(driver_root).supported
        assert _files(driver_root) == before
        assert isinstance(self.driver_class.probe(Path("/proc/no/such/place")).reason, str)

    def test_unknown_setting_is_refused(self) -> None:
        """A misspelt setting is an error and not ignored."""
        with pytest.raises(ValueError, match="no_such_setting"):
            self.driver_class.config_model().model_validate({"no_such_setting": 1})

    def test_construction_touches_nothing(self, driver_root: Path) -> None:
        """`open` is the first effect on the host."""
        config = self.driver_class.config_model().model_validate(self.driver_settings)
        self.driver_class(StorageContext(driver_root, "conformance"), config)
        assert _files(driver_root) == []

    def test_open_and_close_are_idempotent(self, driver: StorageDriver) -> None:
        """Twice is as once."""
        driver.open()
        driver.prepare("a", None, PLAIN)
        driver.open()
        assert driver.stat("a").key == "a"
        driver.close()
        driver.close()

    # Life of a snapshot

    def test_prepare_commit_prepare(self, driver: StorageDriver) -> None:
        """A commit renames: the key is gone, the name can be a parent."""
        driver.prepare("key", None, PLAIN)
        assert _told(driver, "key") == ("key", None, SnapshotKind.ACTIVE)
        driver.commit("name", "key")
        with pytest.raises(NotFound):
            driver.stat("key")
        assert _told(driver, "name") == ("name", None, SnapshotKind.COMMITTED)
        driver.prepare("key", "name", PLAIN)
        driver.view("view", "name", PLAIN)
        assert _told(driver, "key") == ("key", "name", SnapshotKind.ACTIVE)
        assert _told(driver, "view") == ("view", "name", SnapshotKind.VIEW)

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
        self._layer(driver, "name", None)
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
        self._layer(driver, "parent", None)
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
        self._layer(driver, "z", None)
        self._layer(driver, "m", "z")
        self._layer(driver, "a", "m")
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

    # Contents

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

    def test_children_do_not_see_each_other(self, driver: StorageDriver) -> None:
        """Nor does the parent change."""
        self._layer(driver, "parent", None, files=["shared"])
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
            self._layer(driver, f"layer{number}", parent, files=["file"])
            parent = f"layer{number}"
        driver.view("view", parent, PLAIN)

        def write(root: Path) -> int | None:
            try:
                (root / "new").touch()
            except OSError as error:
                return error.errno
            return None

        assert in_mounts(driver.mounts("view"), write) == errno.EROFS

    def test_apply(self, driver: StorageDriver, tmp_path: Path) -> None:
        """A layer written by hand, with deletions in the form asked for, shows as it should."""
        self._layer(driver, "one", None, files=["a/1", "a/2", "b/1", "b/sub/2", "c"])
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
            self._layer(driver, f"layer{number}", parent, files=[f"f{number}"], deleted=deleted)
            parent = f"layer{number}"
        driver.prepare("top", parent, PLAIN)
        expected = sorted(f"f{self.layers - back}" for back in (1, 2, 3))
        assert sorted(in_mounts(driver.mounts("top"), os.listdir)) == expected

    def test_volatile_works_like_any_other(self, driver: StorageDriver, start: Start) -> None:
        """It may be mounted again, and committed."""
        self._layer(driver, "parent", None, files=["below"])
        driver.prepare("key", "parent", SnapshotOptions(volatile=True))
        in_mounts(driver.mounts("key"), lambda root: (root / "one").write_text("1"))
        driver.close()
        driver = start()
        in_mounts(driver.mounts("key"), lambda root: (root / "two").write_text("2"))
        driver.commit("name", "key")
        driver.view("view", "name", PLAIN)
        assert sorted(in_mounts(driver.mounts("view"), os.listdir)) == ["below", "one", "two"]

    def test_size(self, driver: StorageDriver) -> None:
        """A size is enforced with the capability QUOTA and refused without: never ignored."""
        options = SnapshotOptions(size=8 * MEGABYTE)
        if StorageCapability.QUOTA not in driver.capabilities():
            for make in (driver.prepare, driver.view):
                with pytest.raises(Unsupported):
                    make("key", None, options)
            assert list(driver.walk()) == []
            return
        driver.prepare("key", None, options)

        def fill(root: Path) -> int | None:
            try:
                with (root / "file").open("wb", buffering=0) as file:
                    for _ in range(32):
                        file.write(os.urandom(MEGABYTE))
                        os.fsync(file.fileno())
            except OSError as error:
                return error.errno
            return None

        assert in_mounts(driver.mounts("key"), fill) in (errno.EDQUOT, errno.ENOSPC)

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
        if StorageCapability.SHARES_BLOCKS in driver.capabilities():
            assert MEGABYTE <= child.bytes < 2 * MEGABYTE
            assert child.inodes == 3
        else:
            assert 9 * MEGABYTE <= child.bytes < 10 * MEGABYTE
            assert child.inodes == 4

    # Restarts, crashes, threads

    def test_a_restart_changes_nothing(self, driver: StorageDriver, start: Start) -> None:
        """All snapshots, their states, contents and mounts are as before."""
        self._layer(driver, "one", None, files=["file"])
        self._layer(driver, "two", "one", files=["more"])
        driver.prepare("active", "two", PLAIN)
        driver.view("view", "two", PLAIN)
        in_mounts(driver.mounts("active"), lambda root: (root / "mine").write_text("x"))
        told = list(driver.walk())
        mounts = {key: driver.mounts(key) for key in ("active", "view")}
        assert mounts == {key: driver.mounts(key) for key in mounts}
        driver.close()
        again = start()
        assert list(again.walk()) == told
        assert {key: again.mounts(key) for key in mounts} == mounts
        assert sorted(in_mounts(again.mounts("active"), os.listdir)) == ["file", "mine", "more"]

    def test_kill(self, driver: StorageDriver, start: Start) -> None:
        """Whatever was acknowledged before a kill -9 is there, and nothing is there by halves."""
        driver.close()
        dice = random.Random(5)
        expected: dict[str, tuple[str, str | None, SnapshotKind]] = {}
        for number in range(12):
            acknowledged = _run_and_kill(start, number, list(expected.values()), dice)
            after = start()
            under_way = acknowledged.play(expected)
            found = {info.key: (info.key, info.parent, info.kind) for info in after.walk()}
            assert found in (expected, under_way)
            expected = found
            committed = [key for key, (_, _, kind) in found.items() if kind is SnapshotKind.COMMITTED]
            for key in committed[-3:]:
                after.view("check", key, PLAIN)
                shown = in_mounts(after.mounts("check"), lambda root: (root / "file").read_text())
                assert shown == _line(key) * LINES
                after.remove("check")
            after.close()

    def test_threads_on_different_keys(self, driver: StorageDriver) -> None:
        """Operations on different snapshots run at once."""
        self._layer(driver, "base", None, files=["file"])

        def live(number: int) -> None:
            for turn in range(6):
                key = f"{number}-{turn}"
                driver.prepare(key, "base", PLAIN)
                driver.apply(key, HandMadeLayer(files=[key]))
                driver.commit(f"{key}-name", key)
                driver.view(key, f"{key}-name", PLAIN)
                assert driver.mounts(key)
                driver.usage(key)
                driver.remove(key)
                if turn % 2:
                    driver.remove(f"{key}-name")

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(live, number) for number in range(4)]:
                future.result()
        kept = sorted(f"{number}-{turn}-name" for number in range(4) for turn in (0, 2, 4))
        assert sorted(info.key for info in driver.walk()) == sorted(["base", *kept])
        for key in kept:
            driver.view("check", key, PLAIN)
            assert sorted(in_mounts(driver.mounts("check"), os.listdir)) == sorted(["file", key[:-5]])
            driver.remove("check")

    # Helpers

    def _layer(
        self, driver: StorageDriver, name: str, parent: str | None, *, files: list[str] | None = None,
        deleted: list[str] | None = None,
    ) -> None:  # fmt: skip
        """Make a committed snapshot from files that hold their own path."""
        driver.prepare(f"making {name}", parent, PLAIN)
        driver.apply(f"making {name}", HandMadeLayer(files or [], deleted or []))
        driver.commit(name, f"making {name}")

    def _compare(self, driver: StorageDriver, tmp_path: Path, changes: list[Change]) -> None:
        """Make each change in a layer of its own and in one plain directory; all pictures must be the
        same.
        """
        plain = tmp_path / "plain"
        plain.mkdir(mode=0o755)
        parent = None
        for number, change in enumerate(changes):
            change(plain)
            driver.prepare("work", parent, PLAIN)
            in_mounts(driver.mounts("work"), change)
            assert in_mounts(driver.mounts("work"), picture) == picture(plain)
            parent = f"layer{number}"
            driver.commit(parent, "work")
            for make in (driver.view, driver.prepare):
                make("child", parent, PLAIN)
                assert in_mounts(driver.mounts("child"), picture) == picture(plain)
                driver.remove("child")
        shutil.rmtree(plain)


Told = tuple[str, str | None, SnapshotKind]


class Acknowledged:
    """What a killed process said before: `begin` before each operation and `done` after it."""

    def __init__(self, text: str) -> None:
        """Take the lines it wrote; one that was cut off does not count."""
        self._lines = [line.split(" ") for line in text.split("\n")[:-1]]

    def play(self, snapshots: dict[str, Told]) -> dict[str, Told]:
        """Do to `snapshots` what was acknowledged; give what it is if the one under way counts too."""
        under_way: list[str] | None = None
        for word, *operation in self._lines:
            if word == "done":
                _play(snapshots, operation)
            under_way = operation if word == "begin" else None
        possible = dict(snapshots)
        if under_way is not None:
            _play(possible, under_way)
        return possible


def _play(snapshots: dict[str, Told], operation: list[str]) -> None:
    name, key, other = operation
    if name == "prepare":
        snapshots[key] = (key, other or None, SnapshotKind.ACTIVE)
    elif name == "commit":
        snapshots[other] = (other, snapshots.pop(key)[1], SnapshotKind.COMMITTED)
    else:
        del snapshots[key]


def _line(name: str) -> str:
    """Give each line of the file in the committed snapshot `name`."""
    return f"contents of {name}\n"


def _run_and_kill(start: Start, number: int, present: list[Told], dice: random.Random) -> Acknowledged:
    """Work on a driver in a child until it has said a random number of lines, and kill it there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _work(start(), number, present, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        text = b""
        wanted = dice.randint(1, 60)
        while text.count(b"\n") < wanted and (part := pipe.read(256)):
            text += part
        os.kill(pid, signal.SIGKILL)
        while part := pipe.read(4096):
            text += part
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child failed by itself"
    return Acknowledged(text.decode())


def _work(driver: StorageDriver, number: int, present: list[Told], pipe: int) -> None:
    """Prepare, fill, commit and remove until killed, with a word before and after each."""

    def say(word: str, name: str, key: str, other: str = "") -> None:
        os.write(pipe, f"{word} {name} {key} {other}\n".encode())

    def remove(key: str) -> None:
        say("begin", "remove", key)
        driver.remove(key)
        say("done", "remove", key)

    committed = [key for key, _, kind in present if kind is SnapshotKind.COMMITTED]
    for key, _, kind in present:
        if kind is SnapshotKind.ACTIVE:
            remove(key)
    turn = 0
    while True:
        turn += 1
        key, name, parent = f"k{number}.{turn}", f"n{number}.{turn}", committed[-1] if committed else ""
        say("begin", "prepare", key, parent)
        driver.prepare(key, parent or None, PLAIN)
        say("done", "prepare", key, parent)
        driver.apply(key, HandMadeLayer(contents={"file": _line(name) * LINES}))
        if turn % 3 == 0:
            remove(key)
            continue
        say("begin", "commit", key, name)
        driver.commit(name, key)
        say("done", "commit", key, name)
        committed.append(name)
        if turn % 4 == 0:
            remove(committed.pop())


def _told(driver: StorageDriver, key: str) -> Told:
    info: SnapshotInfo = driver.stat(key)
    assert info.created > 0
    return info.key, info.parent, info.kind


def _files(root: Path) -> list[str]:
    """Give every path under `root`."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
