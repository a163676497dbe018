"""The engine's records as rows: one `Table` per kind, over a pydantic model that the engine defines.

A record is one JSON document. The columns that `Shape` names repeat attributes of it, to search and to keep
unique. Every method takes the transaction first, so that changes of many tables are one transaction:

    await database.write(lambda tx: (containers.insert(tx, record), endpoints.insert(tx, endpoint)))
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from sampan.api.errors import Conflict, InvalidArgument, NotFound
from sampan.store.database import Transaction

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Shape:
    """How one kind of record lies in its table, and Docker's words when it is missing or taken.

    `key`: the primary column. `name`: the unique column beside it, or "". `links`: columns that hold other
    records' keys. `missing(ref)` and `taken(name, key of the holder)` give the texts of `NotFound` and
    `Conflict`.
    """

    table: str
    key: str
    name: str
    links: tuple[str, ...]
    missing: Callable[[str], str]
    taken: Callable[[str, str], str]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns but `doc`, in the order of an insert."""
        return (self.key, *((self.name,) if self.name else ()), *self.links)


CONTAINERS = Shape(
    "containers", "id", "name", (),
    missing=lambda ref: f"No such container: {ref}",
    taken=lambda name, holder: (
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    ),
)  # fmt: skip
IMAGES = Shape(
    "images", "id", "", (),
    missing=lambda ref: f"No such image: {ref}",
    taken=lambda name, holder: f"image {holder} already exists",
)  # fmt: skip
NETWORKS = Shape(
    "networks", "id", "name", (),
    missing=lambda ref: f"network {ref} not found",
    taken=lambda name, holder: f"network with name {name} already exists",
)  # fmt: skip
ENDPOINTS = Shape(
    "endpoints", "id", "", ("network_id", "container_id"),
    missing=lambda ref: f"endpoint {ref} not found",
    taken=lambda name, holder: f"endpoint {holder} already exists",
)  # fmt: skip
VOLUMES = Shape(
    "volumes", "name", "", (),
    missing=lambda ref: f"get {ref}: no such volume",
    taken=lambda name, holder: f"volume {holder} already exists",
)  # fmt: skip


class Table(Generic[M]):
    """The rows of one kind of record. Holds no state but the shape and the model."""

    def __init__(self, shape: Shape, model: type[M]) -> None:
        """Bind the shape to the model; the model must have an attribute for each of the shape's columns."""
        missing = [column for column in shape.columns if column not in model.model_fields]
        if missing:
            raise TypeError(
                f"{model.__name__} has no field {', '.join(missing)}, which table {shape.table} needs"
            )
        self.shape = shape
        self.model = model

    def get(self, tx: Transaction, key: str) -> M:
        """Give the record with this key. Raises `NotFound`."""
        record = self.find(tx, key)
        if record is None:
            raise NotFound(self.shape.missing(key))
        return record

    def find(self, tx: Transaction, key: str) -> M | None:
        """Give the record with this key, or None."""
        return self._one(tx, self.shape.key, key)

    def find_by_name(self, tx: Transaction, name: str) -> M | None:
        """Give the record with this name, or None."""
        return self._one(tx, self.shape.name or self.shape.key, name)

    def keys_with_prefix(self, tx: Transaction, prefix: str, limit: int = 2) -> list[str]:
        """Give the first keys that begin with `prefix`, at most `limit`."""
        key, table = self.shape.key, self.shape.table
        rows = tx.execute(
            f"SELECT {key} FROM {table} WHERE {key} >= ? AND {key} < ? ORDER BY {key} LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return [row[0] for row in rows]

    def resolve(self, tx: Transaction, ref: str) -> M:
        """Find what a client means by `ref`: a whole key, then a name, then the beginning of exactly one key.

        Raises `NotFound`, and `InvalidArgument` when the beginning fits several.
        """
        record = self.find(tx, ref) or self.find_by_name(tx, ref.removeprefix("/"))
        if record is not None:
            return record
        keys = self.keys_with_prefix(tx, ref) if ref and self.shape.name else []
        if not keys:
            raise NotFound(self.shape.missing(ref))
        if len(keys) > 1:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
        return self.get(tx, keys[0])

    def list(self, tx: Transaction, **links: str) -> list[M]:
        """Give all records, oldest row first; `links` narrows by columns: `endpoints.list(tx,
        network_id=…)`."""
        for column in links:
            if column not in self.shape.columns:
                raise TypeError(f"table {self.shape.table} cannot be searched by {column}")
        where = " AND ".join(f"{column} = ?" for column in links)
        sql = f"SELECT doc FROM {self.shape.table}" + (f" WHERE {where}" if where else "") + " ORDER BY rowid"
        return [self._parse(doc) for (doc,) in tx.execute(sql, tuple(links.values()))]

    def insert(self, tx: Transaction, record: M) -> None:
        """Add a record. Raises `Conflict` when its key or name is taken."""
        columns = (*self.shape.columns, "doc")
        sql = (
            f"INSERT INTO {self.shape.table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        )
        self._change(tx, sql, (*self._values(record), record.model_dump_json()), record)

    def update(self, tx: Transaction, record: M) -> None:
        """Replace the record that has the same key. Raises `NotFound`; `Conflict` when its new name is
        taken."""
        assignments = ", ".join(f"{column} = ?" for column in (*self.shape.columns, "doc"))
        sql = f"UPDATE {self.shape.table} SET {assignments} WHERE {self.shape.key} = ?"
        key = self._key(record)
        if not self._change(tx, sql, (*self._values(record), record.model_dump_json(), key), record):
            raise NotFound(self.shape.missing(key))

    def delete(self, tx: Transaction, key: str) -> None:
        """Forget the record with this key; one that is not there is no error."""
        tx.execute(f"DELETE FROM {self.shape.table} WHERE {self.shape.key} = ?", (key,))

    def _one(self, tx: Transaction, column: str, value: str) -> M | None:
        row = tx.execute(f"SELECT doc FROM {self.shape.table} WHERE {column} = ?", (value,)).fetchone()
        return None if row is None else self._parse(row[0])

    def _parse(self, doc: str) -> M:
        return self.model.model_validate_json(doc)

    def _values(self, record: M) -> tuple[str, ...]:
        return tuple(getattr(record, column) for column in self.shape.columns)

    def _key(self, record: M) -> str:
        key: str = getattr(record, self.shape.key)
        return key

    def _change(self, tx: Transaction, sql: str, values: tuple[str, ...], record: M) -> int:
        try:
            return tx.execute(sql, values).rowcount
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode not in (
                sqlite3.SQLITE_CONSTRAINT_UNIQUE,
                sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
            ):
                raise
            name, holder = self._key(record), self._key(record)
            if self.shape.name:
                name = getattr(record, self.shape.name)
                found = self.find_by_name(tx, name)
                holder = self._key(found) if found is not None else holder
            raise Conflict(self.shape.taken(name, holder)) from error
