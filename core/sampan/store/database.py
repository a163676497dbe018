"""The sqlite file: its connections, transactions, durability and schema version.

Two writers, each a connection on a thread of its own: `write` is durable when it returns (`synchronous=FULL`,
about 1 ms) and is for what a client was told exists or is gone; `note` (`NORMAL`, about 0.1 ms) is for what
can be read back from a shim or the kernel. Both survive a kill of the daemon; only `write` survives a power
cut at once, and it takes every earlier `note` along, for both append to one log. Reads never wait for
writers.

Source: sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from sampan.api.errors import Conflict, System, Unsupported
from sampan.store.schema import APPLICATION_ID, MIGRATIONS

T = TypeVar("T")

Transaction = sqlite3.Connection
"""What the functions given to `read`, `write` and `note` get: a connection inside one transaction."""

_LOCK_TIMEOUT_SECONDS = 10.0


class Database:
    """The open metadata file. Made by `Database.open`; `close` it, or use it as a context manager."""

    def __init__(self, path: Path, full: Transaction, normal: Transaction, reader: Transaction) -> None:
        """Take over connections; use `open`."""
        self.path = path
        self._full = _Writer(path, full, "store-full")
        self._normal = _Writer(path, normal, "store-normal")
        # sqlite's own wait for the other writer is a sleeping loop; between our two threads a lock hands over
        # at once.
        self._full.turn = self._normal.turn = threading.Lock()
        self._reader = reader
        self._reading = threading.RLock()
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="store-read")

    @classmethod
    def open(cls, path: Path, migrations: Sequence[str] = MIGRATIONS) -> Database:
        """Open `path`, or make it (mode 0600), and bring it to the newest schema.

        Raises `Unsupported` when a newer Sampan wrote it, `System` when it is damaged, not ours or cannot be
        opened. A crash inside leaves the old version or the new one, nothing between.
        """
        connections: list[Transaction] = []
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            path.chmod(0o600)
            connections.append(full := _connect(path, "rw", "FULL"))
            _migrate(full, path, migrations)
            connections.append(normal := _connect(path, "rw", "NORMAL"))
            connections.append(reader := _connect(path, "ro", "NORMAL"))
            _sync_directory(path.parent)
        except (sqlite3.Error, OSError) as error:
            for connection in connections:
                connection.close()
            raise _damaged(path, error) from error
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        return cls(path, full, normal, reader)

    async def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in one transaction and give its value; durable when this returns.

        If `change` raises, nothing happened. If the caller is cancelled while it waits, the change may still
        happen. Raises `Conflict` when the change would leave a reference to something that is gone, `System`
        when the disk fails.
        """
        return await asyncio.wrap_future(self._full.thread.submit(self._full.run, change))

    async def note(self, change: Callable[[Transaction], T]) -> T:
        """As `write`, but a power cut within the next moments may undo it; a kill of the daemon cannot."""
        return await asyncio.wrap_future(self._normal.thread.submit(self._normal.run, change))

    def query(self, look: Callable[[Transaction], T]) -> T:
        """Run short reads here and now on one consistent state: about 0.01 ms for a row, so fit for the
        loop's thread."""
        with self._reading, _translated("read", self.path):
            if self._reader.in_transaction:
                return look(self._reader)
            self._reader.execute("BEGIN")
            try:
                return look(self._reader)
            finally:
                self._reader.execute("ROLLBACK")

    async def read(self, look: Callable[[Transaction], T]) -> T:
        """Run longer reads on a thread, on one consistent state."""
        return await asyncio.wrap_future(self._read_thread.submit(self.query, look))

    def close(self) -> None:
        """Finish what is under way and close; idempotent."""
        self._read_thread.shutdown()
        self._reader.close()  # The last to close folds the log into the file, so must write.
        self._normal.close()
        self._full.close()

    def __enter__(self) -> Database:
        """Give the database itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class _Writer:
    """One connection and the only thread that uses it."""

    def __init__(self, path: Path, connection: Transaction, name: str) -> None:
        self.path = path
        self.connection = connection
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.turn = threading.Lock()

    def run(self, change: Callable[[Transaction], T]) -> T:
        with self.turn, _translated("write", self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(self.connection)
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            return result

    def close(self) -> None:
        self.thread.shutdown()
        self.connection.close()


@contextmanager
def _translated(operation: str, path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Conflict(
            f"{operation} {path}: {error}: something is still in use, or what it belongs to is gone"
        ) from error
    except sqlite3.Error as error:
        raise System(f"{operation} {path}: {error}", remedy="look for a full or failing disk") from error


def _connect(path: Path, mode: str, synchronous: str) -> Transaction:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=_LOCK_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if mode == "rw":
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _migrate(connection: Transaction, path: Path, migrations: Sequence[str]) -> None:
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if owner != APPLICATION_ID and (owner or tables):
        raise System(
            f"open {path}: this is another program's sqlite file", remedy="give Sampan a root of its own"
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise Unsupported(
            f"open {path}: its schema is version {version}, this Sampan knows up to {len(migrations)}",
            remedy="start the newer Sampan that wrote it; a schema is never migrated back",
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    for number, script in enumerate(migrations[version:], version + 1):
        # Both pragmas write the file's header, within the transaction.
        header = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={number};"
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}; {header} COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _damaged(path: Path, error: Exception) -> System:
    if isinstance(error, OSError):
        return System(
            f"open {path}: {error.strerror}", remedy="look at the owner, mode and disk of its directory"
        )
    return System(
        f"open {path}: {error}",
        remedy="the metadata is damaged: put back a copy of it, or move it away and start with none",
    )


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
