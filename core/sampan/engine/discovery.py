"""Service discovery: who answers to which name in which network, and what each sandbox may ask.

The truth is here, rebuilt from the store at every start; `sampan-netd` answers from a copy of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What one sandbox's name server answers: names of these networks, links, and the world's by these servers.

    `networks`: ids, in the order that names are looked for. `links`: another name, for this sandbox only → container id.
    `servers`: IP addresses (`--dns`, or the host's). `forwards`: whether names that no network knows are asked outside.
    """

    container_id: str
    networks: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    servers: tuple[str, ...] = ()
    forwards: bool = True


class Discovery:
    """Names of the running containers."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, Member]] = {}
        self._sandboxes: dict[str, Sandbox] = {}

    async def serve(self, sandbox: Sandbox, netns: int) -> None:
        """Answer names in a sandbox from now on, or change what is answered there. Before its container starts."""
        self._sandboxes[sandbox.container_id] = sandbox

    async def forget(self, container_id: str) -> None:
        """Answer nothing more in a container's sandbox. Idempotent."""
        self._sandboxes.pop(container_id, None)

    async def join(self, network_id: str, member: Member) -> None:
        """Have a container found in a network; once more with other names replaces them."""
        self._members.setdefault(network_id, {})[member.container_id] = member

    async def leave(self, network_id: str, container_id: str) -> None:
        """Have a container found there no more. Idempotent."""
        members = self._members.get(network_id, {})
        members.pop(container_id, None)
        if not members:
            self._members.pop(network_id, None)
