"""Settings: `[storage.example]` in config.toml."""

from __future__ import annotations

from typing import Literal

from sampan.api.config import DriverConfig


class ExampleConfig(DriverConfig):
    """`reflink` is passed to cp."""

    reflink: Literal["auto", "always", "never"] = "auto"
