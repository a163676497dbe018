"""Settings of the default IPAM driver."""

from __future__ import annotations

import ipaddress

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sampan.api.config import DriverConfig


class Pool(BaseModel):
    """A range that is cut into subnets of prefix length `size`, as one of Docker's default-address-pools."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    size: int

    @model_validator(mode="after")
    def _fits(self) -> Pool:
        network = ipaddress.ip_network(self.base)
        if not network.prefixlen <= self.size <= network.max_prefixlen - 2:
            raise ValueError(f"pool {self.base} cannot be cut into subnets of prefix length {self.size}")
        return self


_DOCKERS = (
    *(Pool(base=f"172.{second}.0.0/16", size=16) for second in range(17, 32)),
    Pool(base="192.168.0.0/16", size=20),
)


_IPV6_SUBNET = 64


class DefaultIpamConfig(DriverConfig):
    """`[ipam.default]` in config.toml."""

    pools: tuple[Pool, ...] = Field(
        default=_DOCKERS, description="Where subnets come from that nobody named, in this order"
    )
    unique_local: str = Field(
        default="",
        description="The /48 for IPv6 subnets when no pool is IPv6; empty: one made from this machine's id (RFC 4193)",
    )

    @field_validator("unique_local")
    @classmethod
    def _holds_subnets(cls, value: str) -> str:
        if value:
            network = ipaddress.ip_network(value)
            if network.version != 6 or network.prefixlen > _IPV6_SUBNET:
                raise ValueError(f"unique_local {value} holds no IPv6 subnet of prefix length {_IPV6_SUBNET}")
        return value
