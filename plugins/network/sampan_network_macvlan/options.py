"""A network's options (`network create -o`), by Docker's names; names that are not the macvlan driver's are ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument
from sampan.linux.netlink import is_link_name
from sampan.linux.uppers import MODES

PARENT = "parent"
MODE = "macvlan_mode"
MTU = "com.docker.network.driver.mtu"

_VLAN = re.compile(r"(.+)\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Options:
    """The options as values. `parent` "": none is named; `mtu` 0: the parent's."""

    parent: str = ""
    mode: str = "bridge"
    mtu: int = 0

    @property
    def vlan(self) -> tuple[str, int] | None:
        """Give link and VLAN number of a parent that is called LINK.NUMBER."""
        found = _VLAN.fullmatch(self.parent)
        return (found[1], int(found[2])) if found and 1 <= int(found[2]) <= 4094 else None


def parse(options: Mapping[str, str]) -> Options:
    """Read the options. Raises `InvalidArgument` that names the option, the value and what it may be."""
    return Options(parent=_parent(options), mode=_mode(options), mtu=_mtu(options))


def _parent(options: Mapping[str, str]) -> str:
    value = options.get(PARENT, "")
    if value == "lo":
        raise InvalidArgument("loopback interface is not a valid macvlan parent link", remedy="name a link to a network")
    if value and not is_link_name(value):
        raise InvalidArgument(f"network option {PARENT}={value!r} is no link name", remedy="say one that `ip link` shows")
    return value


def _mode(options: Mapping[str, str]) -> str:
    value = options.get(MODE, "") or "bridge"
    if value not in MODES:
        raise InvalidArgument(
            f"requested macvlan mode '{value}' is not valid, 'bridge' mode is the macvlan driver default",
            remedy=f"say one of {', '.join(MODES)}",
        )
    return value


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(MTU, "0")
    if not (value.isdecimal() and len(value) < 10) or not (int(value) == 0 or 68 <= int(value) <= 65535):
        raise InvalidArgument(f"network option {MTU}={value!r} is no MTU", remedy="a number of bytes from 68 to 65535")
    return int(value)
