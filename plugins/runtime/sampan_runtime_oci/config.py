"""Settings of the drivers that call an OCI runtime."""

from __future__ import annotations

from pydantic import Field

from sampan.api.config import DriverConfig


class OciConfig(DriverConfig):
    """`[runtimes.runc]`, `[runtimes.crun]`, … in config.toml."""

    binary: str = Field(
        default="", description="Name on PATH or absolute path of the program; empty: the driver's name"
    )
    root: str = Field(
        default="", description="The program's --root; empty: a directory of each container's own state"
    )
    extra_args: tuple[str, ...] = Field(default=(), description="Options put before the program's command")
