"""Settings of the overlayfs driver, `[storage.overlayfs]` in config.toml."""

from __future__ import annotations

from sampan.api.config import DriverConfig


class OverlayfsConfig(DriverConfig):
    """`volatile`: treat every active snapshot as if it had been asked for with `SnapshotOptions.volatile`."""

    volatile: bool = False
