"""Base of every driver's configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class DriverConfig(BaseModel):
    """A driver's settings, read from `[storage.NAME]`, `[network.NAME]`, … in config.toml; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
