"""The snapshot index: the contract's rules, and what it keeps through restarts, crashes and threads."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from sampan.api.errors import Conflict, InvalidArgument, NotFound, System, Unsupported
from sampan.api.snapshots import SnapshotIndex, host_errors, make_root, refuse_size
from sampan.api.storage import SnapshotKind, SnapshotOptions, StorageContext
from sampan_storage_vfs.config import VfsConfig
from sampan_storage_vfs.driver import VfsDriver

PLAIN = SnapshotOptions()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SnapshotIndex]:
    index = SnapshotIndex(tmp_path / "index.db")
    index.open()
    yield index
    index.close()


def add(
    index: SnapshotIndex, key: str, parent: str | None = None, kind: SnapshotKind = SnapshotKind.ACTIVE
) -> int:
    with index.adding(key, parent, kind, PLAIN) as snapshot:
        return snapshot.number


def add_committed(index: SnapshotIndex, name: str, parent: str | None = None) -> int:
    number = add(index, f"making {name}", parent)
    index.commit(name, f"making {name}")
    return number


def keys(index: SnapshotIndex) -> list[str]:
    return [snapshot.info.key for snapshot in index.walk()]


def test_is_recorded_only_if_the_files_were_made(index: SnapshotIndex) -> None:
    with pytest.raises(OSError, match="full"), index.adding("key", None, SnapshotKind.ACTIVE, PLAIN):
        assert keys(index) == []
        raise OSError("full")
    assert keys(index) == []
    add(index, "key")
    assert keys(index) == ["key"]


def test_key_and_parent_are_held_while_the_files_are_made(index: SnapshotIndex) -> None:
    add_committed(index, "parent")
    add(index, "other")
    with index.adding("key", "parent", SnapshotKind.ACTIVE, PLAIN):
        with pytest.raises(Conflict, match="'key'.*taken"):
            add(index, "key", kind=SnapshotKind.VIEW)
        with pytest.raises(Conflict, match="'key'.*taken"):
            index.commit("key", "other")
        with pytest.raises(Conflict, match="children"):
            index.forget("parent")
    index.forget("key")
    index.forget("parent")


def test_ancestors_are_nearest_first(index: SnapshotIndex) -> None:
    numbers = [add_committed(index, "one"), add_committed(index, "two", "one"), add(index, "top", "two")]
    assert index.ancestors(numbers[2]) == tuple(reversed(numbers))
    assert index.ancestors(numbers[0]) == (numbers[0],)


def test_a_number_is_never_used_again(index: SnapshotIndex, tmp_path: Path) -> None:
    first = add(index, "key")
    index.forget("key")
    index.close()
    again = SnapshotIndex(tmp_path / "index.db")
    again.open()
    assert add(again, "key") > first
    again.close()


def test_commit_ends_volatile(index: SnapshotIndex) -> None:
    with index.adding("key", None, SnapshotKind.ACTIVE, SnapshotOptions(volatile=True)) as snapshot:
        assert snapshot.volatile
    assert index.get("key").volatile
    index.commit("name", "key")
    assert not index.get("name").volatile


def test_a_commit_is_synced_and_a_prepare_is_not(index: SnapshotIndex) -> None:
    connection = index._connection
    assert connection is not None
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    add(index, "key")
    index.commit("name", "key")
    index.forget("name")
    levels = [text.rsplit(" ", 1)[1] for text in statements if text.startswith("PRAGMA synchronous")]
    assert levels == ["NORMAL", "FULL", "FULL"]


def test_everything_is_there_after_opening_again(index: SnapshotIndex, tmp_path: Path) -> None:
    add_committed(index, "one")
    with index.adding("two", "one", SnapshotKind.VIEW, SnapshotOptions(labels={"a": "b"})):
        pass
    before = index.walk()
    index.close()
    index.close()
    index.open()
    index.open()
    assert index.walk() == before


def test_what_nobody_owns_and_what_is_lost(index: SnapshotIndex) -> None:
    kept = add_committed(index, "kept")
    add(index, "lost")
    with index.adding("new", None, SnapshotKind.ACTIVE, PLAIN) as making, index.removing("kept") as going:
        present = [str(kept), f"{going.number}.removed", str(making.number), "99", "7.removed"]
        assert index.orphans(present) == ["7.removed", "99"]
        assert [snapshot.info.key for snapshot in index.lost(present)] == ["lost"]
    assert index.orphans([str(kept)]) == [str(kept)]


def test_a_number_that_was_never_recorded_is_not_given_again(index: SnapshotIndex, tmp_path: Path) -> None:
    with index.adding("cut off", None, SnapshotKind.ACTIVE, PLAIN) as killed:
        next_process = SnapshotIndex(tmp_path / "index.db")
        next_process.open()
        with next_process.adding("new", None, SnapshotKind.ACTIVE, PLAIN) as snapshot:
            assert snapshot.number > killed.number
        next_process.close()


def test_a_newer_file_is_refused(index: SnapshotIndex, tmp_path: Path) -> None:
    index.close()
    with sqlite3.connect(tmp_path / "index.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(System, match="version 99"):
        index.open()


def test_a_damaged_file_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(System, match="index.db: file is not a database"):
        SnapshotIndex(path).open()
    assert path.read_bytes() == b"not a database" * 100


def test_use_after_close_says_so(index: SnapshotIndex) -> None:
    index.close()
    with pytest.raises(System, match="closed"):
        index.get("key")


def test_wrong_states(index: SnapshotIndex) -> None:
    add_committed(index, "committed")
    add(index, "view", "committed", SnapshotKind.VIEW)
    with pytest.raises(Conflict, match="take a view"):
        index.get_mountable("committed")
    with pytest.raises(Conflict, match="not active"):
        index.get_active("view")
    with pytest.raises(Conflict, match="not active"):
        index.check_commit("name", "view")
    with pytest.raises(InvalidArgument, match="not committed"):
        add(index, "child", "view")
    with pytest.raises(NotFound, match="'nothing'"):
        add(index, "child", "nothing")
    assert keys(index) == ["committed", "view"]


def test_many_threads(index: SnapshotIndex) -> None:
    add_committed(index, "base")
    failures: list[BaseException] = []

    def live(name: int) -> None:
        try:
            for turn in range(30):
                add(index, f"{name}.{turn}", "base")
                index.commit(f"{name}.{turn} done", f"{name}.{turn}")
                if turn % 2:
                    index.forget(f"{name}.{turn} done")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(keys(index)) == 1 + 4 * 15
    numbers = [snapshot.number for snapshot in index.walk()]
    assert len(set(numbers)) == len(numbers)


def test_a_repair_keeps_what_is_made_while_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = VfsDriver(StorageContext(tmp_path, "unit"), VfsConfig())
    driver.open()
    orphans = driver.index.orphans

    def then_orphans(present: Collection[str]) -> list[str]:
        driver.prepare("new", None, PLAIN)
        return orphans(present)

    monkeypatch.setattr(driver.index, "orphans", then_orphans)
    assert list(driver.repair()) == []
    assert driver.stat("new").kind is SnapshotKind.ACTIVE
    driver.close()


def test_helpers(tmp_path: Path) -> None:
    refuse_size("x", PLAIN)
    with pytest.raises(Unsupported, match="storage driver x cannot limit .* 5 bytes"):
        refuse_size("x", SnapshotOptions(size=5))
    make_root(tmp_path / "root")
    assert (tmp_path / "root").stat().st_mode & 0o7777 == 0o755
    with pytest.raises(System, match="prepare snapshot 'k': .*exists"), host_errors("prepare snapshot 'k'"):
        make_root(tmp_path / "root")
