"""The network contract: networks, and endpoints of sandboxes in them.

A *sandbox* is a container's network namespace. The engine makes it and hands it over as an open file descriptor of
`/proc/…/ns/net`; an *endpoint* is a sandbox's place in one network. Addresses are chosen before, by an IPAM driver, and
arrive in the endpoint as data. A driver keeps no state that it could not rebuild: the engine's store knows all networks
and endpoints, and hands them to `gc` after a restart.

Rules, after CNI: `detach` and `delete_network` are idempotent and best-effort: what is not there is not an error. `check`
finds damage and repairs nothing. `gc` removes whatever this engine made that is not among the valid ones, and nothing else.
Every object a driver makes on the host carries the engine's id, so that many engines live on one host.

What holds after a crash: an `attach` that did not return has left nothing that `gc` cannot find.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sampan.api.driver import Driver

if TYPE_CHECKING:
    from sampan.api.config import DriverConfig

__all__ = [
    "Attachment", "Endpoint", "Network", "NetworkCapability", "NetworkContext", "NetworkDriver", "PortMapping",
    "SandboxKind", "Subnet",
]  # fmt: skip


class NetworkCapability(enum.StrEnum):
    """Optional parts of the contract."""

    PUBLISH = "publish"
    """Ports can be published on the host."""
    IPV6 = "ipv6"
    MULTIPLE = "multiple"
    """More than one network of this driver may exist."""


class SandboxKind(enum.StrEnum):
    """Which network namespace a container in such a network lives in."""

    OWN = "own"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One address range of a network: `prefix` as CIDR text, `gateway` as an address in it or None."""

    prefix: str
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A network as the store knows it. `options` are the driver options of `network create -o`."""

    id: str
    name: str
    driver: str
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A range of `count` ports from `host_port` on the host to `container_port` in the sandbox.

    `protocol` is `tcp`, `udp` or `sctp`. `host_ip` "" means every address of the host, of both families. `host_port` 0
    asks the driver for free ports; what it chose comes back in `Attachment.ports` or from `publish`.
    """

    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A sandbox's place in a network. Addresses with prefix length ("172.17.0.2/16"); `mac` as aa:bb:cc:dd:ee:ff."""

    id: str
    network_id: str
    container_id: str
    interface: str = "eth0"
    mac: str = ""
    ipv4: str | None = None
    ipv6: str | None = None
    gateway: bool = True
    """Whether the sandbox's default route goes by this endpoint."""
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Attachment:
    """What `attach` made: the host's side of the link (or ""), the mac in use, the MTU in bytes (0: unknown).

    `ports` are the endpoint's as published, in its order, with every host port filled in.
    """

    host_interface: str = ""
    mac: str = ""
    mtu: int = 0
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkContext:
    """What the engine hands a driver: a directory of its own for state, and the engine's id (8 hex digits)."""

    state: Path
    engine_id: str


class NetworkDriver(Driver):
    """Networks and endpoints, version 1.0. See the module's text for the rules."""

    sandbox: ClassVar[SandboxKind] = SandboxKind.OWN

    def __init__(self, context: NetworkContext, config: DriverConfig) -> None:
        """Keep the arguments; do nothing else."""
        self.context = context
        self.config = config

    @abstractmethod
    def open(self, networks: Sequence[Network]) -> None:
        """Make ready, with the networks that exist as the store says; what is missing on the host is made. Idempotent."""

    @abstractmethod
    def close(self) -> None:
        """Let go of sockets and handles; networks and endpoints stay up. Idempotent."""

    @abstractmethod
    def default_network(self) -> Network | None:
        """Give what the driver's default network should be (name, options; no subnets: IPAM's), or None if it has none."""

    @abstractmethod
    def create_network(self, network: Network) -> None:
        """Make the network on the host. `InvalidArgument` for a bad option, `Conflict` if the host's state forbids it."""

    @abstractmethod
    def delete_network(self, network: Network) -> None:
        """Remove the network from the host. Idempotent, best-effort; `System` if something of it cannot be removed."""

    @abstractmethod
    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Put the sandbox behind descriptor `netns` into the network: link, addresses, routes, published ports.

        All or nothing: on an error nothing of the endpoint is left. `Conflict` if an address or a host port is taken.
        """

    @abstractmethod
    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Take the endpoint out: ports, link. The sandbox may be gone already. Idempotent, best-effort."""

    @abstractmethod
    def publish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Publish more ports of a live endpoint, in one transaction; give them with every host port filled in.

        `Conflict` names the port that is taken; a port that this endpoint has already is none.
        """

    @abstractmethod
    def unpublish(self, network: Network, endpoint: Endpoint, ports: Sequence[PortMapping]) -> None:
        """Take published ports back, in one transaction. Idempotent."""

    @abstractmethod
    def check(self, network: Network, endpoint: Endpoint, netns: int) -> tuple[str, ...]:
        """Name what is damaged about a live endpoint, a line each; empty if all is well. Repairs nothing."""

    @abstractmethod
    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Remove whatever this engine made for this driver that belongs to none of these; name each thing removed."""
