"""Settings of the btrfs driver, `[storage.btrfs]` in config.toml."""

from __future__ import annotations

from sampan.api.config import DriverConfig


class BtrfsConfig(DriverConfig):
    """`quotas`: turn simple quotas on for the whole file system that the root is on, if it has none, so that snapshots can be
    limited in size. Quotas that are on already are used if they are simple ones, and left alone if not.
    """

    quotas: bool = False
