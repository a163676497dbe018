"""Settings that the engine itself remembers: `engine_id`, `storage_driver`, `boot_id`."""

from __future__ import annotations

from sampan.store.database import Transaction


def get(tx: Transaction, key: str) -> str | None:
    """Give a setting, or None."""
    row = tx.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def put(tx: Transaction, key: str, value: str) -> None:
    """Set a setting."""
    tx.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))


def get_or_put(tx: Transaction, key: str, value: str) -> str:
    """Give a setting; one that is not there becomes `value`. Needs a writing transaction."""
    tx.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (key, value))
    return get(tx, key) or value
