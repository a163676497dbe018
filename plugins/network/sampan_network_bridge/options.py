"""A network's options (`network create -o`), by Docker's names; names that are not the bridge driver's are
ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.api.errors import InvalidArgument

NAME = "com.docker.network.bridge.name"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
MTU = "com.docker.network.driver.mtu"

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_LINK_NAME = re.compile(r'[^/\s:"]{1,15}')


@dataclass(frozen=True, slots=True)
class Options:
    """The options as values. `bridge_name` "" leaves the choice to the driver, `mtu` 0 too; `host_binding` ""
    is any.
    """

    bridge_name: str = ""
    icc: bool = True
    masquerade: bool = True
    host_binding: str = ""
    mtu: int = 0


def parse(options: Mapping[str, str]) -> Options:
    """Read the options. Raises `InvalidArgument` that names the option, the value and what it may be."""
    return Options(
        bridge_name=_link_name(options),
        icc=_boolean(options, ICC),
        masquerade=_boolean(options, MASQUERADE),
        host_binding=_address(options),
        mtu=_mtu(options),
    )


def _boolean(options: Mapping[str, str], key: str) -> bool:
    value = options.get(key, "true")
    if value not in _TRUE | _FALSE:
        raise InvalidArgument(f"network option {key}={value!r} is not a truth value", remedy="say true or false")
    return value in _TRUE


def _link_name(options: Mapping[str, str]) -> str:
    value = options.get(NAME, "")
    if value and not (_LINK_NAME.fullmatch(value) and value not in (".", "..")):
        raise InvalidArgument(
            f"network option {NAME}={value!r} is no link name", remedy="1 to 15 bytes without / : or space"
        )
    return value


def _address(options: Mapping[str, str]) -> str:
    value = options.get(HOST_BINDING, "")
    try:
        address = ipaddress.IPv4Address(value or "0.0.0.0")
    except ValueError as error:
        raise InvalidArgument(f"network option {HOST_BINDING}={value!r} is no IPv4 address") from error
    return "" if address.is_unspecified else str(address)


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(MTU, "0")
    if not value.isdecimal() or not (int(value) == 0 or 68 <= int(value) <= 65535):
        raise InvalidArgument(f"network option {MTU}={value!r} is no MTU", remedy="a number of bytes from 68 to 65535")
    return int(value)
