"""Names of a container's network interfaces: eth0 and on, or as asked for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sampan.api.errors import Conflict, InvalidArgument

PREFIX = "com.docker.network.container_iface_prefix"
"""A network's option: what the names begin with, instead of `eth`."""

NAME = "com.docker.network.endpoint.ifname"
"""An endpoint's option: the whole name."""

MAX_NAME = 15
"""Bytes, IFNAMSIZ of linux/if.h without the end."""


def choose(network: Mapping[str, str], endpoint: Mapping[str, str], taken: Collection[str]) -> str:
    """Give an interface's name by the options of network and endpoint. Raises `InvalidArgument`, `Conflict`."""
    if name := endpoint.get(NAME):
        _check(name)
        if name in taken:
            raise Conflict(f"invalid interface name {name!r}: the container has one of this name", remedy="choose another")
        return name
    prefix = network.get(PREFIX) or "eth"
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    _check(f"{prefix}{number}")
    return f"{prefix}{number}"


def _check(name: str) -> None:
    """Refuse what the kernel refuses, dev_valid_name in net/core/dev.c, and the loopback's name."""
    bad = name in (".", "..", "lo", "all", "default") or any(letter in "/:%" or letter.isspace() for letter in name)
    if bad or not name.isprintable() or not 0 < len(name.encode()) <= MAX_NAME:
        raise InvalidArgument(
            f"invalid interface name {name[:64]!r}", remedy=f"choose one of at most {MAX_NAME} bytes, without / : % and space"
        )
