"""The IPAM contract: which subnet a network gets, and which address an endpoint.

The engine's store is the only record of what is in use, and hands it over with every question; so an address can't leak in
a crash. `release` is for drivers that lease from somewhere else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.api.driver import Driver
from sampan.api.network import Subnet

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """What a new network asks for. `prefix` and `gateway` as the user gave them, or None; `in_use` are taken prefixes.

    `ip_range` is what the driver may give of the subnet, to the gateway too if that is not named. `version` is for a
    request without prefix.
    """

    prefix: str | None = None
    gateway: str | None = None
    ip_range: str | None = None
    version: int = 4
    in_use: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """What an endpoint asks for in `subnet`. `in_use` are addresses without prefix length, the gateway among them.

    `ip_range` bounds what the driver chooses; a `preferred` address may be any host's of the subnet.
    """

    subnet: Subnet
    ip_range: str | None = None
    preferred: str | None = None
    in_use: Collection[str] = ()


class IpamDriver(Driver):
    """Chooses subnets and addresses, version 1.0."""

    def __init__(self, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        self.config = config

    @abstractmethod
    def choose_subnet(self, request: PoolRequest) -> Subnet:
        """Give a subnet with its gateway, clear of `in_use`; one that nobody named is clear of what the host uses as well.

        `InvalidArgument` for what makes no subnet, `Conflict` if the asked one overlaps, `Unavailable` if the pools are used up.
        """

    @abstractmethod
    def choose_address(self, request: AddressRequest) -> str:
        """Give an address with prefix length that is not in `in_use`; one that was given back may be given again at once.

        `InvalidArgument` for a preferred one that no host can have, `Conflict` if it is taken, `Unavailable` if all are.
        """

    def release(self, address: str) -> None:  # noqa: B027 - optional
        """Give an address back to where it was leased. Idempotent."""
