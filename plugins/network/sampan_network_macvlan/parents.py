"""Parents: the links of the host that networks stand on.

Most are somebody else's and are used as they are. Two kinds are made here, bear the driver's mark, and go with the last
network on them: LINK.NUMBER, a VLAN link on LINK, and for a network that names none a bridge without ports. Nothing but
the network's own links hears what is sent there: a macvlan link's lower side sends to the wire, and this one has no wire.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.api.errors import Conflict, InvalidArgument, Unavailable
from sampan.api.marks import Marks
from sampan.api.network import Network
from sampan.linux import netlink, uppers
from sampan.linux.netlink import Link, Netlink
from sampan_network_macvlan import options


def name_of(network: Network, marks: Marks) -> str:
    """Give the name of a network's parent."""
    return options.parse(network.options).parent or f"sm-{marks.engine_id[:4]}-{network.id[:6]}"


def find(network: Network, marks: Marks) -> Link | None:
    """Give a network's parent, or None. Raises `OSError`."""
    with Netlink() as kernel:
        return kernel.link(name_of(network, marks))


def ensure(network: Network, marks: Marks) -> Link:
    """Give a network's parent; make it, or bring it up, if that is ours to do. Idempotent.

    Raises `Unavailable` if the host lacks it, `Conflict` if it is another engine's or network's, `OSError` (EOPNOTSUPP: no
    802.1Q here).
    """
    name = name_of(network, marks)
    with Netlink() as kernel:
        found = kernel.link(name)
        if found is None:
            _make(kernel, network, name, marks)
            found = kernel.link(name)
            if found is None:
                raise Unavailable(f"parent {name} of network {network.name} was made and is gone again")
        _refuse_others(found, network, marks)
        if not found.up and marks.own(found):
            kernel.run(netlink.set_link(found.index, up=True))
    return found


def remove(network: Network, others: Iterable[Network], marks: Marks) -> None:
    """Delete a network's parent if it was made here and none of the others stands on it. Idempotent. Raises `OSError`."""
    name = name_of(network, marks)
    if name in {name_of(other, marks) for other in others}:
        return
    with Netlink() as kernel:
        found = kernel.link(name)
        if found is not None and marks.own(found):
            kernel.discard(found.index)


def orphans(networks: Iterable[Network], marks: Marks) -> list[Link]:
    """Give the parents made here that none of these networks stands on. Raises `OSError`."""
    names = {name_of(network, marks) for network in networks}
    with Netlink() as kernel:
        return [link for link in kernel.links() if marks.own(link) and link.name not in names]


def _make(kernel: Netlink, network: Network, name: str, marks: Marks) -> None:
    given = options.parse(network.options)
    if given.vlan is not None:
        below, number = given.vlan
        lower = kernel.link(below)
        if lower is None:
            raise _missing(network, below)
        new = uppers.add_vlan(name, lower=lower.index, number=number)
    elif given.parent:
        raise _missing(network, name)
    else:
        new = netlink.add_bridge(name, mtu=given.mtu)
    # one send: no kill comes between the link and its mark
    kernel.run(new, netlink.set_link(name, alias=marks.network(network.id), up=True))


def _missing(network: Network, name: str) -> Unavailable:
    return Unavailable(
        f"network {network.name}: the requested parent interface {name} was not found on this host",
        remedy="name a link that `ip link` shows, LINK.NUMBER for a VLAN on one, or none for a network without a way out",
    )


def _refuse_others(link: Link, network: Network, marks: Marks) -> None:
    if not options.parse(network.options).parent:
        if link.alias != marks.network(network.id):
            raise Conflict(
                f"network {network.name}: a link {link.name} is there and not the network's ({link.alias or 'without a mark'})",
                remedy=f"delete it if nobody needs it: ip link delete {link.name}",
            )
    elif link.kind == "vlan" and link.alias.startswith("sampan ") and not marks.own(link):
        raise Conflict(
            f"network {network.name}: parent {link.name} is another engine's ({link.alias}) and goes with its network",
            remedy="delete that network, make the VLAN link yourself, and both can use it",
        )


def reject_contradictions(network: Network, others: Iterable[Network], marks: Marks) -> None:
    """Refuse what options say against each other, or against the other networks. Raises `InvalidArgument`, `Conflict`."""
    given = options.parse(network.options)
    if network.internal and given.parent:
        raise InvalidArgument(
            f"create network {network.name}: it is internal, and its parent {given.parent} leads out",
            remedy="leave the parent out, and the network is its containers' alone",
        )
    for other in others:
        modes = (given.mode, options.parse(other.options).mode)
        if other.id != network.id and name_of(other, marks) == name_of(network, marks) and "passthru" in modes:
            raise Conflict(
                f"create network {network.name}: network {other.name} is already using parent interface {given.parent},"
                " and mode passthru takes a parent for itself",
                remedy="name another parent, or a mode other than passthru for both",
            )
