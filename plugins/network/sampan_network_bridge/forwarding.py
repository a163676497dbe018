"""Forwarding of packets between the host's links, without which no container reaches out. It is only ever turned on."""

from __future__ import annotations

import logging
from pathlib import Path

from sampan.api.errors import Unsupported
from sampan.linux.netlink import Netlink
from sampan.linux.sysctl import set_sysctl

log = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")  # the calling thread's network namespace decides what is seen here


def enable(version: int) -> None:
    """Let the host forward packets of this IP version. Raises `OSError`, `Unsupported` where the kernel has none of it."""
    if version == 6 and not (_SYSCTL / "ipv6").exists():
        raise Unsupported("forward IPv6: this host has none", remedy="boot it without ipv6.disable=1, or leave out --ipv6")
    name = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[version]
    if (_SYSCTL / name).read_text().strip() == "1":
        return
    if version == 6:
        _go_on_listening_to_routers()
    set_sysctl(name, "1")
    log.warning("turned on %s: this host now forwards between all its links, not only the containers'", name)


def _go_on_listening_to_routers() -> None:
    """Keep the host its own IPv6 routes and addresses.

    A host that forwards drops at once what it learnt from routers, and hears them no more, unless a link's `accept_ra` is 2
    (Documentation/networking/ip-sysctl.rst). Links that do not hear them now will not then either.
    """
    with Netlink() as kernel:
        links = [link.name for link in kernel.links() if not link.master and link.name != "lo"]  # a bridge's port hears nothing itself
    listening = [name for name in links if _accept_ra(name) == "1" and set_sysctl(f"ipv6/conf/{name}/accept_ra", "2")]
    if listening:
        log.warning("set accept_ra of %s to 2: they listen to routers as before", ", ".join(listening))


def _accept_ra(link: str) -> str:
    try:
        return (_SYSCTL / "ipv6/conf" / link / "accept_ra").read_text().strip()
    except FileNotFoundError:
        return ""  # it went meanwhile, or has no IPv6
