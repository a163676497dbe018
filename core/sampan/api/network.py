"""The network contract: networks, and endpoints of sandboxes in them.

A *sandbox* is a container's network namespace. The engine makes it and hands it over as an open file descriptor of
`/proc/…/ns/net`; an *endpoint* is a sandbox's place in one network, and a sandbox may have many, in networks of different
drivers. Addresses are chosen before, by an IPAM driver, and arrive in the endpoint as data. A driver keeps no state that
it could not rebuild: the engine's store knows all networks and endpoints, and hands them to `gc` and `repair` after a
restart. Names are the engine's: its DNS server answers in every sandbox, whatever drivers it stands on.

Rules, after CNI: `detach` and `delete_network` are idempotent and best-effort: what is not there is not an error. `check`
finds damage and repairs nothing. `gc` removes whatever this engine made that is not among the valid ones, and nothing else.
Every object a driver makes on the host carries the engine's id, so that many engines live on one host. What is right stays
untouched: a restart mends by difference, and a connection through a published port does not notice it.

The work inside a sandbox (addresses, routes) is the same for most drivers: `sampan.api.sandbox` does it for them.

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

    MULTIPLE = "multiple"
    """More than one network of this driver may exist."""
    ADDRESSES = "addresses"
    """Networks have subnets and endpoints addresses, of an IPAM driver's choice."""
    IPV6 = "ipv6"
    NAT = "nat"
    """Containers reach the host by their gateway, and the world outside with the host's address."""
    PUBLISH = "publish"
    """Ports can be published on the host."""
    PREPARE = "prepare"
    """`prepare` makes an endpoint's link before its addresses are known, so that `attach` finds it there."""


class SandboxKind(enum.StrEnum):
    """Which network namespace a container in such a network lives in."""

    OWN = "own"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One address range of a network: `prefix` as CIDR text, `gateway` as an address in it or None."""

    prefix: str
    gateway: str | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.prefix else 4


@dataclass(frozen=True, slots=True)
class Network:
    """A network as the store knows it. `options` are the driver options of `network create -o`.

    `internal`: no way out of it. `subnets`: at most one of each version takes part in an endpoint's addresses.
    """

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
    asks the driver for free ports; `host_port_end` (0: none) for one free port from `host_port` to there, and `count` is 1
    then. What the driver chose comes back in `Attachment.ports` or from `publish`, with `host_port_end` 0.
    """

    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""
    count: int = 1
    host_port_end: int = 0


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
    link_local: tuple[str, ...] = ()
    """More addresses, in no subnet of the network (`--link-local-ip`)."""
    gateway_for: tuple[int, ...] = (4, 6)
    """IP versions whose default route in the sandbox goes by this endpoint, where its network has a gateway for them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The driver options of `network connect --driver-opt`."""
    ports: tuple[PortMapping, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, with prefix length."""
        return tuple(address for address in (self.ipv4, self.ipv6, *self.link_local) if address)


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
    """What the engine hands a driver: a directory of its own for state, and the engine's id (8 hex digits).

    `proxy_port`: where the engine's proxy listens on every IPv6 address of the host, TCP and UDP (0: there is none). The
    kernel cannot translate [::1], nor IPv6 to IPv4: a driver redirects such packets there, and the proxy passes each to
    the endpoint that published the port which it was sent to.
    """

    state: Path
    engine_id: str
    proxy_port: int = 0


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

    def has_gateway(self, network: Network, version: int) -> bool:
        """Say whether a network that is to be made, and has no subnets yet, has a gateway of this IP version.

        If not, IPAM keeps no address for it, unless the user names one. `InvalidArgument` for a bad option.
        """
        return True

    @abstractmethod
    def create_network(self, network: Network) -> None:
        """Make the network on the host. `InvalidArgument` for a bad option, `Conflict` if the host's state forbids it."""

    @abstractmethod
    def delete_network(self, network: Network) -> None:
        """Remove the network from the host. Idempotent, best-effort; `System` if something of it cannot be removed."""

    def prepare(self, network: Network, endpoint: Endpoint, netns: int) -> None:  # noqa: B027 - optional
        """Make the link of an endpoint that has no addresses yet, in a sandbox that waits for a container.

        Only asked of drivers that claim PREPARE. A later `attach` of an endpoint with the same id and interface, in the
        same sandbox, finishes it; `detach` takes it away. Idempotent. After a crash `gc` finds it like any other.
        """

    @abstractmethod
    def attach(self, network: Network, endpoint: Endpoint, netns: int) -> Attachment:
        """Put the sandbox behind descriptor `netns` into the network: link, addresses, routes, published ports.

        All or nothing: on an error nothing of the endpoint is left. `Conflict` if an address or a host port is taken.
        """

    @abstractmethod
    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Take the endpoint out: ports, link. The sandbox may be gone already, or live on. Idempotent, best-effort."""

    def release(self, network: Network, endpoint: Endpoint) -> None:
        """As `detach`, for a sandbox that has ended: ports are free when it returns, and addresses for the next `attach`.

        What takes the kernel long may be done a little later, unless a crash comes before: `gc` finds it. The endpoint's id
        is nobody's from now on.
        """
        self.detach(network, endpoint)

    def set_gateway(self, network: Network, endpoint: Endpoint, netns: int) -> None:
        """Lead the sandbox's default routes of the versions in `endpoint.gateway_for` by this endpoint; others stay.

        Replaces in one step: there is no moment without a route. A network without a gateway for a version changes
        nothing for it. Raises `System`.
        """
        from sampan.api import sandbox

        sandbox.set_gateway(network, endpoint, netns)

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

    def repair(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Make again what is missing of a live endpoint on the host's side, by difference; name each thing mended.

        Asked for every live endpoint after a restart, once `gc` has run. What is right is not touched.
        """
        return ()

    def explain(self, network: Network, endpoint: Endpoint) -> tuple[str, ...]:
        """Say in words which packets reach the endpoint and which it may send, and by which rule; a sentence each."""
        return ()

    def obstacles(self) -> tuple[str, ...]:
        """Name what on this host, outside of the driver's hands, keeps its packets from their way; each with its remedy."""
        return ()

    def orphans(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Name what `gc` would remove, and remove nothing. A driver that does not say is swept at start only."""
        return ()

    @abstractmethod
    def gc(self, networks: Sequence[Network], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Remove whatever this engine made for this driver that belongs to none of these; name each thing removed."""
