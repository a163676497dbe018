"""What a tunnel stands on: the host's link that its packets leave by."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument, Unavailable
from sampan.linux.netlink import Link, Netlink
from sampan.linux.vxlan import overhead
from sampan_network_vxlan.options import LOCAL, MTU, PARENT, Options


@dataclass(frozen=True, slots=True)
class Underlay:
    """Where a tunnel's packets leave.

    `parent`: index of the link to send by, 0 where the route chooses. `local`: the address to send from, unspecified where
    the route chooses. `remotes`: the other machines. `mtu`: what is left for the network, in bytes.
    """

    parent: int
    local: str
    remotes: tuple[str, ...]
    mtu: int


def find(kernel: Netlink, given: Options) -> Underlay:
    """Look where the tunnel's packets will leave. Raises `InvalidArgument`, `Unavailable`, `OSError`.

    This machine may stand among the remotes, so that the list is the same everywhere: then that is where it sends from, for
    the others know it by that address.
    """
    links = {link.index: link for link in kernel.links()}
    owners = {item.address.partition("/")[0]: item.index for item in kernel.addresses()}
    remotes = tuple(remote for remote in given.remotes if remote not in owners)
    local = given.local
    if ipaddress.ip_address(local).is_unspecified:
        local = next((remote for remote in given.remotes if remote in owners), local)
    elif local not in owners:
        raise InvalidArgument(f"network option {LOCAL}={local}: this host has no such address")
    leaving = _leaving(kernel, given, links, owners.get(local, 0), remotes)
    room = min(link.mtu for link in leaving) - overhead(given.version)
    if given.mtu > room:
        names = ", ".join(sorted(link.name for link in leaving))
        raise InvalidArgument(
            f"network option {MTU}={given.mtu} leaves no room for the tunnel's headers on {names}", remedy=f"at most {room}"
        )
    return Underlay(leaving[0].index if given.parent else 0, local, remotes, given.mtu or room)


def _leaving(
    kernel: Netlink, given: Options, links: Mapping[int, Link], owner: int, remotes: Sequence[str]
) -> list[Link]:  # fmt: skip
    """Give the links that packets may leave by, at least one: the parent, the local address's `owner`, or where routes lead."""
    if given.parent:
        found = [link for link in links.values() if link.name == given.parent]
        if not found:
            raise InvalidArgument(f"network option {PARENT}={given.parent}: this host has no such link")
        return found
    if owner:
        return [links[owner]]
    return [links[_way_to(kernel, remote)] for remote in remotes]


def _way_to(kernel: Netlink, remote: str) -> int:
    try:
        return kernel.route_to(remote).index
    except OSError as error:
        raise Unavailable(
            f"this host has no route to machine {remote}: {error.strerror}", remedy=f"add one, or say -o {PARENT}=LINK"
        ) from error
