"""Settings of the bridge driver."""

from __future__ import annotations

from pydantic import Field, field_validator

from sampan.api.config import DriverConfig
from sampan.linux.netlink import is_link_name


class BridgeConfig(DriverConfig):
    """`[network.bridge]` in config.toml."""

    bridge_name: str = Field(default="sampan0", description="Link of the default network")
    mtu: int = Field(default=1500, ge=68, le=65535, description="MTU of networks that ask for none, in bytes")
    icc: bool = Field(default=True, description="Let containers of the default network reach each other")
    masquerade: bool = Field(default=True, description="Give what leaves the default network the host's address")
    docker_user: bool = Field(
        default=False, description="Add an accept for our bridges to Docker's chain DOCKER-USER where there is one"
    )

    @field_validator("bridge_name")
    @classmethod
    def _names_one_link(cls, value: str) -> str:
        if not is_link_name(value):
            raise ValueError(f"bridge_name {value!r} is no name of a link")
        return value
