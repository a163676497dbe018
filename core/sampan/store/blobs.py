"""The ledger of blobs: which images need which blob. A blob that no image needs may be deleted."""

from __future__ import annotations

from sampan.store.database import Transaction


def add(tx: Transaction, image_id: str, digest: str, size: int) -> None:
    """Record that `image_id` needs a blob of so many bytes; a known one is no error."""
    tx.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (image_id, digest, size))


def remove_image(tx: Transaction, image_id: str) -> list[str]:
    """Forget what `image_id` needs; give the digests that nothing needs now."""
    needed = [row[0] for row in tx.execute("SELECT digest FROM blobs WHERE image_id = ?", (image_id,))]
    tx.execute("DELETE FROM blobs WHERE image_id = ?", (image_id,))
    return [digest for digest in needed if not is_needed(tx, digest)]


def is_needed(tx: Transaction, digest: str) -> bool:
    """Tell whether any image needs this blob."""
    return tx.execute("SELECT 1 FROM blobs WHERE digest = ? LIMIT 1", (digest,)).fetchone() is not None


def everything(tx: Transaction) -> dict[str, list[str]]:
    """Give every blob that an image needs, with the images that do."""
    images: dict[str, list[str]] = {}
    for image_id, digest in tx.execute("SELECT image_id, digest FROM blobs ORDER BY image_id"):
        images.setdefault(digest, []).append(image_id)
    return images


def rows(tx: Transaction) -> dict[tuple[str, str], int]:
    """Give the whole ledger: (image id, digest), and the blob's size in bytes."""
    return {(image_id, digest): size for image_id, digest, size in tx.execute("SELECT image_id, digest, size FROM blobs")}


def sizes(tx: Transaction) -> dict[str, int]:
    """Give the size in bytes of every blob that an image needs."""
    return dict(tx.execute("SELECT DISTINCT digest, size FROM blobs"))
