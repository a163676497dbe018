"""What most storage drivers share: the index of snapshots, and a base class with one directory for each.

`SnapshotIndex` knows which snapshots there are, by the rules of `sampan.api.storage`.

A driver that uses it does only its file work. The index checks keys and states, raises the contract's
errors, and gives each snapshot a *number*, by which the driver names its directory: keys are opaque and
never become a path. A number is never used again, so a directory that is still being deleted is never taken
for a new one.

    with index.adding(key, parent, SnapshotKind.ACTIVE, options) as snapshot:
        (directory / str(snapshot.number)).mkdir()      # not recorded if this raises

What holds after a crash of the process: all that was recorded. After a power cut: all commits, and all
removals of committed snapshots; the last few active snapshots and views may be missing, or be recorded
although their directory is not there (`DirectoryDriver.open` settles both). It is a sqlite file; see
docs/adr/0060-snapshot-index.md.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.api.errors import Conflict, InvalidArgument, NotFound, System, Unsupported, host_errors
from sampan.api.storage import (
    Damage,
    SnapshotInfo,
    SnapshotKind,
    SnapshotOptions,
    StorageContext,
    StorageDriver,
    Usage,
)
from sampan.linux import trees

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig

__all__ = ["DirectoryDriver", "Snapshot", "SnapshotIndex", "host_errors", "make_root", "refuse_size"]

log = logging.getLogger(__name__)

_VERSION = 1
_SCHEMA = """
CREATE TABLE snapshot (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshot (number),
    kind TEXT NOT NULL,
    created REAL NOT NULL,
    volatile INTEGER NOT NULL,
    labels TEXT NOT NULL
) STRICT;
CREATE INDEX snapshot_parent ON snapshot (parent);
"""
_SEQUENCE = "INSERT INTO sqlite_sequence VALUES ('snapshot', 0);"
_SELECT = """
SELECT child.number, child.key, child.kind, child.created, child.volatile, child.labels,
       parent.number, parent.key
FROM snapshot AS child LEFT JOIN snapshot AS parent ON parent.number = child.parent
"""
_ANCESTORS = """
WITH RECURSIVE above (number, depth) AS (
    VALUES (?, 0)
    UNION ALL
    SELECT parent, depth + 1 FROM above JOIN snapshot USING (number) WHERE parent IS NOT NULL
)
SELECT number FROM above ORDER BY depth
"""
_KEY_BYTES = 255
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot: what `stat` tells of it, and what only its driver needs.

    `parent` is the parent's number.
    """

    number: int
    info: SnapshotInfo
    parent: int | None
    volatile: bool


class SnapshotIndex:
    """The snapshots of one driver, in the file `path`. Its methods may be called from any thread, at once."""

    def __init__(self, path: Path) -> None:
        """Keep the path; `open` comes first."""
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._next = self._reserved = 1
        self._pending_keys: set[str] = set()
        self._pending_numbers: set[int] = set()
        self._pending_parents: Counter[int] = Counter()
        self._removing: set[int] = set()

    def open(self) -> None:
        """Open the file, or make it; idempotent. `System` if it can't be, or is of a newer version."""
        with self._lock, self._database_errors("open"):
            if self._connection is not None:
                return
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                self._next = self._reserved = _prepare_schema(connection, self._path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._lock, self._database_errors("close"):
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def adding(self, key: str, parent: str | None, kind: SnapshotKind, options: SnapshotOptions) -> Iterator[Snapshot]:
        """Reserve the key and hold the parent while the driver makes the files; record the snapshot if
        nothing raised.

        Raises as `StorageDriver.prepare` does, save for `options.size`, which is the driver's to judge.
        """
        _check_key(key)
        with self._lock, self._database_errors("add to"):
            self._check_free(key)
            above = None if parent is None else self._get(parent)
            if above is not None and above.info.kind is not SnapshotKind.COMMITTED:
                raise InvalidArgument(
                    f"make snapshot {key!r}: its parent {parent!r} is {above.info.kind}, not committed",
                    remedy="commit the parent first",
                )
            number = self._take_number()
            self._pending_keys.add(key)
            self._pending_numbers.add(number)
            if above is not None:
                self._pending_parents[above.number] += 1
        info = SnapshotInfo(key, parent, kind, time.time(), dict(options.labels))
        snapshot = Snapshot(number, info, None if above is None else above.number, options.volatile)
        try:
            yield snapshot
            with self._transaction("add to", durable=False) as connection:
                connection.execute(
                    "INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (number, key, snapshot.parent, kind, info.created, options.volatile,
                     json.dumps(info.labels)),
                )  # fmt: skip
        finally:
            with self._lock:
                self._pending_keys.discard(key)
                self._pending_numbers.discard(number)
                if above is not None:
                    self._pending_parents[above.number] -= 1

    def get(self, key: str) -> Snapshot:
        """Give the snapshot `key`. Raises `NotFound`."""
        with self._lock, self._database_errors("read"):
            return self._get(key)

    def get_active(self, key: str) -> Snapshot:
        """Give the snapshot `key` if it is active. Raises `NotFound`, and `Conflict` for another kind."""
        return _require_active(self.get(key))

    def get_mountable(self, key: str) -> Snapshot:
        """Give the snapshot `key` unless it is committed. Raises `NotFound`, and `Conflict` for a committed
        one.
        """
        snapshot = self.get(key)
        if snapshot.info.kind is SnapshotKind.COMMITTED:
            raise Conflict(f"mount snapshot {key!r}: it is committed", remedy="take a view of it")
        return snapshot

    def walk(self) -> list[Snapshot]:
        """Give all snapshots, parents before children."""
        with self._lock, self._database_errors("read"):
            rows = self._open_connection().execute(_SELECT + "ORDER BY child.number")
            return [_snapshot(row) for row in rows]

    def ancestors(self, number: int) -> tuple[int, ...]:
        """Give `number` and the numbers of all snapshots under it, nearest first."""
        with self._lock, self._database_errors("read"):
            return tuple(row[0] for row in self._open_connection().execute(_ANCESTORS, (number,)))

    def check_commit(self, name: str, key: str) -> Snapshot:
        """Raise what `commit` would raise, before the driver does its part; give the snapshot."""
        _check_key(name)
        with self._lock, self._database_errors("read"):
            snapshot = _require_active(self._get(key))
            self._check_free(name)
            return snapshot

    def commit(self, name: str, key: str) -> None:
        """Turn the active `key` into the committed `name`, durably. The driver has made the contents durable
        before.
        """
        _check_key(name)
        with self._transaction("commit in", durable=True) as connection:
            snapshot = _require_active(self._get(key))
            self._check_free(name)
            connection.execute(
                "UPDATE snapshot SET key = ?, kind = ?, volatile = 0 WHERE number = ?",
                (name, SnapshotKind.COMMITTED, snapshot.number),
            )

    def forget(self, key: str) -> Snapshot:
        """Take `key` off the record and give what it was; its files are the driver's to delete then.

        Raises `NotFound`, and `Conflict` while it has children.
        """
        durable = self.get(key).info.kind is SnapshotKind.COMMITTED
        with self._transaction("remove from", durable=durable) as connection:
            snapshot = self._get(key)
            children = connection.execute("SELECT key FROM snapshot WHERE parent = ?", (snapshot.number,))
            child = children.fetchone()
            if child is not None or self._pending_parents[snapshot.number]:
                name = "one being made" if child is None else repr(child[0])
                raise Conflict(f"remove snapshot {key!r}: it has children ({name})", remedy="remove them")
            connection.execute("DELETE FROM snapshot WHERE number = ?", (snapshot.number,))
            return snapshot

    @contextmanager
    def removing(self, key: str) -> Iterator[Snapshot]:
        """Forget `key`, and count its files as owned while the driver deletes them. Raises as `forget`."""
        number = self.get(key).number
        with self._lock:
            self._removing.add(number)
        try:
            yield self.forget(key)
        finally:
            with self._lock:
                self._removing.discard(number)

    def orphans(self, present: Collection[str]) -> list[str]:
        """Give those of `present`, the names in the driver's directory, that no snapshot owns or is being made under."""
        with self._lock, self._database_errors("read"):
            numbers = {row[0] for row in self._open_connection().execute("SELECT number FROM snapshot")}
            owned = {str(number) for number in numbers | self._pending_numbers}
            going = {f"{number}{end}" for number in self._removing for end in ("", ".removed")}
        return sorted(set(present) - owned - going)

    def lost(self, present: Collection[str]) -> list[Snapshot]:
        """Give the snapshots whose number is not in `present`."""
        return [snapshot for snapshot in self.walk() if str(snapshot.number) not in present]

    def _take_number(self) -> int:
        """Give a number that was never given before, by a process that was killed neither: they are reserved in blocks.

        A helper of a killed process (a cp) may still be filling the directory of a snapshot that was never recorded.
        """
        if self._next >= self._reserved:
            self._reserved = self._next + _BLOCK
            self._open_connection().execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'snapshot'", (self._reserved - 1,))
        number, self._next = self._next, self._next + 1
        return number

    def _get(self, key: str) -> Snapshot:
        row = self._open_connection().execute(_SELECT + "WHERE child.key = ?", (_encodable(key),)).fetchone()
        if row is None:
            raise NotFound(f"no such snapshot: {key!r}")
        return _snapshot(row)

    def _check_free(self, key: str) -> None:
        taken = self._open_connection().execute("SELECT 1 FROM snapshot WHERE key = ?", (key,)).fetchone()
        if taken or key in self._pending_keys:
            raise Conflict(f"make snapshot {key!r}: the name is taken", remedy="choose another, or remove it")

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise System(f"use snapshot index {self._path}: it is closed")
        return self._connection

    @contextmanager
    def _transaction(self, operation: str, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Do all or nothing, alone. NORMAL leaves the write-ahead log to the page cache, FULL syncs it."""
        with self._lock, self._database_errors(operation):
            connection = self._open_connection()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection

    @contextmanager
    def _database_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise System(f"{operation} snapshot index {self._path}: {error}") from error


class DirectoryDriver(StorageDriver):
    """Base of drivers that keep a directory for each snapshot, `snapshots/<number>` under `context.root`, and an index.

    A driver adds how a directory is made (`prepare`, `view`), shown (`mounts`, `look`), and, where it is more than a
    tree of files, measured and deleted (`measure`, `delete`). A snapshot is recorded after its directory is whole and
    forgotten before it is deleted: after a crash a directory that the index does not know is a half-made or half-deleted
    one, and `open` deletes it.
    """

    def __init__(self, context: StorageContext, config: DriverConfig) -> None:
        """Keep the arguments; `open` is the first to touch anything."""
        super().__init__(context, config)
        self.index = SnapshotIndex(context.root / "index.db")
        self.directories = context.root / "snapshots"

    def directory(self, number: int) -> Path:
        """Give the directory of a snapshot."""
        return self.directories / str(number)

    def open(self) -> None:
        """Open the index and settle what a crash left."""
        with host_errors(f"open {self.name} storage {self.context.root}"):
            self.directories.mkdir(exist_ok=True)
            self.index.open()
            for damage in self.repair():
                log.warning("storage %s: %s: %s: %s", self.name, damage.subject, damage.problem, damage.remedy)

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def commit(self, name: str, key: str) -> None:
        """Have the disk hold the files, then the new name."""
        snapshot = self.index.check_commit(name, key)
        with host_errors(f"commit snapshot {key!r}"):
            trees.syncfs(self.directory(snapshot.number))
        self.index.commit(name, key)

    def remove(self, key: str) -> None:
        """Forget the snapshot, then delete its directory."""
        with self.index.removing(key) as snapshot, host_errors(f"remove snapshot {key!r}"):
            self.delete(self.directory(snapshot.number))

    def stat(self, key: str) -> SnapshotInfo:
        """Look it up."""
        return self.index.get(key).info

    def walk(self) -> Iterator[SnapshotInfo]:
        """Give all in the order they were made."""
        return iter([snapshot.info for snapshot in self.index.walk()])

    def usage(self, key: str) -> Usage:
        """Measure the snapshot."""
        snapshot = self.index.get(key)
        with host_errors(f"measure snapshot {key!r}"):
            return self.measure(snapshot)

    def check(self) -> Iterator[Damage]:
        """Compare the index with the directories that are there."""
        with host_errors(f"check {self.name} storage {self.context.root}"):
            present = [entry.name for entry in self.directories.iterdir()]
        for name in self.index.orphans(present):
            yield Damage(str(self.directories / name), "no snapshot owns it", "delete it", repairable=True)
        for snapshot in self.index.lost(present):
            if self.directory(snapshot.number).exists():  # made since the names were read
                continue
            if snapshot.info.kind is SnapshotKind.COMMITTED:
                remedy = "remove what uses it, and unpack it again"
                yield Damage(snapshot.info.key, "its directory is not there", remedy, repairable=False)
            else:
                yield Damage(snapshot.info.key, "a power cut took its directory", "forget it", repairable=True)

    def repair(self) -> Iterator[Damage]:
        """Delete directories that no snapshot owns, forget active snapshots and views that lost theirs."""
        for damage in list(self.check()):
            if damage.repairable:
                self.mend(damage)
                yield damage
            else:
                log.error("storage %s: %s: %s: %s", self.name, damage.subject, damage.problem, damage.remedy)

    def mend(self, damage: Damage) -> None:
        """Do what the remedy of a repairable damage says."""
        with host_errors(f"mend {damage.subject}"):
            if Path(damage.subject).parent == self.directories:
                self.delete(Path(damage.subject))
            else:
                self.index.forget(damage.subject)

    def measure(self, snapshot: Snapshot) -> Usage:
        """Measure all that is in a snapshot's directory. Raises `OSError`."""
        return Usage(*trees.measure(self.directory(snapshot.number)))

    def delete(self, path: Path) -> None:
        """Delete a snapshot's directory; nothing there is no error. Raises `OSError`."""
        trees.remove(path)


def refuse_size(driver: str, options: SnapshotOptions) -> None:
    """Raise `Unsupported` if a size is asked for; for drivers without the capability QUOTA."""
    if options.size is not None:
        raise Unsupported(
            f"storage driver {driver} cannot limit a snapshot to {options.size} bytes: it has no quotas",
            remedy="leave the size out, or use a storage driver with the capability quota",
        )


def make_root(path: Path) -> None:
    """Make the directory that will be an empty root file system: mode 0755 under any umask. Raises
    `OSError`.
    """
    path.mkdir()
    path.chmod(0o755)


def _prepare_schema(connection: sqlite3.Connection, path: Path) -> int:
    """Make or check the schema; give the next free number."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise System(
            f"open snapshot index {path}: it is of version {version}, this Sampan knows {_VERSION}",
            remedy="use the newer Sampan that wrote it",
        )
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    if connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'snapshot'").fetchone() is None:
        connection.execute(_SEQUENCE)
    return int(connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshot'").fetchone()[0]) + 1


def _snapshot(row: tuple[Any, ...]) -> Snapshot:
    number, key, kind, created, volatile, labels, parent, parent_key = row
    info = SnapshotInfo(key, parent_key, SnapshotKind(kind), created, json.loads(labels))
    return Snapshot(number, info, parent, bool(volatile))


def _require_active(snapshot: Snapshot) -> Snapshot:
    if snapshot.info.kind is not SnapshotKind.ACTIVE:
        raise Conflict(f"snapshot {snapshot.info.key!r} is {snapshot.info.kind}, not active")
    return snapshot


def _check_key(key: str) -> None:
    """Refuse what the contract does not allow as a key."""
    size = len(_encodable(key).encode())
    if not 0 < size <= _KEY_BYTES or "\0" in key:
        raise InvalidArgument(
            f"snapshot key {key[:40]!r} of {size} bytes: it must be 1 to {_KEY_BYTES} bytes without NUL"
        )


def _encodable(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"snapshot key {key[:40]!r}: it is not valid unicode") from error
    return key
