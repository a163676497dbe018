"""The ledger of snapshots: which object owns which snapshot of which storage driver.

A snapshot of an image's layer has as many owners as images use it; a container's has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sampan.store.database import Transaction


@dataclass(frozen=True, slots=True)
class SnapshotOwner:
    """One owner of one snapshot: `owner_kind` is `container` or `image`, `owner_id` its id."""

    driver: str
    key: str
    owner_kind: str
    owner_id: str


def add(tx: Transaction, owner: SnapshotOwner) -> None:
    """Record an owner; one that is known is no error."""
    tx.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?)",
               (owner.driver, owner.key, owner.owner_kind, owner.owner_id))  # fmt: skip


def remove(tx: Transaction, owner: SnapshotOwner) -> bool:
    """Forget an owner; tell whether the snapshot has no owner now."""
    tx.execute("DELETE FROM snapshots WHERE driver = ? AND key = ? AND owner_kind = ? AND owner_id = ?",
               (owner.driver, owner.key, owner.owner_kind, owner.owner_id))  # fmt: skip
    return not owners(tx, owner.driver, owner.key)


def owners(tx: Transaction, driver: str, key: str) -> list[SnapshotOwner]:
    """Give the owners of one snapshot."""
    rows = tx.execute("SELECT * FROM snapshots WHERE driver = ? AND key = ?", (driver, key))
    return [SnapshotOwner(*row) for row in rows]


def disown(tx: Transaction, owner_kind: str, owner_id: str) -> list[SnapshotOwner]:
    """Forget all that one object owns; give what has no owner now."""
    return [owner for owner in owned(tx, owner_kind, owner_id) if remove(tx, owner)]


def owned(tx: Transaction, owner_kind: str, owner_id: str) -> list[SnapshotOwner]:
    """Give what one object owns."""
    rows = tx.execute("SELECT * FROM snapshots WHERE owner_kind = ? AND owner_id = ?", (owner_kind, owner_id))
    return [SnapshotOwner(*row) for row in rows]


def everything(tx: Transaction) -> list[SnapshotOwner]:
    """Give the whole ledger."""
    return [SnapshotOwner(*row) for row in tx.execute("SELECT * FROM snapshots ORDER BY driver, key")]


def of_driver(tx: Transaction, driver: str) -> dict[str, list[SnapshotOwner]]:
    """Give the owners of each snapshot of one driver, by its key."""
    found: dict[str, list[SnapshotOwner]] = {}
    for row in tx.execute("SELECT * FROM snapshots WHERE driver = ?", (driver,)):
        owner = SnapshotOwner(*row)
        found.setdefault(owner.key, []).append(owner)
    return found
