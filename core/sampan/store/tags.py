"""Tags: which image a reference names. A reference is in its long form
(`docker.io/library/busybox:latest`)."""

from __future__ import annotations

from sampan.store.database import Transaction


def put(tx: Transaction, reference: str, image_id: str) -> str | None:
    """Let `reference` name `image_id`; give the image that it named before, if another."""
    before = get(tx, reference)
    tx.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (reference, image_id))
    return before if before != image_id else None


def get(tx: Transaction, reference: str) -> str | None:
    """Give the image that `reference` names, or None."""
    row = tx.execute("SELECT image_id FROM tags WHERE reference = ?", (reference,)).fetchone()
    return None if row is None else str(row[0])


def remove(tx: Transaction, reference: str) -> bool:
    """Forget `reference`; tell whether it was there."""
    return tx.execute("DELETE FROM tags WHERE reference = ?", (reference,)).rowcount > 0


def of_image(tx: Transaction, image_id: str) -> list[str]:
    """Give the references that name `image_id`, sorted."""
    rows = tx.execute("SELECT reference FROM tags WHERE image_id = ? ORDER BY reference", (image_id,))
    return [row[0] for row in rows]


def everything(tx: Transaction) -> dict[str, list[str]]:
    """Give the sorted references of every tagged image, by image id."""
    references: dict[str, list[str]] = {}
    for reference, image_id in tx.execute("SELECT reference, image_id FROM tags ORDER BY reference"):
        references.setdefault(image_id, []).append(reference)
    return references
