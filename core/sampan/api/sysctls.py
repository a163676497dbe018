"""Switches of one interface in a sandbox, as an endpoint's options name them (`--driver-opt`)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.api.errors import InvalidArgument

__all__ = ["OPTION", "interface_sysctls"]

OPTION = "com.docker.network.endpoint.sysctls"
"""Comma-separated; IFNAME stands for the interface: `net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.…`."""

_SYSCTL = re.compile(r"net\.(ipv4|ipv6|mpls)\.([a-z0-9_]+)\.(?:IFNAME|ifname)\.([a-z0-9_]+)=(.*)", re.DOTALL)


def interface_sysctls(options: Mapping[str, str], interface: str) -> tuple[tuple[str, str], ...]:
    """Give the names under `/proc/sys/net`, and values, that the options ask for. Raises `InvalidArgument`."""
    found = []
    for text in options[OPTION].split(",") if options.get(OPTION) else ():
        match = _SYSCTL.fullmatch(text)
        if match is None:
            raise InvalidArgument(
                f"unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
                "'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        family, group, name, value = match.groups()
        found.append((f"{family}/{group}/{interface}/{name}", value))
    return tuple(found)
