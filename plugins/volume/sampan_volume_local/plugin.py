"""Entry point of the local volume driver."""

from __future__ import annotations

from sampan.api.hookspecs import hookimpl
from sampan.api.volume import VolumeDriver
from sampan_volume_local.driver import LocalVolumes


@hookimpl
def sampan_register_volume_drivers() -> list[type[VolumeDriver]]:
    """Offer the local driver."""
    return [LocalVolumes]
