"""Entry point of the btrfs plugin."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.api.hookspecs import hookimpl
from sampan.api.storage import StorageDriver


@hookimpl
def sampan_register_storage_drivers() -> Sequence[type[StorageDriver]]:
    """Offer the btrfs driver."""
    from sampan_storage_btrfs.driver import BtrfsDriver

    return [BtrfsDriver]
