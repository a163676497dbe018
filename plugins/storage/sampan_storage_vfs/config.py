"""Settings of the vfs driver, `[storage.vfs]` in config.toml."""

from __future__ import annotations

from sampan.api.config import DriverConfig


class VfsConfig(DriverConfig):
    """None: the file system that the root lies on decides how a copy is made."""
