"""Entry point of the vfs plugin."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.api.hookspecs import hookimpl
from sampan.api.storage import StorageDriver


@hookimpl
def sampan_register_storage_drivers() -> Sequence[type[StorageDriver]]:
    """Offer the vfs driver."""
    from sampan_storage_vfs.driver import VfsDriver

    return [VfsDriver]
