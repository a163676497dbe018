"""Settings of the vxlan driver."""

from __future__ import annotations

from pydantic import Field

from sampan.api.config import DriverConfig


class VxlanConfig(DriverConfig):
    """`[network.vxlan]` in config.toml."""

    port: int = Field(default=4789, ge=1, le=65535, description="UDP port of networks that ask for none")
