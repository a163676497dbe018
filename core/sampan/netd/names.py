"""Who answers to which name: members of networks, and what each sandbox may ask. Plain data, and the lookups in it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sampan.linux.messages import Message

NAMESERVER = "127.0.0.11"
"""Where a sandbox in a network with names asks."""


@dataclass(frozen=True, slots=True)
class Member:
    """A container in a network, as others find it.

    `names`: the container's name first (reverse lookups give it), then aliases, short id, host name. `addresses` without
    prefix length.
    """

    container_id: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]

    def to_data(self) -> Message:
        """Give it as plain data."""
        return {"container": self.container_id, "names": self.names, "addresses": self.addresses}

    @classmethod
    def from_data(cls, data: Message) -> Member:
        """Give back what `to_data` made."""
        return cls(data["container"], tuple(data["names"]), tuple(data["addresses"]))


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that is asked for the world's names; `from_host`: from the host's network, for only there it is reached."""

    address: str
    from_host: bool = False

    def __str__(self) -> str:
        return f"host({self.address})" if self.from_host else self.address


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What one sandbox's name server answers: names of these networks, links, and the world's by these servers.

    `networks`: ids, in the order that names are looked for, and `network_names` what they are called: a member is also found
    as NAME.NETWORK. `links`: another name, for this sandbox only → the name that it stands for. `servers`: asked in this order
    (`--dns`, or the host's). `forwards`: whether names that no network knows are asked outside. `dotted_only`: of those only
    names with a dot, since the container's own `ndots` says that its search domains complete the others.
    """

    container_id: str
    networks: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    servers: tuple[Upstream, ...] = ()
    forwards: bool = True
    network_names: Mapping[str, str] = field(default_factory=dict)
    dotted_only: bool = False

    def to_data(self) -> Message:
        """Give it as plain data."""
        return {
            "container": self.container_id,
            "networks": self.networks,
            "links": dict(self.links),
            "servers": [(server.address, server.from_host) for server in self.servers],
            "forwards": self.forwards,
            "network_names": dict(self.network_names),
            "dotted_only": self.dotted_only,
        }

    @classmethod
    def from_data(cls, data: Message) -> Sandbox:
        """Give back what `to_data` made."""
        return cls(
            container_id=data["container"],
            networks=tuple(data["networks"]),
            links=data["links"],
            servers=tuple(Upstream(*server) for server in data["servers"]),
            forwards=data["forwards"],
            network_names=data["network_names"],
            dotted_only=data["dotted_only"],
        )


class Names:
    """All networks' members. Names are compared as DNS does: bytes, ASCII letters of either case."""

    def __init__(self) -> None:
        """Nobody yet."""
        self.version = 0
        """Grows with every change."""
        self._networks: dict[str, _Network] = {}

    def join(self, network_id: str, member: Member) -> None:
        """Add a member, or replace the same container's."""
        network = self._networks.setdefault(network_id, _Network())
        network.leave(member.container_id)
        network.join(member)
        self.version += 1

    def leave(self, network_id: str, container_id: str) -> None:
        """Take a member away. Idempotent."""
        network = self._networks.get(network_id)
        if network is not None:
            network.leave(container_id)
            if not network.members:
                del self._networks[network_id]
        self.version += 1

    def replace(self, members: Mapping[str, Iterable[Member]]) -> None:
        """Know these, by network, and no others."""
        self._networks = {}
        for network_id, some in members.items():
            for member in some:
                self.join(network_id, member)
        self.version += 1

    def find(self, sandbox: Sandbox, name: bytes) -> list[Member]:
        """Give the members that a name means in a sandbox, in its first network that knows it; none if nobody does.

        `name` in lower case, without the last dot.
        """
        name = next((_key(meant) for alias, meant in sandbox.links.items() if _key(alias) == name), name)
        for network in self._of(sandbox):
            if found := network.named(name):
                return found
        if b"." not in name:
            return []
        called = {_key(sandbox.network_names.get(key, "")): self._networks[key] for key in sandbox.networks if key in self._networks}
        for dot in (place for place, byte in enumerate(name) if byte == 0x2E):
            if (meant := called.get(name[dot + 1 :])) is not None:
                return meant.named(name[:dot])
        return []

    def name_of(self, sandbox: Sandbox, address: bytes) -> str:
        """Give the name of the member with a packed address: NAME.NETWORK where the network's name is known; "" if nobody."""
        for network_id in sandbox.networks:
            network = self._networks.get(network_id)
            member = network.by_address.get(address) if network else None
            if member is not None:
                called = sandbox.network_names.get(network_id)
                return f"{member.names[0]}.{called}" if called else member.names[0]
        return ""

    def _of(self, sandbox: Sandbox) -> Iterator[_Network]:
        for network_id in sandbox.networks:
            if network_id in self._networks:
                yield self._networks[network_id]


class _Network:
    """One network's members, found by name and by address."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.by_address: dict[bytes, Member] = {}
        self._by_name: dict[bytes, dict[str, Member]] = {}

    def named(self, name: bytes) -> list[Member]:
        return list(self._by_name.get(name, {}).values())

    def join(self, member: Member) -> None:
        self.members[member.container_id] = member
        for name in member.names:
            self._by_name.setdefault(_key(name), {})[member.container_id] = member
        for address in member.addresses:
            self.by_address[ipaddress.ip_address(address).packed] = member

    def leave(self, container_id: str) -> None:
        member = self.members.pop(container_id, None)
        if member is None:
            return
        for name in member.names:
            others = self._by_name.get(_key(name), {})
            others.pop(container_id, None)
            if not others:
                self._by_name.pop(_key(name), None)
        for address in member.addresses:
            packed = ipaddress.ip_address(address).packed
            if self.by_address.get(packed) is member:
                del self.by_address[packed]


def _key(name: str) -> bytes:
    return name.encode().lower()
