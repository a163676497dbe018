"""Leftovers: what is forgotten but not yet deleted, so that no slow deletion is lost to a crash.

Written in the transaction that forgets the object, removed when the deletion is done, walked at every start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing still to delete: `kind` says how (`snapshot`, `endpoint`, `blob`, …), `doc` is what that
    needs, as JSON data."""

    kind: str
    key: str
    doc: Mapping[str, Any] = field(default_factory=dict)


def add(tx: Transaction, leftover: Leftover) -> None:
    """Record a thing to delete; the same kind and key again replaces its `doc`."""
    tx.execute("INSERT OR REPLACE INTO leftovers VALUES (?, ?, ?)",
               (leftover.kind, leftover.key, json.dumps(dict(leftover.doc))))  # fmt: skip


def done(tx: Transaction, kind: str, key: str) -> None:
    """Forget it: it is deleted."""
    tx.execute("DELETE FROM leftovers WHERE kind = ? AND key = ?", (kind, key))


def everything(tx: Transaction, kind: str | None = None) -> list[Leftover]:
    """Give all that is still to delete, or all of one kind, oldest first."""
    rows = tx.execute(
        "SELECT kind, key, doc FROM leftovers WHERE ?1 IS NULL OR kind = ?1 ORDER BY rowid", (kind,)
    )
    return [Leftover(row[0], row[1], json.loads(row[2])) for row in rows]
