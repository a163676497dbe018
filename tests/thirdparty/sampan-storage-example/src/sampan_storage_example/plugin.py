"""Entry point: says which drivers this distribution has."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.api.hookspecs import hookimpl
from sampan.api.storage import StorageDriver


@hookimpl
def sampan_register_storage_drivers() -> Sequence[type[StorageDriver]]:
    """Offer the driver."""
    from sampan_storage_example.driver import ExampleDriver

    return [ExampleDriver]
