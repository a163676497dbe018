"""Published ports: from the API's bindings to ranges, and back."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sampan.api.errors import InvalidArgument
from sampan.api.network import PortMapping
from sampan.api.types import HostConfig, PortBinding
from sampan.engine.proxy import Proxy

PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> tuple[int, str]:
    """Read `80/tcp` (or `80`). Raises `InvalidArgument` in Docker's words."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid port specification: {text!r}: unknown protocol {protocol!r}")
    return _port(number, text), protocol


def _port(number: str, text: str) -> int:
    if not number.isascii() or not number.isdigit() or len(number) > 5 or not 0 < int(number) < 65536:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return int(number)


def mappings(host: HostConfig, exposed: Iterable[str], unspecified: Sequence[str] = ("",)) -> list[PortMapping]:
    """Give what is to be published, neighbouring ports joined to ranges. Host port 0 lets the driver choose.

    `unspecified`: the host's addresses for what names none.
    """
    bindings: dict[str, Sequence[PortBinding]] = {
        key: value or [PortBinding()] for key, value in host.port_bindings.items()
    }
    if host.publish_all_ports:
        for port in exposed:
            bindings.setdefault(port, [PortBinding()])
    return join(
        replace(mapping, host_ip=address)
        for port, items in bindings.items()
        for mapping in (_mapping(port, binding) for binding in items)
        for address in ([mapping.host_ip] if mapping.host_ip else unspecified)
    )


def _mapping(port: str, binding: PortBinding) -> PortMapping:
    number, protocol = parse_port(port)
    if binding.host_ip:
        try:
            ipaddress.ip_address(binding.host_ip if "%" not in binding.host_ip else "")  # a zone is any text: Docker takes none
        except ValueError:
            raise InvalidArgument(f"invalid IP address: {binding.host_ip}") from None
    text = binding.host_port
    if not text or text == "0":
        return PortMapping(protocol, number, 0, binding.host_ip)
    low, separator, high = text.partition("-")
    first = _port(low, text)
    last = _port(high, text) if separator else first
    if last < first:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return PortMapping(protocol, number, first, binding.host_ip, host_port_end=last if last > first else 0)


def join(single: Iterable[PortMapping]) -> list[PortMapping]:
    """Join mappings that continue each other."""
    joined: list[PortMapping] = []
    for item in sorted(set(single), key=lambda m: (m.protocol, m.host_ip, m.host_port, m.container_port)):
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.host_port
            and not (last.host_port_end or item.host_port_end)
            and (last.protocol, last.host_ip) == (item.protocol, item.host_ip)
            and last.host_port + last.count == item.host_port
            and last.container_port + last.count == item.container_port
        ):
            joined[-1] = PortMapping(
                last.protocol, last.container_port, last.host_port, last.host_ip, last.count + item.count
            )
        else:
            joined.append(item)
    return joined


class PublishPolicy:
    """Where ports are published that name no address of the host: the setting `publish`."""

    def __init__(self, setting: str, proxy: Proxy) -> None:
        """`setting`: `all` or `loopback`."""
        self._setting = setting
        self._proxy = proxy

    def addresses(self) -> tuple[str, ...]:
        """Give the host's addresses; "" is every one."""
        if self._setting == "all":
            return ("",)
        return ("127.0.0.1", "::1") if self._proxy.port else ("127.0.0.1",)


def shown(ports: Iterable[tuple[str, int, int, str, int]], *, ipv6: bool) -> Mapping[str, list[dict[str, str]]]:
    """Give published ports as `NetworkSettings.Ports` shows them. `ipv6`: every address is those of IPv6 too."""
    result: dict[str, list[dict[str, str]]] = {}
    for protocol, container_port, host_port, host_ip, count in ports:
        everywhere = ["0.0.0.0", "::"] if ipv6 and protocol != "sctp" else ["0.0.0.0"]
        for offset in range(count):
            entries = result.setdefault(f"{container_port + offset}/{protocol}", [])
            for address in [host_ip] if host_ip else everywhere:
                entries.append({"HostIp": address, "HostPort": str(host_port + offset) if host_port else ""})
    return result
