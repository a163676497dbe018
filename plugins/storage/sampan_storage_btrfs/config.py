"""Settings of the btrfs driver, `[storage.btrfs]` in config.toml."""

from __future__ import annotations

from sampan.api.config import DriverConfig


class BtrfsConfig(DriverConfig):
    """None: subvolumes and snapshots need no tuning."""
