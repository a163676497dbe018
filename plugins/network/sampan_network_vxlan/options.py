"""A network's options (`network create -d vxlan -o`). They are this machine's: only VNI and port are the same on all."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument
from sampan.linux.netlink import is_link_name

VNI, PORT, REMOTES, GROUP, PARENT, LOCAL, LEARNING = "vni", "port", "remotes", "group", "parent", "local", "learning"
MTU = "com.docker.network.driver.mtu"

_KNOWN = (VNI, PORT, REMOTES, GROUP, PARENT, LOCAL, LEARNING)
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}


@dataclass(frozen=True, slots=True)
class Options:
    """The options as values. All addresses are of one IP version; there is a `parent` where there are no `remotes`.

    `local` is the unspecified address where the route may choose; `group` and `parent` may be "", and `mtu` 0: the driver's.
    """

    vni: int
    port: int
    remotes: tuple[str, ...]
    group: str
    parent: str
    local: str
    learning: bool
    mtu: int

    @property
    def version(self) -> int:
        """The IP version that carries the tunnel."""
        return ipaddress.ip_address(self.local).version


def parse(options: Mapping[str, str], default_port: int) -> Options:
    """Read the options. Raises `InvalidArgument` that names the option, the value and what it may be.

    An unknown name is refused; one with a dot is Docker's or another program's, and none of ours.
    """
    _refuse_unknown(options)
    vni = _number(options, VNI, 1, (1 << 24) - 1)
    remotes = tuple(dict.fromkeys(_remote(item) for item in options.get(REMOTES, "").split(",") if item.strip()))
    group, parent, learning = _group(options), _parent(options), _boolean(options, LEARNING)
    _refuse_no_way(remotes, group, parent, learning=learning)
    return Options(
        vni=vni,
        port=_number(options, PORT, 1, 65535, default=default_port),
        remotes=remotes,
        group=group,
        parent=parent,
        local=_local(options, (*remotes, *([group] if group else []))),
        learning=learning,
        mtu=_number(options, MTU, 68, 65535, default=0),
    )


def _refuse_unknown(options: Mapping[str, str]) -> None:
    for key in options:
        if key not in _KNOWN and "." not in key:
            raise InvalidArgument(f"network option {key} is unknown to driver vxlan", remedy=f"it knows {', '.join(_KNOWN)}")


def _refuse_no_way(remotes: tuple[str, ...], group: str, parent: str, *, learning: bool) -> None:
    if remotes and group:
        raise InvalidArgument(f"network options {REMOTES} and {GROUP} exclude each other: both say where the flood goes")
    if not remotes and not group and learning:
        raise InvalidArgument(
            "nothing says where the other machines of the network are",
            remedy=f"-o {REMOTES}=ADDRESS,… or -o {GROUP}=MULTICAST; -o {LEARNING}=false if another program fills the table in",
        )
    if not remotes and not parent:
        raise InvalidArgument(f"without {REMOTES} a vxlan network needs a link to send by", remedy=f"-o {PARENT}=LINK")


def _number(options: Mapping[str, str], key: str, low: int, high: int, *, default: int | None = None) -> int:
    value = options.get(key, "")
    if default is not None and value in ("", "0"):
        return default
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and low <= int(value) <= high):
        cause = f"{key}={value!r} is none" if value else f"{key} is missing"
        raise InvalidArgument(f"network option {cause}", remedy=f"a number from {low} to {high}")
    return int(value)


def _boolean(options: Mapping[str, str], key: str) -> bool:
    value = options.get(key, "true")
    if value not in _TRUE | _FALSE:
        raise InvalidArgument(f"network option {key}={value!r} is not a truth value", remedy="say true or false")
    return value in _TRUE


def _parent(options: Mapping[str, str]) -> str:
    value = options.get(PARENT, "")
    if value and not is_link_name(value):
        raise InvalidArgument(f"network option {PARENT}={value!r} is no link name", remedy="say one that `ip link` shows")
    return value


def _remote(text: str) -> str:
    address = _address(REMOTES, text)
    if address.is_multicast or address.is_unspecified:
        raise InvalidArgument(f"network option {REMOTES}: {text.strip()} is not the address of a machine")
    return str(address)


def _group(options: Mapping[str, str]) -> str:
    if not options.get(GROUP):
        return ""
    address = _address(GROUP, options[GROUP])
    if not address.is_multicast:
        raise InvalidArgument(f"network option {GROUP}={options[GROUP]} is no multicast address", remedy="such as 239.1.1.1")
    return str(address)


def _local(options: Mapping[str, str], others: tuple[str, ...]) -> str:
    versions = {ipaddress.ip_address(address).version for address in others}
    if options.get(LOCAL):
        local = _address(LOCAL, options[LOCAL])
    else:
        local = ipaddress.IPv6Address("::") if versions == {6} else ipaddress.IPv4Address("0.0.0.0")
    if versions - {local.version}:
        raise InvalidArgument(f"network options {REMOTES}, {GROUP} and {LOCAL} must be addresses of one IP version")
    return str(local)


def _address(key: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError as error:
        raise InvalidArgument(f"network option {key}: {text.strip()!r} is no IP address") from error
    if address.version == 6 and address.scope_id is not None:
        raise InvalidArgument(f"network option {key}: {text.strip()!r} names a link", remedy=f"do that by -o {PARENT}=LINK")
    return address
