"""Endpoints' links: each is made in its sandbox, on a parent of the host, and nothing of it is on the host.

It bears the engine's id as its group from its first moment on, and the endpoint's mark as a second name. By these it is found
in any sandbox that still lives, whoever holds it. A container that may change its links can take these marks off its own link,
and only that one: it then keeps a link that `detach` should have taken, until the sandbox ends.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from sampan.api import sandbox
from sampan.api.errors import SampanError
from sampan.api.marks import Marks
from sampan.api.network import Endpoint, Network
from sampan.linux import uppers
from sampan.linux.namespaces import call_in_netns, new_netns
from sampan.linux.netlink import Link, Netlink, Request, mac_of
from sampan.linux.uppers import Macvlan
from sampan_network_macvlan.options import Options

T = TypeVar("T")

_PATIENCE, _PAUSE = 5.0, 0.005  # seconds


def altname(marks: Marks, endpoint: Endpoint) -> str:
    """Give the second name of an endpoint's link: its mark, without the spaces that no name may have."""
    return marks.endpoint(endpoint.id).replace(" ", "-")


def make(network: Network, endpoint: Endpoint, netns: int, parent: Link, given: Options, marks: Marks) -> str:
    """Make an endpoint's link, ready to use; give its hardware address. All or nothing.

    Its neighbours hear of it at once: the wire is not ours alone, and who had its addresses before may have had another hardware
    address. Raises `OSError`, `Conflict`, `System`.
    """
    exclusive = given.mode == "passthru"
    mac = endpoint.mac or (mac_of(endpoint.ipv4) if endpoint.ipv4 and not exclusive else "")
    return _once_free(
        lambda: _make(network, endpoint, netns, parent, given, marks, mac),
        lambda: _is_taken(parent, "" if exclusive else mac, marks),
    )


def _make(
    network: Network, endpoint: Endpoint, netns: int, parent: Link, given: Options, marks: Marks, mac: str
) -> str:  # fmt: skip
    with Netlink() as kernel:
        uppers.give_id(kernel, netns)
        kernel.run(
            uppers.add_macvlan(
                endpoint.interface, lower=parent.index, mode=given.mode, netns=netns, mtu=given.mtu, group=_group(marks)
            )
        )
    try:
        made = call_in_netns(netns, lambda: _mark(endpoint, altname(marks, endpoint)))
        sandbox.configure(network, endpoint, netns, mac=mac)
        sandbox.announce(endpoint, netns)
    except BaseException:
        call_in_netns(netns, lambda: _discard(endpoint.interface))
        raise
    return mac or made.mac


def delete(endpoint: Endpoint, marks: Marks) -> None:
    """Delete an endpoint's link, whatever sandbox it is in. Idempotent. Raises `OSError`."""
    with Netlink() as kernel:
        for namespace in uppers.namespace_ids(kernel):
            _run_if_there(kernel, uppers.delete_by_altname(altname(marks, endpoint), namespace))


@dataclass(frozen=True, slots=True)
class Orphan:
    """A link of this engine that belongs to no endpoint, in the namespace with this id."""

    namespace: int
    link: Macvlan

    def __str__(self) -> str:
        """Name it, for people."""
        return f"link {self.link.name} of a sandbox ({', '.join(self.link.altnames) or 'not named yet'})"


def orphans(endpoints: Iterable[Endpoint], marks: Marks) -> list[Orphan]:
    """Give the links of this engine that belong to none of these endpoints. Raises `OSError`."""
    valid = {altname(marks, endpoint) for endpoint in endpoints}
    with Netlink() as kernel:
        return [
            Orphan(namespace, link)
            for namespace in uppers.namespace_ids(kernel)
            for link in uppers.macvlans(kernel, namespace)
            if link.group == _group(marks) and not valid.intersection(link.altnames)
        ]


def delete_orphan(orphan: Orphan) -> None:
    """Delete it; idempotent. Raises `OSError`."""
    name = next((name for name in orphan.link.altnames if name.startswith("sampan-")), "")
    where = orphan.namespace  # without a name: of a daemon that was killed before it gave one
    request = uppers.delete_by_altname(name, where) if name else uppers.delete_by_index(orphan.link.index, where)
    with Netlink() as kernel:
        _run_if_there(kernel, request)


def damage(endpoint: Endpoint, netns: int, parent: Link | None, given: Options, marks: Marks) -> list[str]:
    """Name what is wrong about a link that is there. Raises `OSError`."""
    found = call_in_netns(netns, lambda: _find(endpoint.interface))
    if found is None:
        return []
    wrong = []
    if parent is None or found.lower != parent.index:
        wrong.append(f"link {found.name} does not stand on the network's parent")
    if found.mode != given.mode:
        wrong.append(f"link {found.name} is in mode {found.mode}, the network in mode {given.mode}")
    if altname(marks, endpoint) not in found.altnames:
        wrong.append(f"link {found.name} has lost its name {altname(marks, endpoint)}")
    return wrong


def rehearse(parent: Link, given: Options, marks: Marks) -> None:
    """Make a link on the parent in a namespace that goes away at once. Raises `OSError`: see `Driver.attach`."""
    netns = new_netns()

    def make() -> None:
        with Netlink() as kernel:
            kernel.run(uppers.add_macvlan("trial", lower=parent.index, mode=given.mode, netns=netns, mtu=given.mtu))

    try:
        _once_free(make, lambda: _is_taken(parent, "", marks))
        call_in_netns(netns, lambda: _discard("trial"))  # now: in mode passthru nobody else has the parent until then
    finally:
        os.close(netns)


def _once_free(attempt: Callable[[], T], is_taken: Callable[[], bool]) -> T:
    """Try until what a sandbox had that has just ended is free again: its hardware address, or in passthru the parent.

    The kernel takes a namespace apart when it comes to it, some 20 ms later; nobody can see one on its way, or is told of
    its end. What a living endpoint has is refused at once.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return attempt()
        except (OSError, SampanError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            busy = isinstance(cause, OSError) and cause.errno in (errno.EADDRINUSE, errno.EINVAL)
            if not busy or time.monotonic() > deadline or is_taken():
                raise
        time.sleep(_PAUSE)


def _is_taken(parent: Link, mac: str, marks: Marks) -> bool:
    """Say whether the parent or a link on it, of a living endpoint or of the host, has this hardware address; "": any."""
    with Netlink() as kernel:
        here = uppers.macvlans(kernel)
        there = [link for namespace in uppers.namespace_ids(kernel) for link in uppers.macvlans(kernel, namespace)]
    living = here + [link for link in there if link.group == _group(marks)]  # of others we can't know what they stand on
    taken = {link.mac for link in living if link.lower == parent.index}
    return mac in taken | {parent.mac} if mac else bool(taken)


def _group(marks: Marks) -> int:
    return int(marks.engine_id, 16)


def _mark(endpoint: Endpoint, mark: str) -> Macvlan:
    """Name the link, in its sandbox; give it."""
    with Netlink() as kernel:
        kernel.run(uppers.add_altname(endpoint.interface, mark))
    made = _find(endpoint.interface)
    if made is None:
        raise OSError(errno.ENODEV, f"link {endpoint.interface} was made and is gone again")
    return made


def _find(name: str) -> Macvlan | None:
    with Netlink() as kernel:
        return next((link for link in uppers.macvlans(kernel) if link.name == name), None)


def _discard(name: str) -> None:
    with Netlink() as kernel:
        kernel.discard(name)


def _run_if_there(kernel: Netlink, request: Request) -> None:
    try:
        kernel.run(request)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL):  # it, or its namespace, is gone
            raise
