"""Settings of the driver: `[runtimes.native]`."""

from __future__ import annotations

from sampan.api.config import DriverConfig


class NativeConfig(DriverConfig):
    """There is nothing to set: what a container gets is in its OCI spec."""
